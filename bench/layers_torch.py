"""PyTorch's side of the layers: one pass of each, in every layout worth trying, as calls by layout.

Every call allocates its result anew, as PyTorch does for its users.
"""

from collections.abc import Callable
from typing import Any

import torch

from fastcnn.bench import elementwise, fully_connected, pool_torch, pooling, transposed
from fastcnn.bench.descriptor import Convolution, Triple, parse

Calls = dict[str, Callable[[], object]]

LAYOUTS = {
    "nchw": {4: torch.contiguous_format, 5: torch.contiguous_format},
    "channels_last": {4: torch.channels_last, 5: torch.channels_last_3d},
}


def random_tensors(dtype: str, *shapes: list[int]) -> list[torch.Tensor]:
    """Return tensors of random normals, contiguous."""
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=getattr(torch, dtype)) for shape in shapes]


def laid_out(layout: str, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors of 4 or 5 axes in a layout."""
    return [tensor.contiguous(memory_format=LAYOUTS[layout][tensor.dim()]) for tensor in tensors]


def rank_of(c: Convolution) -> int:
    """Return the number of spatial axes: PyTorch lays no 1-D image out channels last, so those run as one row."""
    return max(c.rank, 2)


def sizes(c: Convolution, *triples: Triple) -> list[list[int]]:
    """Return sizes along the spatial axes that PyTorch gets."""
    return [list(triple[3 - rank_of(c) :]) for triple in triples]


def conv_calls(request: dict[str, Any]) -> Calls:
    """Return one pass of a convolution in each layout."""
    c = parse(request["descriptor"])
    window, stride, dilation, output = sizes(c, c.window, c.stride, c.dilation, c.output)
    padding, image = torch_padding(c, rank_of(c))
    tensors = random_tensors(
        request["dtype"],
        [c.batch, c.channels, *image],
        [c.filters, c.channels // c.groups, *window],
        [c.batch, c.filters, *output],
    )
    calls: Calls = {}
    for layout in LAYOUTS:
        x, w, dy = laid_out(layout, tensors)
        calls[layout] = conv_call(request["pass"], x, w, dy, stride, padding, dilation, c.groups)
    return calls


def torch_padding(c: Convolution, rank: int) -> tuple[list[int], list[int]]:
    """Return (padding, image size) for PyTorch, which pads both sides alike.

    Where the same padding behind gives the same output size, that is it. Else the image is taken as
    padded beforehand, with no padding left to do, outside what is timed.
    """
    axes = list(zip(c.image, c.output, c.window, c.stride, c.dilation, c.pads, strict=True))[3 - rank :]
    if all((i + 2 * before - (k - 1) * d - 1) // s + 1 == o for i, o, k, s, d, (before, _) in axes):
        return [before for *_, (before, _) in axes], [axis[0] for axis in axes]
    return [0] * rank, [i + before + after for i, *_, (before, after) in axes]


def conv_call(
    pass_name: str,
    x: torch.Tensor,
    w: torch.Tensor,
    dy: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_padding: list[int] | None = None,
) -> Callable[[], object]:
    """Return a call that runs one pass; given an output padding, that of a transposed convolution."""
    is_transposed = output_padding is not None
    how = (stride, padding, dilation, is_transposed, output_padding or [0] * len(stride), groups)
    if pass_name == "forward":
        return lambda: torch.convolution(x, w, None, *how)
    wanted = [pass_name == "backward_input", pass_name == "backward_weight", False]
    return lambda: torch.ops.aten.convolution_backward(dy, x, w, None, *how, wanted)


def transposed_calls(request: dict[str, Any]) -> Calls:
    """Return one pass of a transposed convolution in each layout."""
    problem = transposed.parse(request["descriptor"])
    c = problem.adjoint
    image, output, window = sizes(c, c.output, c.image, c.window)
    stride, padding, dilation, more = sizes(c, c.stride, c.padding, c.dilation, problem.output_padding)
    tensors = random_tensors(
        request["dtype"],
        [c.batch, c.filters, *image],
        [c.filters, c.channels // c.groups, *window],
        [c.batch, c.channels, *output],
    )
    calls: Calls = {}
    for layout in LAYOUTS:
        x, w, dy = laid_out(layout, tensors)
        calls[layout] = conv_call(request["pass"], x, w, dy, stride, padding, dilation, c.groups, more)
    return calls


def pool_calls(request: dict[str, Any]) -> Calls:
    """Return one pass of a pooling in each layout."""
    problem = pooling.parse(request["descriptor"])
    c = problem.windows
    image, output = sizes(c, c.image, c.output)
    tensors = random_tensors(request["dtype"], [c.batch, c.channels, *image], [c.batch, c.channels, *output])
    call = max_pool_call if problem.kind == "max" else avg_pool_call
    if problem.kind in pooling.OTHERS:
        call = pool_torch.call
        tensors = tensors[::-1] if problem.kind in pooling.ENLARGING else tensors
    calls: Calls = {}
    for layout in LAYOUTS:
        x, dy = laid_out(layout, tensors)
        calls[layout] = call(problem, request["pass"], x, dy)
    return calls


def max_pool_call(problem: pooling.Pooling, pass_name: str, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], object]:
    """Return a call of one pass of max-pooling, which keeps the winners as training does."""
    c, aten = problem.windows, torch.ops.aten
    how = sizes(c, c.window, c.stride, c.padding, c.dilation)
    flat = rank_of(c) == 2
    forward = aten.max_pool2d_with_indices if flat else aten.max_pool3d_with_indices
    if pass_name == "forward":
        return lambda: forward(x, *how, problem.ceil_mode)
    _, winners = forward(x, *how, problem.ceil_mode)
    backward = aten.max_pool2d_with_indices_backward if flat else aten.max_pool3d_with_indices_backward
    return lambda: backward(dy, x, *how, problem.ceil_mode, winners)


def avg_pool_call(problem: pooling.Pooling, pass_name: str, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], object]:
    """Return a call of one pass of average pooling."""
    c, aten = problem.windows, torch.ops.aten
    flat = rank_of(c) == 2
    how = (*sizes(c, c.window, c.stride, c.padding), problem.ceil_mode, problem.kind == "avg_p", None)
    if pass_name == "forward":
        forward = aten.avg_pool2d if flat else aten.avg_pool3d
        return lambda: forward(x, *how)
    backward = aten.avg_pool2d_backward if flat else aten.avg_pool3d_backward
    return lambda: backward(dy, x, *how)


def linear_calls(request: dict[str, Any]) -> Calls:
    """Return one pass of a fully connected layer, the weight kept as (out, in) or as (in, out)."""
    problem = fully_connected.parse(request["descriptor"])
    N, F, K = problem.batch, problem.features, problem.outputs
    x, w, dy = random_tensors(request["dtype"], [N, F], [K, F], [N, K])
    weights = {"out_in": w, "in_out": w.t().contiguous().t()}
    return {layout: linear_call(request["pass"], x, weight, dy) for layout, weight in weights.items()}


def linear_call(pass_name: str, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor) -> Callable[[], object]:
    """Return a call of one pass; the weight's gradient comes in the layout of the weight w (K, F)."""
    if pass_name == "forward":
        return lambda: torch.nn.functional.linear(x, w)
    if pass_name == "backward_input":
        return lambda: torch.mm(dy, w)
    return (lambda: torch.mm(dy.t(), x)) if w.is_contiguous() else (lambda: torch.mm(x.t(), dy).t())


def activation_calls(request: dict[str, Any]) -> Calls:
    """Return one pass of an activation in each layout."""
    problem = elementwise.parse(request["descriptor"])
    shape = [problem.batch, problem.channels, *problem.image]
    tensors = random_tensors(request["dtype"], shape, shape)
    calls: Calls = {}
    for layout in LAYOUTS:
        x, dy = laid_out(layout, tensors)
        calls[layout] = relu_call(request["pass"], x, dy)
    return calls


def relu_call(pass_name: str, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], object]:
    """Return a call of one pass of the rectified linear unit."""
    if pass_name == "forward":
        return lambda: torch.relu(x)
    y = torch.relu(x)
    return lambda: torch.ops.aten.threshold_backward(dy, y, 0)


WORK: dict[str, Callable[[dict[str, Any]], Calls]] = {
    "conv": conv_calls,
    "conv_transpose": transposed_calls,
    "pool": pool_calls,
    "linear": linear_calls,
    "activation": activation_calls,
}
