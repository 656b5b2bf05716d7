"""Convolution, ReLU and max-pooling in one pass: rooms against each other, the separate kernels, PyTorch, threads."""

from functools import partial
from importlib import import_module
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import describe
from sweeps import examples


@st.composite
def stages(draw, geometries):
    """Draw a convolution and windows that fit side by side into its output."""
    conv = draw(geometries)
    window = tuple(draw(st.integers(1, min(3, size))) for size in conv.output)
    pooled = tuple(size // taps for size, taps in zip(conv.output, window, strict=True))
    return conv, window, pooled


def stage(room, fill, conv, window, pooled, x, w, b, dy):
    """Return y, winner, dx, dw, db of one room."""
    how = described(conv, x, w), window
    shape = (x.shape[0], *pooled, w.shape[-1])
    y, winner = fill(
        partial(direct, room.conv_pool.conv_pool_forward), x, w, b, *how, shapes=[shape] * 2, dtype=[x.dtype, "uint8"]
    )
    outputs = [x.shape, w.shape, w.shape[-1:]]
    dx, dw, db = fill(room.conv_pool.conv_pool_backward, x, w, dy, winner, *how, shapes=outputs, dtype=x.dtype)
    return {"y": y, "winner": winner, "dx": dx, "dw": dw, "db": db}


def described(conv, x, w):
    """Return the problem of a stage's convolution."""
    return describe(x, (x.shape[0], *conv.output, w.shape[4]), w, conv.stride, conv.padding, conv.dilation)


def arrays(integers, seed, conv, pooled, N, C, K, dtype):
    """Return x, w, b, dy filled with whole numbers."""
    shapes = ((N, *conv.image, C), (*conv.window, C, K), (K,), (N, *pooled, K))
    return [integers(seed + i, shape, dtype) for i, shape in enumerate(shapes)]


@examples(60)
@given(data=st.data(), seed=st.integers(0, 9), N=st.integers(0, 3), C=st.integers(1, 40), K=st.integers(1, 40))
def test_rooms_agree_exactly(reference, cpu, fill, integers, draw_geometry, dtype, data, seed, N, C, K):
    conv, window, pooled = data.draw(stages(draw_geometry()))
    x, w, b, dy = arrays(integers, seed, conv, pooled, N, C, K, dtype)
    bias = b if data.draw(st.booleans(), "bias") else None
    got = stage(cpu, fill, conv, window, pooled, x, w, bias, dy)
    for name, value in stage(reference, fill, conv, window, pooled, x, w, bias, dy).items():
        np.testing.assert_array_equal(got[name], value, name)


def direct(kernel, *arguments):
    """Call a kernel of convolution for direct sums, which are exact on whole numbers."""
    return kernel(*arguments, "direct")


STAGES = {
    "lenet5": ((1, 28, 28), (1, 5, 5), 2, 1, 6),
    "many channels": ((1, 12, 14), (1, 3, 3), 1, 70, 50),
    "wide filter": ((1, 10, 40), (1, 7, 9), 0, 9, 4),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_of_networks_match_the_separate_kernels(room, fill, integers, fit, name):
    image, taps, pad, C, K = STAGES[name]
    conv = fit(image, taps, (1, 1, 1), ((0, 0), (pad, pad), (pad, pad)), (1, 1, 1))
    window, unpadded, one = (1, 2, 2), ((0, 0),) * 3, (1, 1, 1)
    pooled = tuple(size // step for size, step in zip(conv.output, window, strict=True))
    x, w, b, dy = arrays(integers, 3, conv, pooled, 7, C, K, "float32")
    got = stage(room, fill, conv, window, pooled, x, w, b, dy)

    problem = described(conv, x, w)
    full = (7, *conv.output, K)
    z = fill(partial(direct, room.conv.conv_forward), x, w, b, problem, True, shapes=[full], dtype="float32")
    pool = (window, window, unpadded, one)
    kinds = ["float32", "uint8"]
    y, winner = fill(room.pool.max_pool_forward, z, *pool, shapes=[dy.shape] * 2, dtype=kinds)
    np.testing.assert_array_equal(got["y"], y)
    assert 0.05 < np.mean(got["winner"] == prod(window)) < 0.95, "ReLU should cut some outputs and leave some"
    dz = fill(room.pool.max_pool_backward_input, dy, winner, *pool, shapes=[full], dtype="float32")
    dz = fill(room.activation.relu_backward_input, z, dz, shapes=[full], dtype="float32")
    for key, kernel, inputs, shape in (
        ("dx", partial(direct, room.conv.conv_backward_input), (dz, w), x.shape),
        ("dw", partial(direct, room.conv.conv_backward_weight), (x, dz), w.shape),
    ):
        np.testing.assert_array_equal(got[key], fill(kernel, *inputs, problem, shapes=[shape], dtype="float32"), key)
    np.testing.assert_array_equal(got["db"], dz.sum(axis=(0, 1, 2, 3)))


def test_gradients_that_nobody_wants_are_left_out(room, integers, fit):
    conv = fit((1, 9, 9), (1, 3, 3), (1, 1, 1), ((0, 0), (1, 1), (1, 1)), (1, 1, 1))
    x, w, b, dy = arrays(integers, 5, conv, (1, 4, 4), 2, 3, 8, "float64")
    how = described(conv, x, w), (1, 2, 2)
    y, winner = np.empty_like(dy), np.empty(dy.shape, np.uint8)
    room.conv_pool.conv_pool_forward(x, w, b, *how, y, winner)
    dx, dw, db, alone = np.empty_like(x), np.empty_like(w), np.empty_like(b), np.empty_like(w)
    room.conv_pool.conv_pool_backward(x, w, dy, winner, *how, dx, dw, db)
    room.conv_pool.conv_pool_backward(x, w, dy, winner, *how, None, alone, None)
    np.testing.assert_array_equal(alone, dw)


FEW_CHANNELS = {  # image, filter, stride, padding, dilation, window, input and output channels
    "lenet": ((1, 28, 28), (1, 5, 5), (1, 1, 1), 2, (1, 1, 1), (1, 2, 2), 1, 20),
    "two channels, wide windows": ((1, 19, 44), (1, 3, 2), (1, 1, 1), 1, (1, 2, 1), (1, 2, 3), 2, 5),
    "strided, two vectors": ((1, 12, 131), (1, 2, 3), (1, 1, 2), 0, (1, 1, 2), (1, 3, 2), 1, 7),
    "volumes": ((7, 9, 33), (2, 3, 3), (1, 2, 1), 1, (2, 1, 1), (2, 1, 2), 1, 3),
    "one row, no window": ((1, 1, 61), (1, 1, 1), (1, 1, 1), 0, (1, 1, 1), (1, 1, 1), 1, 33),
}


@pytest.mark.parametrize("name", FEW_CHANNELS)
def test_images_of_few_channels_are_cut_into_planes(reference, cpu, fill, integers, fit, dtype, name):
    image, taps, stride, pad, dilation, window, C, K = FEW_CHANNELS[name]
    conv = fit(image, taps, stride, tuple((pad, pad) if size > 1 else (0, 0) for size in image), dilation)
    pooled = tuple(size // step for size, step in zip(conv.output, window, strict=True))
    x, w, b, dy = arrays(integers, 4, conv, pooled, 5, C, K, dtype)
    planes = import_module("fastcnn.kernels.cpu.convolution.pooled.few_channels")
    want = stage(reference, fill, conv, window, pooled, x, w, b, dy)
    how = described(conv, x, w), window
    y, winner = fill(planes.forward, x, w, b, *how, shapes=[dy.shape] * 2, dtype=[x.dtype, "uint8"])
    dw, db = fill(planes.backward_weight, x, dy, winner, *how, shapes=[w.shape, b.shape], dtype=x.dtype)
    for key, value in {"y": y, "winner": winner, "dw": dw, "db": db}.items():
        np.testing.assert_array_equal(value, want[key], key)


def test_what_outputs_that_lost_met_does_not_count(cpu, fit):
    conv = fit((1, 4, 32), (1, 3, 3), (1, 1, 1), ((0, 0), (1, 1), (1, 1)), (1, 1, 1))
    x, w = np.zeros((1, 1, 4, 32, 1), np.float32), np.ones((1, 3, 3, 1, 2), np.float32)
    x[0, 0, 3, 31], dy, winner = np.inf, np.ones((1, 1, 2, 16, 2), np.float32), np.zeros((1, 1, 2, 16, 2), np.uint8)
    winner[0, 0, 1, 15] = 4
    dw = np.empty_like(w)
    how = described(conv, x, w), (1, 2, 2)
    cpu.conv_pool.conv_pool_backward(x, w, dy, winner, *how, None, dw, None)
    assert np.isfinite(dw).all()


def test_reference_matches_pytorch(reference, fill, fit):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    conv = fit((1, 15, 17), (1, 3, 5), (1, 2, 1), ((0, 0), (1, 1), (2, 2)), (1, 1, 2))
    window, rng = (1, 3, 2), np.random.default_rng(0)
    pooled = tuple(size // step for size, step in zip(conv.output, window, strict=True))
    x, w, b, dy = (rng.normal(size=s) for s in ((4, *conv.image, 5), (*conv.window, 5, 7), (7,), (4, *pooled, 7)))
    got = stage(reference, fill, conv, window, pooled, x, w, b, dy)
    xt = torch.tensor(x[:, 0]).permute(0, 3, 1, 2).requires_grad_()
    wt = torch.tensor(w[0]).permute(3, 2, 0, 1).requires_grad_()
    bt = torch.tensor(b, requires_grad=True)
    z = torch.nn.functional.conv2d(xt, wt, bt, conv.stride[1:], (1, 2), conv.dilation[1:])
    yt = torch.nn.functional.max_pool2d(torch.relu(z), window[1:])
    yt.backward(torch.tensor(dy[:, 0]).permute(0, 3, 1, 2))
    want = {"y": yt.detach().permute(0, 2, 3, 1), "dx": xt.grad.permute(0, 2, 3, 1), "db": bt.grad}
    want["dw"] = wt.grad.permute(2, 3, 1, 0)
    for name, value in want.items():
        np.testing.assert_allclose(got[name].reshape(value.shape), value.numpy(), rtol=1e-10, atol=1e-10, err_msg=name)


def test_ties_go_to_the_first_tap_and_nan_wins(room):
    x = np.array([1.0, 1.0, -2.0, np.nan, -1.0, -3.0]).reshape(1, 1, 1, 6, 1)
    w, one, unpadded = np.ones((1, 1, 1, 1, 1)), (1, 1, 1), ((0, 0),) * 3
    y, winner = np.empty((1, 1, 1, 3, 1)), np.empty((1, 1, 1, 3, 1), np.uint8)
    room.conv_pool.conv_pool_forward(x, w, None, describe(x, x, w, one, unpadded, one), (1, 1, 2), y, winner)
    np.testing.assert_array_equal(y.ravel(), [1, np.nan, 0])
    assert winner.ravel().tolist() == [0, 1, 2]


def test_thread_count_changes_no_bit(cpu, with_threads, fit):
    conv = fit((1, 28, 28), (1, 5, 5), (1, 1, 1), ((0, 0), (2, 2), (2, 2)), (1, 1, 1))
    rng = np.random.default_rng(0)
    x, w, b, dy = (
        rng.normal(size=s).astype("float32") for s in ((37, 1, 28, 28, 3), (1, 5, 5, 3, 6), (6,), (37, 1, 14, 14, 6))
    )
    how = described(conv, x, w), (1, 2, 2)

    def run():
        y, winner = np.empty_like(dy), np.empty(dy.shape, np.uint8)
        cpu.conv_pool.conv_pool_forward(x, w, b, *how, y, winner)
        gradients = [np.empty_like(a) for a in (x, w, b)]
        cpu.conv_pool.conv_pool_backward(x, w, dy, winner, *how, *gradients)
        return [y, winner, *gradients]

    for one, two in zip(with_threads(1, run), with_threads(2, run), strict=True):
        assert one.tobytes() == two.tobytes()


def test_thread_count_changes_no_bit_of_planes(cpu, with_threads):
    rng = np.random.default_rng(0)
    shapes = (37, 1, 28, 28, 1), (1, 5, 5, 1, 6), (6,), (37, 1, 14, 14, 6)
    x, w, b, dy = (rng.normal(size=shape).astype("float32") for shape in shapes)
    full, padding = (37, 1, 28, 28, 6), ((0, 0), (2, 2), (2, 2))
    how = describe(x, full, w, (1, 1, 1), padding, (1, 1, 1)), (1, 2, 2)

    def run():
        y, winner, dw, db = np.empty_like(dy), np.empty(dy.shape, np.uint8), np.empty_like(w), np.empty_like(b)
        cpu.conv_pool.conv_pool_forward(x, w, b, *how, y, winner)
        cpu.conv_pool.conv_pool_backward(x, w, dy, winner, *how, None, dw, db)
        return [y, winner, dw, db]

    for one, two in zip(with_threads(1, run), with_threads(2, run), strict=True):
        assert one.tobytes() == two.tobytes()


def test_images_convolved_by_winograd_are_pooled_in_groups(cpu, fit, monkeypatch):
    conv = fit((1, 15, 14), (1, 5, 5), (1, 1, 1), ((0, 0), (2, 2), (2, 2)), (1, 1, 1))
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=s).astype("float32") for s in ((7, 1, 15, 14, 20), (1, 5, 5, 20, 50), (50,)))
    problem, window, one = described(conv, x, w), (1, 2, 2), (1, 1, 1)
    z = np.empty((7, *conv.output, 50), np.float32)
    cpu.conv.conv_forward(x, w, b, problem, True, z, "winograd")
    want, taps = (np.empty((7, 1, 7, 7, 50), dtype) for dtype in (np.float32, np.uint8))
    cpu.pool.max_pool_forward(z, window, window, ((0, 0),) * 3, one, want, taps)
    taps[want <= 0] = 4
    monkeypatch.setattr(cpu.conv_pool, "HELD_ELEMENTS", 3 * z[0].size)
    y, winner = np.empty_like(want), np.empty_like(taps)
    cpu.conv_pool.conv_pool_forward(x, w, b, problem, window, y, winner, "winograd")
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(winner, taps)
