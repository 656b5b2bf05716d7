"""What all tests share: rooms, number types, integer-filled arrays, random window geometry."""

import importlib
import os
from math import prod
from typing import NamedTuple

import numpy as np
import pytest
import workers
from hypothesis import settings
from hypothesis import strategies as st
from sweeps import run

from fastcnn.backend import get

ROOMS = ("reference", "cpu")

# The same examples in every run: a failure anywhere is a failure everywhere.
settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("reproducible")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Spread all tests over the cores."""
    workers.spread(config)


def pytest_configure(config):
    """Tell the sweeps which run this is, and the threads of PyTorch to wait asleep: other processes need the cores."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run.exhaustive = "not exhaustive" not in config.option.markexpr


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Note what there is before some of it is left out."""
    for item in items:
        run.files[item.path]["exhaustive" if item.get_closest_marker("exhaustive") else "every run"] += 1


class Geometry(NamedTuple):
    """Windows over an image of three axes; `output` is what fits."""

    image: tuple[int, int, int]
    window: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int, int]
    output: tuple[int, int, int]


def fitting(image, window, stride, padding, dilation) -> Geometry:
    """Complete a geometry by its output size, from the formula of the definition."""
    output = tuple(
        (size + before + after - apart * (taps - 1) - 1) // step + 1
        for size, taps, step, (before, after), apart in zip(image, window, stride, padding, dilation, strict=True)
    )
    return Geometry(image, window, stride, padding, dilation, output)


@st.composite
def geometries(draw, dilated: bool = True) -> Geometry:
    """Draw windows in 1, 2 or 3 dimensions: the filter may be larger than the image it pads."""
    rank = draw(st.integers(1, 3))
    axes = [(1, 1, 1, (0, 0), 1)] * (3 - rank)
    for _ in range(rank):
        taps, step = draw(st.integers(1, 5)), draw(st.integers(1, 4))
        apart = draw(st.integers(1, 3)) if dilated else 1
        before, after = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        smallest = max(1, apart * (taps - 1) + 1 - before - after)
        size = draw(st.integers(smallest, smallest + 8))
        axes.append((size, taps, step, (before, after), apart))
    return fitting(*zip(*axes, strict=True))


@pytest.fixture(scope="session", params=ROOMS)
def room(request):
    """One room after another."""
    return get(request.param)


@pytest.fixture(scope="session")
def reference():
    """The room that the others are compared with."""
    return get("reference")


@pytest.fixture(scope="session")
def cpu():
    """The Numba room."""
    return get("cpu")


@pytest.fixture(scope="session", params=("float32", "float64"))
def dtype(request):
    """Both number types of the kernels."""
    return np.dtype(request.param)


@pytest.fixture(scope="session")
def draw_geometry():
    """Return `geometries`, the strategy of random windows."""
    return geometries


@pytest.fixture(scope="session")
def fit():
    """Return `fitting`, which completes a geometry by its output size."""
    return fitting


@pytest.fixture(scope="session")
def integers():
    """Return a maker of arrays of small whole numbers, whose sums are exact in any order."""

    def make(seed: int, shape, dtype="float64", largest: int = 3):
        rng = np.random.default_rng([seed, *shape])
        return rng.integers(-largest, largest + 1, shape).astype(dtype)

    return make


MARGIN = 4096  # elements on either side of an output that no kernel may touch


def framed(shape, kind):
    """Return an array full of NaN (or the largest integer), and the larger one it is the middle of."""
    blank = np.nan if np.dtype(kind).kind == "f" else np.iinfo(kind).max
    frame = np.full(prod(shape) + 2 * MARGIN, blank, kind)
    return frame[MARGIN : frame.size - MARGIN].reshape(shape), frame


@pytest.fixture(scope="session")
def fill():
    """Return a caller of kernels that gives back the outputs and finds three kinds of error.

    Outputs start as NaN (or the largest integer), so that an element nobody wrote shows; so do their
    margins, which must stay so; inputs must come out as they went in.
    """

    def call(kernel, *inputs, shapes, dtype):
        kinds = dtype if isinstance(dtype, list) else [dtype] * len(shapes)
        pairs = [framed(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
        outputs = [output for output, _ in pairs]
        before = [a.copy() if isinstance(a, np.ndarray) else a for a in inputs]
        assert kernel(*inputs, *outputs) is None
        for given, kept in zip(inputs, before, strict=True):
            if isinstance(given, np.ndarray):
                np.testing.assert_array_equal(given, kept, "the kernel changed an input")
        for _, frame in pairs:
            margins = np.concatenate([frame[:MARGIN], frame[-MARGIN:]])
            assert np.all(np.isnan(margins) if margins.dtype.kind == "f" else margins == margins[0]), (
                "the kernel wrote outside of its output"
            )
        return outputs[0] if len(outputs) == 1 else outputs

    return call


@pytest.fixture
def with_threads():
    """Return a caller that runs a function on a given number of threads; skip on one core."""
    threads = importlib.import_module("fastcnn.kernels.cpu.runtime.launch")
    if threads.thread_limit() < 2:
        pytest.skip("this process has one core: there is no second thread to compare with")
    usual = threads.thread_count()

    def call(count: int, function):
        threads.set_thread_count(count)
        return function()

    yield call
    threads.set_thread_count(usual)


def numerical_gradient(function, x, step: float = 1e-6):
    """Return the central differences of a scalar function at x, one element at a time."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        value = x[i]
        x[i] = value + step
        above = function()
        x[i] = value - step
        below = function()
        x[i] = value
        gradient[i] = (above - below) / (2 * step)
    return gradient


@pytest.fixture(scope="session")
def differences():
    """Return `numerical_gradient`."""
    return numerical_gradient


@pytest.fixture(scope="session")
def pytorch_passes():
    """Return a caller of PyTorch in float64: y, dx, dw and db of an operation on (x, w, b), channels first inside.

    The arrays are ours, channels last; `operation` takes PyTorch's tensors and module.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")

    def call(operation, x, w, b, dy):
        xt = torch.tensor(x).permute(0, 4, 1, 2, 3).requires_grad_()
        wt = torch.tensor(w).permute(4, 3, 0, 1, 2).requires_grad_()
        bt = torch.tensor(b, requires_grad=True)
        yt = operation(torch, xt, wt, bt)
        yt.backward(torch.tensor(dy).permute(0, 4, 1, 2, 3))
        last = {"y": yt.detach().permute(0, 2, 3, 4, 1), "dx": xt.grad.permute(0, 2, 3, 4, 1)}
        return {key: a.numpy() for key, a in (last | {"dw": wt.grad.permute(2, 3, 4, 1, 0), "db": bt.grad}).items()}

    return call
