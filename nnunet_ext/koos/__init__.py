"""Koos grading from volumes and tumour masks."""
