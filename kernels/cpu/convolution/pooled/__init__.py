"""Convolution, ReLU and max pooling in one pass."""
