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


class Twin(nn.Module):
    """The nodes of a network, run in order."""

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        super().__init__()
        made = [Add() if n["layer"] == "Add" else getattr(nn, n["layer"])(**n["arguments"]) for n in nodes[1:]]
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
