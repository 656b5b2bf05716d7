"""The machine's roofs: peak arithmetic and memory bandwidth, measured once and recorded."""
