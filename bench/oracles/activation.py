"""Non-linearities beside PyTorch's or their equations."""

from fastcnn import ReLU
from fastcnn.bench.oracles.operation import Operation

OPERATIONS = [Operation("ReLU", ReLU, ((3, 5, 7),), lambda torch, xs, params: torch.relu(xs[0]))]
