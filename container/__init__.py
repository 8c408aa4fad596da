"""The program of the image: reads a case or a folder, predicts, writes."""
