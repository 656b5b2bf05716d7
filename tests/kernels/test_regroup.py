"""Joining, permuting, padding and dropping: rooms against the definition, adjoints, edges, threads."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcnn.kernels.cpu.runtime.cpu_info import CacheSizes
from fastcnn.kernels.cpu.runtime.workspace import aligned_empty
from fastcnn.kernels.cpu.simd import streaming

NAMES = ("join", "permute", "pad", "dropout")
NUMPY_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
SIZES = st.sampled_from([0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 100])


@pytest.fixture(scope="module", params=("reference", "cpu"))
def kernels(request):
    """The kernels of one room."""
    modules = {name: importlib.import_module(f"fastcnn.kernels.{request.param}.{name}") for name in NAMES}
    return SimpleNamespace(**modules)


@pytest.fixture(scope="module")
def fast():
    return SimpleNamespace(**{name: importlib.import_module(f"fastcnn.kernels.cpu.{name}") for name in NAMES})


def filled(kernel, inputs, shapes, dtype):
    """Return the outputs of a kernel that takes them as one tuple, its last argument."""
    outputs = tuple(np.full(shape, np.nan, dtype) for shape in shapes)
    assert kernel(*inputs, outputs) is None
    return outputs


@given(count=st.integers(1, 6), size=st.sampled_from([0, 1, 7, 5000, 70_001]), seed=st.integers(0, 9))
def test_sum(kernels, fill, integers, dtype, count, size, seed):
    xs = tuple(integers(seed + k, (size,), dtype) for k in range(count))
    y = fill(kernels.join.add_forward, xs, shapes=[(size,)], dtype=dtype)
    np.testing.assert_array_equal(y, sum(xs))
    in_place = xs[0].copy()
    kernels.join.add_forward((in_place, *xs[1:]), in_place)
    np.testing.assert_array_equal(in_place, y)
    dxs = [np.full((size,), np.nan, dtype) if k % 2 == 0 else None for k in range(count)]
    kernels.join.add_backward_input(y, dxs)
    for dx in dxs[::2]:
        np.testing.assert_array_equal(dx, y)


@given(rows=st.sampled_from([0, 1, 3, 50, 3000]), widths=st.lists(SIZES.filter(bool), min_size=1, max_size=5))
@settings(max_examples=40)
def test_concatenation(kernels, fill, integers, dtype, rows, widths):
    xs = tuple(integers(k, (rows, width), dtype) for k, width in enumerate(widths))
    y = fill(kernels.join.concat_forward, xs, shapes=[(rows, sum(widths))], dtype=dtype)
    np.testing.assert_array_equal(y, np.concatenate(xs, axis=1))
    dxs = filled(kernels.join.concat_backward_input, (y, widths), [x.shape for x in xs], dtype)
    for dx, x in zip(dxs, xs, strict=True):
        np.testing.assert_array_equal(dx, x)
    some = tuple(dx if k % 2 else None for k, dx in enumerate(dxs))
    kernels.join.concat_backward_input(-y, widths, some)
    for k, (dx, x) in enumerate(zip(dxs, xs, strict=True)):
        np.testing.assert_array_equal(dx, -x if k % 2 else x)


@given(A=SIZES, B=SIZES, C=SIZES, seed=st.integers(0, 9))
def test_gate_and_its_gradient(kernels, fill, integers, dtype, A, B, C, seed):
    x, dy, gate = integers(seed, (A, B, C), dtype), integers(seed + 1, (A, B, C), dtype), integers(seed, (A, C), dtype)
    y = fill(kernels.join.multiply_forward, x, gate, shapes=[x.shape], dtype=dtype)
    np.testing.assert_array_equal(y, x * gate[:, None])
    dgate = fill(kernels.join.multiply_backward_gate, x, dy, shapes=[gate.shape], dtype=dtype)
    np.testing.assert_array_equal(dgate, (x * dy).sum(axis=1))


@pytest.mark.parametrize(
    "shape", [(1, 9000, 5), (2, 700, 64), (3, 12, 4097), (1, 40_000, 1), (50_000, 3, 1), (1, 2, 99_999)]
)
def test_large_gates_are_exact(kernels, fill, integers, shape):
    """Sizes at which the sum over B is cut in parts, and the work is shared out among threads."""
    A, _, C = shape
    x, dy, gate = integers(0, shape, "float32"), integers(1, shape, "float32"), integers(2, (A, C), "float32")
    y = fill(kernels.join.multiply_forward, x, gate, shapes=[shape], dtype="float32")
    np.testing.assert_array_equal(y, x * gate[:, None])
    dgate = fill(kernels.join.multiply_backward_gate, x, dy, shapes=[gate.shape], dtype="float32")
    np.testing.assert_array_equal(dgate, (x * dy).sum(axis=1))


@given(data=st.data(), rank=st.integers(1, 6))
@settings(max_examples=150)
def test_permutation(kernels, fill, dtype, data, rank):
    largest = {1: 5000, 2: 200, 3: 40}.get(rank, 9)
    shape = tuple(data.draw(st.lists(st.integers(1, largest), min_size=rank, max_size=rank)))
    axes = tuple(data.draw(st.permutations(range(rank))))
    x = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    y = fill(kernels.permute.permute, x, axes, shapes=[tuple(shape[a] for a in axes)], dtype=dtype)
    np.testing.assert_array_equal(y, x.transpose(axes))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((4, 57, 55, 3), (0, 3, 1, 2)), ((2, 64, 64, 64), (0, 3, 1, 2)), ((2, 65, 40, 50), (0, 2, 3, 1)),
     ((0, 3, 2), (2, 1, 0)), ((40, 50, 60, 2), (0, 2, 1, 3)), ((300, 400), (1, 0)), ((16, 16), (1, 0)),
     ((3, 128, 2, 32), (0, 2, 3, 1)), ((4, 3, 57, 155), (0, 2, 3, 1)), ((5, 3, 3), (0, 2, 1)), ((3, 70, 3), (2, 1, 0))],
)  # fmt: skip
def test_large_permutation(kernels, fill, dtype, shape, axes):
    x = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    y = fill(kernels.permute.permute, x, axes, shapes=[tuple(shape[a] for a in axes)], dtype=dtype)
    np.testing.assert_array_equal(y, x.transpose(axes))


@st.composite
def paddings(draw):
    """Draw an image's shape, a padding and a mode that allows it."""
    mode = draw(st.sampled_from(sorted(NUMPY_MODES)))
    sizes, pairs = [], []
    for _ in range(3):
        size = draw(st.integers(1, 9))
        most = {"reflect": size - 1, "circular": size}.get(mode, 12)
        sizes.append(size)
        pairs.append((draw(st.integers(0, most)), draw(st.integers(0, most))))
    return (draw(st.integers(0, 3)), *sizes, draw(st.sampled_from([1, 2, 3, 7, 16, 40]))), tuple(pairs), mode


@given(drawn=paddings(), seed=st.integers(0, 9))
@settings(max_examples=150)
def test_padding_and_its_adjoint(kernels, fill, integers, dtype, drawn, seed):
    shape, pairs, mode = drawn
    x, value = integers(seed, shape, dtype), {"constant_values": 2.5} if mode == "constant" else {}
    want = np.pad(x, ((0, 0), *pairs, (0, 0)), NUMPY_MODES[mode], **value)
    y = fill(kernels.pad.pad_forward, x, pairs, mode, 2.5, shapes=[want.shape], dtype=dtype)
    np.testing.assert_array_equal(y, want)
    dy = integers(seed, want.shape, dtype)
    dx = fill(kernels.pad.pad_backward_input, dy, pairs, mode, shapes=[shape], dtype=dtype)
    y0 = fill(kernels.pad.pad_forward, x, pairs, mode, 0.0, shapes=[want.shape], dtype=dtype)
    assert np.vdot(dx, x) == np.vdot(dy, y0)


@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize("shape", [(2, 1, 90, 80, 33), (1, 1, 1, 90_000, 1), (3, 20, 30, 40, 3)])
def test_large_padding(fast, fill, integers, shape, mode):
    """Sizes at which the work is shared out among threads."""
    reference = importlib.import_module("fastcnn.kernels.reference.pad")
    x, pairs = integers(0, shape, "float32"), tuple((min(2, n - 1), min(3, n - 1)) for n in shape[1:4])
    padded = (shape[0], *(n + sum(pair) for n, pair in zip(shape[1:4], pairs, strict=True)), shape[4])
    dy = integers(1, padded, "float32")
    for name, given_, arguments, filled_ in (
        ("pad_forward", x, (pairs, mode, 1.0), padded),
        ("pad_backward_input", dy, (pairs, mode), shape),
    ):
        got = fill(getattr(fast.pad, name), given_, *arguments, shapes=[filled_], dtype="float32")
        want = fill(getattr(reference, name), given_, *arguments, shapes=[filled_], dtype="float32")
        np.testing.assert_array_equal(got, want)


@given(size=st.sampled_from([0, 1, 100, 16_385, 70_001]), p=st.floats(0, 1), seed=st.integers(0, 2**24 - 1))
def test_dropout_rooms_agree(fill, dtype, size, p, seed):
    rooms = [importlib.import_module(f"fastcnn.kernels.{room}.dropout") for room in ("reference", "cpu")]
    x, results = np.random.default_rng(seed).standard_normal(size).astype(dtype), []
    for room in rooms:
        key, step = np.zeros(1, np.int64), np.array([2**24 - 1], dtype)
        room.draw_key(np.array([seed], dtype), step, key)
        assert step == 0
        results.append(fill(room.dropout_forward, x, p, key, shapes=[x.shape], dtype=dtype))
    np.testing.assert_array_equal(*results)


def keys(kernels, steps, seed=1):
    made, step = [], np.zeros(1)
    for _ in range(steps):
        made.append(np.zeros(1, np.int64))
        kernels.dropout.draw_key(np.array([float(seed)]), step, made[-1])
    assert step == steps
    return made


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout_keeps_its_share_and_the_mean(kernels, fill, dtype, p):
    size = 200_000
    ones = np.ones(size, dtype)
    y = fill(kernels.dropout.dropout_forward, ones, p, keys(kernels, 1)[0], shapes=[(size,)], dtype=dtype)
    deviation = np.sqrt(p * (1 - p) / size)
    assert abs((y == 0).mean() - p) <= 5 * deviation
    assert set(np.unique(y)) <= {dtype.type(0), dtype.type(1 / (1 - p) if p < 1 else 0)}


def test_dropped_elements_are_independent(kernels, fill):
    """Neighbours, blocks, steps and seeds: no two masks agree more often than chance has it."""
    size = 1 << 17
    masks = []
    for key in [*keys(kernels, 3), *keys(kernels, 2, seed=2)]:
        y = fill(kernels.dropout.dropout_forward, np.ones(size), 0.5, key, shapes=[(size,)], dtype="float64")
        masks.append(y > 0)
    masks += [np.roll(masks[0], shift) for shift in (1, 2, 3, 7, 16, 64, 1 << 14, 1 << 15)]
    limit = 5 / np.sqrt(size) / 2
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert abs((one == other).mean() - 0.5) < limit


def test_dropout_passes_nan(kernels, fill, dtype):
    x = np.full(1000, np.nan, dtype)
    y = fill(kernels.dropout.dropout_forward, x, 0.5, np.ones(1, np.int64), shapes=[(1000,)], dtype=dtype)
    assert np.isnan(y).all()


def test_thread_count_changes_no_bit(fast, with_threads):
    rng = np.random.default_rng(0)
    x, z, gate = (rng.standard_normal(s).astype("float32") for s in ((5, 3001, 33), (5, 3001, 33), (5, 33)))

    def run():
        outputs = [np.empty_like(x) for _ in range(4)]
        fast.join.add_forward((x, z, x), outputs[0])
        fast.join.multiply_forward(x, gate, outputs[1])
        fast.dropout.dropout_forward(x, 0.3, np.ones(1, np.int64), outputs[2])
        fast.pad.pad_backward_input(x.reshape(1, 5, 1, 3001, 33), ((1, 0), (0, 0), (0, 1)), "replicate",
                                    padded := np.empty((1, 4, 1, 3000, 33), "float32"))  # fmt: skip
        fast.permute.permute(x, (2, 0, 1), turned := np.empty((33, 5, 3001), "float32"))
        fast.join.concat_forward((x.reshape(15005, 33), z.reshape(15005, 33)), both := np.empty((15005, 66), "float32"))
        dgate = np.empty_like(gate)
        fast.join.multiply_backward_gate(x, z, dgate)
        return [a.tobytes() for a in (*outputs[:3], padded, turned, both, dgate)]

    assert with_threads(1, run) == with_threads(2, run)


def test_gate_sums_are_accurate(fast):
    """A sum of 4 million equal float32 products, which one running sum would stop adding to at 2^24."""
    x = np.full((1, 1 << 22, 1), 9.7, "float32")
    dgate = np.empty((1, 1), "float32")
    fast.join.multiply_backward_gate(x, np.ones_like(x), dgate)
    np.testing.assert_allclose(dgate[0, 0], x.astype("float64").sum(), rtol=1e-6)


@pytest.fixture
def past_caches(monkeypatch):
    """Every output exceeds the caches of this host."""
    monkeypatch.setattr(streaming, "cache_bytes", lambda: CacheSizes(0, 0, 0))


@pytest.mark.usefixtures("past_caches")
@pytest.mark.parametrize("lead", [0, 3])  # elements of y on the cache line that it begins on
@pytest.mark.parametrize("widths", [(64, 32), (16, 16, 16), (500, 7, 33), (1000,), (3, 4)])
def test_concatenation_past_the_caches(fast, integers, dtype, lead, widths):
    rows = 333
    xs = tuple(integers(k, (rows, width), dtype) for k, width in enumerate(widths))
    room = aligned_empty(lead + rows * sum(widths) + 1, np.dtype(dtype))
    room.fill(np.nan)
    y = room[lead:-1].reshape(rows, -1)
    fast.join.concat_forward(xs, y)
    np.testing.assert_array_equal(y, np.concatenate(xs, axis=1))
    assert np.isnan([*room[:lead], room[-1]]).all()
    dxs = filled(fast.join.concat_backward_input, (y, widths), [x.shape for x in xs], dtype)
    for dx, x in zip(dxs, xs, strict=True):
        np.testing.assert_array_equal(dx, x)


@pytest.mark.usefixtures("past_caches")
@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize("C", [1, 3, 16, 40])
def test_padding_past_the_caches(fast, fill, integers, dtype, mode, C):
    x, padding = integers(0, (2, 1, 31, 37, C), dtype), ((0, 0), (2, 1), (1, 3))
    y = fill(fast.pad.pad_forward, x, padding, mode, 0, shapes=[(2, 1, 34, 41, C)], dtype=dtype)
    np.testing.assert_array_equal(y, np.pad(x, ((0, 0), *padding, (0, 0)), NUMPY_MODES[mode]))
    dy = integers(1, y.shape, dtype)
    dx = fill(fast.pad.pad_backward_input, dy, padding, mode, shapes=[x.shape], dtype=dtype)
    assert (dy * y).sum() == (dx * x).sum()


@pytest.mark.usefixtures("past_caches")
@pytest.mark.parametrize("size", [1, 15, 257, 70_001])
@pytest.mark.parametrize("lead", [0, 3])
def test_sums_and_products_past_the_caches(fast, integers, dtype, size, lead):
    x, z = integers(0, (size, 1, 1), dtype), integers(1, (size, 1, 1), dtype)
    room = aligned_empty(lead + size + 1, np.dtype(dtype))
    y = room[lead:-1].reshape(x.shape)
    room.fill(np.nan)
    fast.join.add_forward((x, z), y)
    np.testing.assert_array_equal(y, x + z)
    fast.join.multiply_forward(x, z[:, 0], y)
    np.testing.assert_array_equal(y, x * z)
    assert np.isnan([*room[:lead], room[-1]]).all()
