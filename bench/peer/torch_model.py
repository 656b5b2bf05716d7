"""The PyTorch twin of one of our networks: the same layers and edges, in eager PyTorch.

A network comes as a list of nodes, {"layer": class name, "arguments": {...}, "inputs": [numbers of
nodes]}; node 0 is the network's input and has no layer, the last one is its output. Layers keep
PyTorch's names and arguments, so a node is `torch.nn.<layer>(**arguments)`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Add(nn.Module):
    """The sum of any number of inputs."""

    def forward(self, *terms: torch.Tensor) -> torch.Tensor:
        """Return the sum."""
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


class Concat(nn.Module):
    """The inputs' channels, one after the other."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        if axis != -1:
            raise ValueError(f"axis={axis} was given: the twin puts channels side by side, axis -1.")

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        """Return the parts side by side."""
        return torch.cat(parts, 1)


class Subsample(nn.Module):
    """Every (skip + 1)-th pixel of each axis."""

    def __init__(self, skip: int) -> None:
        super().__init__()
        self.pixels = slice(None, None, skip + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pixels."""
        return x[(slice(None), slice(None), *[self.pixels] * (x.ndim - 2))]


class PadChannels(nn.Module):
    """Channels of zeros around those of an image."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.added = [before, after]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the image with its new channels."""
        return nn.functional.pad(x, [0, 0] * (x.ndim - 2) + self.added)


def local_response_norm(size: int, kappa: float, lam: float, mu: float) -> nn.Module:
    """Return PyTorch's layer from the definition's numbers: it divides alpha by the size."""
    return nn.LocalResponseNorm(size, lam * size, mu, kappa)


# Layers that PyTorch lacks, or whose numbers it writes in another way; all others are its own.
OWN: dict[str, Callable[..., nn.Module]] = {
    "Add": Add, "Concat": Concat, "Subsample": Subsample, "PadChannels": PadChannels,
    "LocalResponseNorm": local_response_norm,
}  # fmt: skip


class Twin(nn.Module):
    """The nodes of a network, run in order."""

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        super().__init__()
        made = [(OWN.get(n["layer"]) or getattr(nn, n["layer"]))(**n["arguments"]) for n in nodes[1:]]
        self.layers = nn.ModuleList(made)
        self.inputs: list[list[int]] = [n["inputs"] for n in nodes[1:]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last node's output."""
        values = [x]
        for layer, inputs in zip(self.layers, self.inputs, strict=True):
            values.append(layer(*(values[i] for i in inputs)))
        return values[-1]


def build(nodes: list[dict[str, Any]]) -> nn.Module:
    """Return the twin, as nn.Sequential where the network is a chain."""
    twin = Twin(nodes)
    if all(inputs == [number] for number, inputs in enumerate(twin.inputs)):
        return nn.Sequential(*twin.layers)
    return twin


def random_batch(request: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (N, C, ...) of random normals and random labels, as the request's sizes say."""
    *size, channels = request["input_shape"]
    images = torch.randn(request["batch"], channels, *size, dtype=getattr(torch, request["dtype"]))
    return images, torch.randint(request["classes"], (request["batch"],))


def training_step(
    twin: nn.Module, images: torch.Tensor, labels: torch.Tensor, request: dict[str, Any]
) -> Callable[[], object]:
    """Return a call that does forward, loss, backward and update, and returns the loss."""
    twin.train()
    loss_of = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(twin.parameters(), lr=request["learning_rate"], momentum=request["momentum"])

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(twin(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def inference(twin: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    """Return a call that runs the network forward and keeps nothing for a backward pass."""
    twin.eval()

    def infer() -> torch.Tensor:
        with torch.inference_mode():
            output: torch.Tensor = twin(images)
            return output

    return infer
