"""PyTorch's side of the layers beside convolution: the same numbers as the reference room, in each layout."""

import numpy as np
import pytest

from fastcnn.backend import get
from fastcnn.bench.cases import activation as bench_activation
from fastcnn.bench.cases import loss as bench_loss
from fastcnn.bench.cases import optimizer as bench_optimizer
from fastcnn.bench.cases.layers import LAYERS
from fastcnn.bench.shapes import activation as elementwise
from fastcnn.bench.shapes import conv_transpose as transposed
from fastcnn.bench.shapes import linear as fully_connected
from fastcnn.bench.shapes import loss as criteria
from fastcnn.bench.shapes import optimizer as stepping
from fastcnn.bench.shapes import pool as pooling
from fastcnn.bench.shapes import regroup as regrouping
from fastcnn.kernels.reference import activation, conv, linear, pool

torch = pytest.importorskip("torch", reason="PyTorch is the peer")

from fastcnn.bench.peer import torch_layers, torch_loss, torch_optimizer  # noqa: E402 - they import torch

TRANSPOSED = [
    "mb2ic3ih5oc4kh4sh2ph1", "mb1g2ic4ih3iw4oc6oh6ow9kh3kw2sh2sw2ph1pw0", "mb2ic3iw5oc2kw3dw1", "mb1ic2id3oc3kd2sd2",
]  # fmt: skip
POOLS = [
    "max:mb2ic3ih9kh3sh2ph1", "max:mb1ic2ih8oh4kh3sh2ph0", "avg_p:mb2ic3ih9kh3sh2ph1", "avg_np:mb2ic3ih9kh3sh2ph1",
    "avg_p:mb1ic2ih8oh5kh3sh2ph1", "max:mb1ic3iw20kw3sw2pw1dw2", "avg_np:mb1ic2id5kd3pd1",
]  # fmt: skip


@pytest.fixture(params=torch_layers.LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture
def tensor(layout):
    """Return a maker of tensors from channels-last arrays, in the layout."""

    def make(array, rank, axes=(0, 4, 1, 2, 3)):
        array = array.transpose(axes)
        if rank < 3:
            array = array.squeeze(2)
        return torch_layers.laid_out(layout, [torch.from_numpy(array.copy())])[0]

    return make


def array_of(result, axes=(0, 2, 3, 4, 1)):
    """Return a result as a channels-last array of five axes."""
    out = result if isinstance(result, torch.Tensor) else next(t for t in result if t is not None)
    out = out if out.dim() == 5 else out[:, :, None]
    return out.numpy().transpose(axes)


def whole(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.integers(-3, 4, shape).astype(np.float64) for shape in shapes]


@pytest.mark.parametrize("text", TRANSPOSED)
def test_transposed_convolution(text, tensor):
    problem = transposed.parse(text)
    c = problem.adjoint
    x, w, dy = whole(0, c.y_shape, c.w_shape, c.x_shape)
    y, dx, dw = (np.empty(shape) for shape in (c.x_shape, c.y_shape, c.w_shape))
    conv.conv_backward_input(x, w, c.problem, y)
    conv.conv_forward(dy, w, None, c.problem, False, dx)
    conv.conv_backward_weight(dy, x, c.problem, dw)
    tensors = tensor(x, c.rank), tensor(w, c.rank, (4, 3, 0, 1, 2)), tensor(dy, c.rank)
    stride, padding, dilation, more = torch_layers.sizes(c, c.stride, c.padding, c.dilation, problem.output_padding)

    def result(pass_name):
        return torch_layers.conv_call(pass_name, *tensors, stride, padding, dilation, c.groups, more)()

    assert np.array_equal(array_of(result("forward")), y)
    assert np.array_equal(array_of(result("backward_input")), dx)
    assert np.array_equal(array_of(result("backward_weight"), (2, 3, 4, 1, 0)), dw)


@pytest.mark.parametrize("text", POOLS)
def test_pooling(text, tensor):
    problem = pooling.parse(text)
    c = problem.windows
    x = np.random.default_rng(0).permutation(np.prod(c.x_shape)).astype(np.float64).reshape(c.x_shape)
    (dy,) = whole(1, c.y_shape)
    y, winner, dx = np.empty(c.y_shape), np.empty(c.y_shape, np.int32), np.empty(c.x_shape)
    if problem.kind == "max":
        how = (c.window, c.stride, problem.pads, c.dilation)
        pool.max_pool_forward(x, *how, y, winner)
        pool.max_pool_backward_input(dy, winner, *how, dx)
        call = torch_layers.max_pool_call
    else:
        how = (c.window, c.stride, problem.pads, problem.kind == "avg_p", 0)
        pool.avg_pool_forward(x, *how, y)
        pool.avg_pool_backward_input(dy, *how, dx)
        call = torch_layers.avg_pool_call
    tensors = tensor(x, c.rank), tensor(dy, c.rank)
    np.testing.assert_allclose(array_of(call(problem, "forward", *tensors)()), y, rtol=1e-14)
    np.testing.assert_allclose(array_of(call(problem, "backward_input", *tensors)()), dx, rtol=1e-14, atol=1e-14)


def test_linear():
    x, w, dy = whole(0, (3, 7), (7, 5), (3, 5))
    y, dx, dw = np.empty((3, 5)), np.empty((3, 7)), np.empty((7, 5))
    linear.linear_forward(x, w, None, False, y)
    linear.linear_backward_input(dy, w, dx)
    linear.linear_backward_weight(x, dy, dw)
    for weight in (torch.from_numpy(w.T.copy()), torch.from_numpy(w).t()):
        arrays = torch.from_numpy(x), weight, torch.from_numpy(dy)
        assert np.array_equal(torch_layers.linear_call("forward", *arrays)(), y)
        assert np.array_equal(torch_layers.linear_call("backward_input", *arrays)(), dx)
        gradient = torch_layers.linear_call("backward_weight", *arrays)()
        assert np.array_equal(gradient.t(), dw)
        assert gradient.stride() == weight.stride()


@pytest.mark.parametrize("kind", elementwise.KINDS)
def test_activation(kind, tensor):
    x, dy = np.random.default_rng(0).standard_normal((2, 2, 1, 4, 5, 3))
    y, dx, gain = np.empty_like(x), np.empty_like(x), np.arange(3.0)
    how = {"gain": (gain,), "elementwise": (bench_activation.users_f,)}.get(
        kind, bench_activation.NUMBERS.get(kind, ())
    )
    getattr(activation, f"{kind}_forward")(x, *how, y)
    backward = getattr(activation, f"{kind}_backward_input")
    if kind == "gain":
        backward(gain, dy, dx)
    else:
        how = (bench_activation.users_df,) if kind == "elementwise" else how
        backward(y if kind in bench_activation.FROM_OUTPUT else x, dy, *how, dx)
    tensors = tensor(x, 2), tensor(dy, 2)
    for pass_name, ours in (("forward", y), ("backward_input", dx)):
        theirs = array_of(torch_layers.activation_call(kind, pass_name, *tensors)())
        np.testing.assert_allclose(theirs, ours, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", criteria.KINDS)
@pytest.mark.parametrize("tensor", ["mb9ic7", "mb2ic3ih4iw5"])
def test_loss(kind, tensor):
    problem = criteria.parse(f"{kind}:{tensor}")
    y, t = bench_loss._arrays(problem, np.dtype(np.float64))
    ours = bench_loss._bound(bench_loss.LOSSES[kind](), "reference", y, t)
    value = ours.forward()
    ours.backward()
    x, target = torch.from_numpy(y[:, 0]).movedim(-1, 1), torch.from_numpy(t[:, 0])
    if kind in torch_loss.BY_ROWS or tensor == "mb9ic7":
        x = x.movedim(1, -1).reshape(-1, problem.channels)
        target = target.reshape(x.shape if target.is_floating_point() else -1)
    elif target.is_floating_point():
        target = target.movedim(-1, 1)
    assert torch_loss.call(kind, "forward", x, target)().item() == pytest.approx(value, rel=1e-12)
    gradient = torch_loss.call(kind, "backward_input", x, target)()
    gradient = gradient.movedim(1, -1) if gradient.dim() > 2 else gradient
    np.testing.assert_allclose(gradient.numpy().reshape(ours.dy.shape), ours.dy, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("kind", criteria.KINDS)
@pytest.mark.parametrize("tensor", ["mb9ic7", "mb2ic3ih4iw5", "mb2ic3id2"])
def test_losses_have_as_many_elements_in_two_layouts(kind, tensor):
    problem = criteria.parse(f"{kind}:{tensor}")
    for pass_name, elements in (("forward", 1), ("backward_input", problem.elements)):
        calls = torch_loss.calls(problem, pass_name, "float32")
        assert [call().numel() for call in calls.values()] == [elements] * 2


@pytest.mark.parametrize("kind", stepping.KINDS)
def test_optimizer(kind):
    values, gradients = np.random.default_rng(0).standard_normal((2, 50))
    form = "fused" if stepping.KINDS[kind][0] in torch_optimizer.FUSED else "foreach"
    theirs = [torch_optimizer.call(kind, torch.tensor(values), torch.tensor(gradients), given) for given in ("", form)]
    ours = bench_optimizer.make(kind)
    for _ in range(3):
        ours.update(get("reference"), values, gradients)
        for step in theirs:
            np.testing.assert_allclose(step().numpy(), values, rtol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_every_request_is_answered_in_two_layouts(name):
    layer = LAYERS[name]
    shape = {
        "conv": "mb1ic2ih5oc3kh3", "depthwise": "mb1g2ic2ih5oc2kh3", "conv_transpose": "mb1ic2ih5oc3kh3",
        "pool": "mb1ic2ih4kh2sh2", "linear": "mb1ic4oc3", "activation": "mb1ic2ih4",
        "norm": "mb2ic2ih4",
        "regroup": "gate:mb1ic2ih4", "loss": "mb2ic3ih4", "optimizer": "mb1ic40",
    }[name]  # fmt: skip
    kernels = layer.kernels()
    for pass_name in kernels.PASSES:
        request = kernels.case(layer.parse(shape), pass_name, "auto", "float32").request
        calls = torch_layers.WORK[request["work"]](request)
        assert len(calls) == 2
        assert all(call() is not None for call in calls.values())


@pytest.mark.parametrize("kind", regrouping.KINDS)
def test_every_regrouping_gives_as_many_elements(kind):
    layer = LAYERS["regroup"]
    for pass_name in layer.kernels().PASSES:
        problem = layer.parse(f"{kind}:mb2ic3ih4iw5")
        request = layer.kernels().case(problem, pass_name, "auto", "float32").request
        of_outputs = {
            "concat": {"forward": 240}.get(pass_name, 120),
            "gate": {"forward": 120}.get(pass_name, 6),
            **dict.fromkeys(regrouping.MODES, {"forward": 252}.get(pass_name, 120)),
        }
        for call in torch_layers.WORK["regroup"](request).values():
            results = call()
            given = results if isinstance(results, list | tuple) else [results]
            assert given[0].numel() == of_outputs.get(kind, 120)


def test_descriptors_reach_the_worker_whole():
    for module, text in ((fully_connected, "mb1ic4oc3"), (elementwise, "relu:mb1ic2id3ih4iw5")):
        assert module.parse(module.parse(text).descriptor()) == module.parse(text)
