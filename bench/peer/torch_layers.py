"""PyTorch's side of the layers: one pass of each, in every layout worth trying, as calls by layout.

Every call allocates its result anew, as PyTorch does for its users.
"""

from collections.abc import Callable
from math import log
from typing import Any

import torch

from fastcnn.bench.peer import torch_loss, torch_optimizer, torch_pool
from fastcnn.bench.shapes import activation, conv_transpose, linear, loss, norm, optimizer, pool, regroup
from fastcnn.bench.shapes.convolution import Convolution, Triple, parse

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
    problem = conv_transpose.parse(request["descriptor"])
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
    problem = pool.parse(request["descriptor"])
    c = problem.windows
    image, output = sizes(c, c.image, c.output)
    tensors = random_tensors(request["dtype"], [c.batch, c.channels, *image], [c.batch, c.channels, *output])
    call = max_pool_call if problem.kind == "max" else avg_pool_call
    if problem.kind in pool.OTHERS:
        call = torch_pool.call
        tensors = tensors[::-1] if problem.kind in pool.ENLARGING else tensors
    calls: Calls = {}
    for layout in LAYOUTS:
        x, dy = laid_out(layout, tensors)
        calls[layout] = call(problem, request["pass"], x, dy)
    return calls


def max_pool_call(problem: pool.Pooling, pass_name: str, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], object]:
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


def avg_pool_call(problem: pool.Pooling, pass_name: str, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], object]:
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
    problem = linear.parse(request["descriptor"])
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
    problem = activation.parse(request["descriptor"])
    shape = [problem.batch, problem.channels, *problem.image]
    tensors = random_tensors(request["dtype"], shape, shape)
    calls: Calls = {}
    for layout in LAYOUTS:
        x, dy = laid_out(layout, tensors)
        calls[layout] = activation_call(problem.kind, request["pass"], x, dy)
    return calls


def activation_call(kind: str, pass_name: str, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], object]:
    """Return a call of one pass of an activation; the gradient of one that PyTorch lacks is what its autograd runs."""
    forward, backward = activations(x, dy)[kind]
    if pass_name == "forward":
        return lambda: forward(x)
    if backward is not None:
        y = forward(x)
        return lambda: backward(y)
    given = x.detach().requires_grad_()
    made = forward(given)
    return lambda: torch.autograd.grad(made, given, dy, retain_graph=True)


Forward = Callable[[torch.Tensor], torch.Tensor]
Backward = Callable[[torch.Tensor], torch.Tensor] | None


def activations(x: torch.Tensor, dy: torch.Tensor) -> dict[str, tuple[Forward, Backward]]:
    """Return what gives y from x, and dx from y, with the numbers of `cases/activation.py`; channel c has gain c."""
    aten, functional, k = torch.ops.aten, torch.nn.functional, 2.0
    gain = torch.arange(x.shape[1], dtype=x.dtype).view(-1, *[1] * (x.dim() - 2))
    return {
        "relu": (torch.relu, lambda y: aten.threshold_backward(dy, y, 0)),
        "leaky_relu": (
            lambda x: functional.leaky_relu(x, 0.01),
            lambda y: aten.leaky_relu_backward(dy, x, 0.01, False),
        ),
        "elu": (functional.elu, lambda y: aten.elu_backward(dy, 1.0, 1, 1, False, x)),
        "silu": (functional.silu, lambda y: aten.silu_backward(dy, x)),
        "gelu": (functional.gelu, lambda y: aten.gelu_backward(dy, x)),
        "gelu_tanh": (
            lambda x: functional.gelu(x, approximate="tanh"),
            lambda y: aten.gelu_backward(dy, x, approximate="tanh"),
        ),
        "hardswish": (functional.hardswish, lambda y: aten.hardswish_backward(dy, x)),
        "sigmoid": (torch.sigmoid, lambda y: aten.sigmoid_backward(dy, y)),
        "tanh": (torch.tanh, lambda y: aten.tanh_backward(dy, y)),
        "softplus": (
            lambda x: functional.softplus(x, k, 20.0),
            lambda y: aten.softplus_backward(dy, x, k, 20.0),
        ),
        "abs": (torch.abs, None),
        "soft_abs": (lambda x: 2 * functional.softplus(x, k) - x - (2 / k) * log(2), None),
        "softmax": (lambda x: torch.softmax(x, 1), lambda y: aten._softmax_backward_data(dy, y, 1, x.dtype)),
        "log_softmax": (
            lambda x: torch.log_softmax(x, 1),
            lambda y: aten._log_softmax_backward_data(dy, y, 1, x.dtype),
        ),
        "gain": (lambda x: x * gain, lambda y: dy * gain),
        "elementwise": (functional.softsign, None),
    }


def norm_calls(request: dict[str, Any]) -> Calls:
    """Return one pass of a normalization in each layout."""
    problem = norm.parse(request["descriptor"])
    shape = [problem.batch, problem.channels, *problem.image[3 - max(problem.rank, 2) :]]
    tensors = random_tensors(request["dtype"], shape, shape)
    calls: Calls = {}
    for layout in LAYOUTS:
        x, dy = laid_out(layout, tensors)
        calls[layout] = norm_call(problem, request["pass"], x, dy)
    return calls


def norm_call(problem: norm.Normalizing, pass_name: str, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], object]:
    """Return a call of one pass; gradients are those by x, weight and bias.

    Layer normalization is over the last axis: it gets x channels last whatever the layout's name, as its users have it.
    """
    if problem.kind == "layer":
        x, dy = (a.movedim(1, -1).contiguous() for a in (x, dy))
    C = problem.channels
    plain = problem.kind in ("response", "contrast")
    weight, bias = (torch.full([C], value, dtype=x.dtype, requires_grad=not plain) for value in (1.5, 0.5))
    mean, variance = torch.zeros(C, dtype=x.dtype), torch.ones(C, dtype=x.dtype)
    functional, window = torch.nn.functional, norm.WINDOW
    gauss = torch.ones([1, C, window, window], dtype=x.dtype) / (C * window**2)

    def contrast(x: torch.Tensor) -> torch.Tensor:
        """As PyTorch's users write it; a box stands for the Gaussian, and zeros beyond the border."""
        v = x - functional.conv2d(x, gauss, padding=window // 2)
        spread = functional.conv2d(v * v, gauss, padding=window // 2).sqrt()
        return v / torch.maximum(spread, spread.mean([2, 3], keepdim=True)).clamp(min=1e-5)

    training = pass_name != "inference"
    forward: Callable[[torch.Tensor], torch.Tensor] = {
        "batch": lambda x: functional.batch_norm(x, mean, variance, weight, bias, training, 0.1, 1e-5),
        "layer": lambda x: functional.layer_norm(x, [C], weight, bias, 1e-5),
        "group": lambda x: functional.group_norm(x, problem.groups, weight, bias, 1e-5),
        "instance": lambda x: functional.instance_norm(x, None, None, weight, bias, True, 0.1, 1e-5),
        "response": lambda x: functional.local_response_norm(x, window, 1e-4, 0.75, 1.0),
        "contrast": contrast,
    }[problem.kind]
    if pass_name != "backward":

        def call() -> torch.Tensor:
            with torch.no_grad():
                return forward(x)

        return call
    x.requires_grad_()
    y = forward(x)
    wanted = [x] if plain else [x, weight, bias]
    return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)


def regroup_calls(request: dict[str, Any]) -> Calls:
    """Return one pass of a regrouping in each layout."""
    problem = regroup.parse(request["descriptor"])
    shape = [problem.batch, problem.channels, *problem.image[3 - max(problem.rank, 2) :]]
    gate = [*shape[:2], *[1] * len(shape[2:])]
    padded = [*shape[:-2], shape[-2] + 2, shape[-1] + 2]
    joined = [shape[0], 2 * shape[1], *shape[2:]]
    tensors = random_tensors(request["dtype"], shape, shape, gate, padded, joined)
    return {layout: regroup_call(problem.kind, request["pass"], *laid_out(layout, tensors)) for layout in LAYOUTS}


def regroup_call(
    kind: str,
    pass_name: str,
    x: torch.Tensor,
    z: torch.Tensor,
    gate: torch.Tensor,
    padded: torch.Tensor,
    joined: torch.Tensor,
) -> Callable[[], object]:
    """Return a call of one pass; what PyTorch only views is made contiguous, as what follows would have to."""
    is_forward, sums = pass_name == "forward", list(range(2, x.dim()))
    other = torch.contiguous_format if x.is_contiguous(memory_format=LAYOUTS["channels_last"][x.dim()]) else None
    if kind in regroup.MODES:
        return pad_call(kind, is_forward, x, padded)
    if kind == "dropout":
        return lambda: torch.native_dropout(x, 0.5, True)[0] if is_forward else x * z * 2
    forward: dict[str, Callable[[], object]] = {
        "add": lambda: x + z,
        "concat": lambda: torch.cat([x, z], 1),
        "multiply": lambda: x * z,
        "gate": lambda: x * gate,
        "dropout2d": lambda: x * gate,
        "permute": lambda: x.contiguous(memory_format=other or LAYOUTS["channels_last"][x.dim()]),
    }
    backward: dict[str, Callable[[], object]] = {
        "concat": lambda: [part.clone() for part in joined.chunk(2, 1)],
        "gate": lambda: (x * z).sum(sums),
    }
    return forward[kind] if is_forward else backward.get(kind, forward[kind])


def pad_call(kind: str, is_forward: bool, x: torch.Tensor, padded: torch.Tensor) -> Callable[[], object]:
    """Return a call of one pass of padding by one pixel."""
    rim = [1, 1, 1, 1] + [0, 0] * (x.dim() - 4)
    if is_forward:
        return lambda: torch.nn.functional.pad(x, rim, mode=kind)
    given = x.detach().requires_grad_()
    y = torch.nn.functional.pad(given, rim, mode=kind)
    return lambda: torch.autograd.grad(y, given, padded, retain_graph=True)


def loss_calls(request: dict[str, Any]) -> Calls:
    """Return one pass of a loss in each layout."""
    return torch_loss.calls(loss.parse(request["descriptor"]), request["pass"], request["dtype"])


def optimizer_calls(request: dict[str, Any]) -> Calls:
    """Return a step of an optimizer in each of its forms."""
    return torch_optimizer.calls(optimizer.parse(request["descriptor"]), request["dtype"])


WORK: dict[str, Callable[[dict[str, Any]], Calls]] = {
    "conv": conv_calls,
    "conv_transpose": transposed_calls,
    "pool": pool_calls,
    "linear": linear_calls,
    "activation": activation_calls,
    "norm": norm_calls,
    "regroup": regroup_calls,
    "loss": loss_calls,
    "optimizer": optimizer_calls,
}
