"""Compiling, launching and the threads: what knows nothing of numerics."""
