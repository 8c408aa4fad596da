"""The translation methods, one file each."""
