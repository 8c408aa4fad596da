"""Public datasets' own folder layouts: each module finds the cases of one layout and opens no image."""
