"""How normalizations run: sums over columns (channels) and along rows."""
