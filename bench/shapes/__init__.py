"""The problems that are measured: their descriptors and the named sets."""
