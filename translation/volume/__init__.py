"""Volumes: grids, intensities, the recorded preparation, slabs and their consistency."""
