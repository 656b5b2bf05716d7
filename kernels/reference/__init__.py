"""The operations in plain NumPy, readable as their definition."""
