"""PyTorch's side of the other kinds of pooling, as its users call them: the gradient through autograd."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as torch_functional

from fastcnn.bench.shapes.pool import SIGMAS_IN_A_WINDOW, Pooling
from fastcnn.kernels.sampling import gaussian_weights

functional: Any = torch_functional  # whose types want tuples, and take lists

Operation = Callable[[torch.Tensor], torch.Tensor]


def operation(problem: Pooling, x: torch.Tensor) -> Operation:
    """Return the operation on images of x's number type; what it needs beside them is made now."""
    c, kind = problem.windows, problem.kind
    image, output, window, stride, pads = (list(t[1:]) for t in (c.image, c.output, c.window, c.stride, c.padding))
    if kind in ("lp1", "lp2"):
        return lambda x: functional.lp_pool2d(x, float(kind[2:]), window, stride)
    if kind == "gauss":
        rows, columns = (torch.tensor(gaussian_weights(k, k / SIGMAS_IN_A_WINDOW), dtype=x.dtype) for k in window)
        weights = torch.outer(rows / rows.sum(), columns / columns.sum()).expand(c.channels, 1, *window).contiguous()
        return lambda x: functional.conv2d(x, weights, None, stride, pads, groups=c.channels)
    if kind == "subsample":
        return lambda x: x[:, :, :: stride[0], :: stride[1]].clone()
    if kind == "adaptive_avg":
        return lambda x: functional.adaptive_avg_pool2d(x, output)
    if kind == "adaptive_max":
        return lambda x: functional.adaptive_max_pool2d_with_indices(x, output)[0]
    if kind == "unpool":
        starts = torch.arange(output[0])[:, None] * stride[0] * image[1] + torch.arange(output[1]) * stride[1]
        taps = (torch.randint(size, x.shape) for size in window)
        inside = next(taps) * image[1] + next(taps)
        indices = torch.empty_like(x, dtype=torch.int64).copy_(starts + inside)
        return lambda x: functional.max_unpool2d(x, indices, window, stride, output_size=image)
    return lambda x: functional.interpolate(x, image, mode=kind)


def call(problem: Pooling, pass_name: str, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], object]:
    """Return a call of one pass."""
    run = operation(problem, x)
    if pass_name == "forward":

        def forward() -> torch.Tensor:
            with torch.no_grad():
                return run(x)

        return forward
    x.requires_grad_()
    y = run(x)
    return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)
