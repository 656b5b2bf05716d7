"""Layers that regroup, cut, join or drop elements, beside PyTorch's or their equations."""

from fastcnn.bench.oracles.operation import Operation

OPERATIONS: list[Operation] = []
