"""The resident predictor that the command line and the container share."""
