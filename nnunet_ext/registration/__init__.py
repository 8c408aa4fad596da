"""Pairwise registration, cycle-consistency scores, label propagation and the store on disk."""
