"""Normalizations beside PyTorch's or their equations."""

from fastcnn.bench.oracles.operation import Operation

OPERATIONS: list[Operation] = []
