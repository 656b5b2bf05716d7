"""Sums in a fixed order, whatever the number of threads."""
