"""Segmentation networks, generators, discriminators and projectors."""
