"""Optimizers: rooms exactly equal on powers of two, PyTorch's rules over twenty steps, clipping, threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

SGD_RULES = [
    (0.0, 0.0, 0.0, False),
    (0.5, 0.0, 0.0, False),
    (0.5, 0.5, 0.25, False),
    (0.5, 0.0, 0.25, True),
]
SIZES = [0, 1, 37, 2048, 100_003]
STEPS = 20


def sgd_steps(optimizer, param, grads, lr, momentum, dampening, weight_decay, nesterov):
    """Return the parameters after a step for each gradient, which must stay as it is."""
    param, velocity = param.copy(), np.zeros_like(param)
    for grad in grads:
        kept = grad.copy()
        rule = (lr, momentum, dampening, weight_decay, nesterov)
        assert optimizer.sgd_update(param, grad, velocity, np.array(rule, float)) is None
        np.testing.assert_array_equal(grad, kept)
    return param


@pytest.mark.parametrize("rule", SGD_RULES)
@pytest.mark.parametrize("size", SIZES)
def test_rooms_agree_exactly(reference, cpu, integers, dtype, size, rule):
    """Whole numbers and factors that are powers of two: nothing is rounded."""
    param, *grads = (integers(seed, (size,), dtype) for seed in range(3))
    want = sgd_steps(reference.optimizer, param, grads, 0.125, *rule)
    np.testing.assert_array_equal(sgd_steps(cpu.optimizer, param, grads, 0.125, *rule), want)
    assert not size or (want != param).any()


def test_without_momentum_the_velocity_is_left_alone(room, dtype):
    param, grad, velocity = np.ones(5, dtype), np.ones(5, dtype), np.full(5, np.nan, dtype)
    room.optimizer.sgd_update(param, grad, velocity, np.array([0.5, 0, 0, 0, 0]))
    np.testing.assert_array_equal(param, 0.5)
    assert np.isnan(velocity).all()


def adam(amsgrad, decoupled):
    def step(optimizer, param, grad, state, number):
        state = [*state[:2], state[2] if amsgrad else state[2][:0]]
        optimizer.adam_update(param, grad, *state, np.array([0.01, 0.9, 0.99, 1e-8, 0.1, decoupled, number]))

    return step


def rmsprop(centered, momentum):
    def step(optimizer, param, grad, state, number):
        mean, velocity = state[1] if centered else state[1][:0], state[2] if momentum else state[2][:0]
        optimizer.rmsprop_update(param, grad, state[0], mean, velocity, np.array([0.01, 0.9, 1e-8, 0.1, momentum]))

    return step


def adagrad(optimizer, param, grad, state, number):
    optimizer.adagrad_update(param, grad, state[0], np.array([0.1, 1e-10, 0.1]))


RULES = {
    "adam": (adam(False, False), "Adam", {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}),
    "amsgrad": (adam(True, False), "Adam", {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1, "amsgrad": True}),
    "adamw": (adam(False, True), "AdamW", {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}),
    "rmsprop": (rmsprop(False, 0.0), "RMSprop", {"alpha": 0.9, "weight_decay": 0.1}),
    "rmsprop, centered": (rmsprop(True, 0.0), "RMSprop", {"alpha": 0.9, "weight_decay": 0.1, "centered": True}),
    "rmsprop, momentum": (rmsprop(False, 0.5), "RMSprop", {"alpha": 0.9, "weight_decay": 0.1, "momentum": 0.5}),
    "rmsprop, all": (
        rmsprop(True, 0.5), "RMSprop", {"alpha": 0.9, "weight_decay": 0.1, "momentum": 0.5, "centered": True}
    ),
    "adagrad": (adagrad, "Adagrad", {"lr": 0.1, "weight_decay": 0.1}),
}  # fmt: skip


def take_steps(step, optimizer, param, grads):
    """Return the parameters and states after a step for each gradient, which must stay as it is."""
    param, state = param.copy(), [np.zeros_like(param) for _ in range(3)]
    for number, grad in enumerate(grads, 1):
        kept = grad.copy()
        step(optimizer, param, grad, state, number)
        np.testing.assert_array_equal(grad, kept)
    return [param, *state]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", SIZES)
def test_rooms_agree(reference, cpu, dtype, size, name):
    param, *grads = np.random.default_rng(size).normal(size=(4, size)).astype(dtype)
    got, want = (take_steps(RULES[name][0], room.optimizer, param, grads) for room in (cpu, reference))
    near = {"float32": 2e-5, "float64": 1e-13}[dtype.name]  # of RMSprop: the variance is a difference
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=near, atol=near)
    assert not size or np.mean(got[0] != param) > 0.99


@pytest.mark.parametrize("name", RULES)
def test_matches_pytorch(room, name):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    step, kind, arguments = RULES[name]
    param, *grads = np.random.default_rng(0).normal(size=(STEPS + 1, 41))
    twin = torch.nn.Parameter(torch.tensor(param))
    rule = getattr(torch.optim, kind)([twin], **arguments)
    for grad in grads:
        twin.grad = torch.tensor(grad)
        rule.step()
    got = take_steps(step, room.optimizer, param, grads)[0]
    np.testing.assert_allclose(got, twin.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_gradients_of_zero_change_nothing(room, dtype):
    param, grads = np.ones(9, dtype), np.zeros((3, 9), dtype)
    rules = [np.array([0.1, 0.9, 0.99, 1e-8, 0, 0, 1]), np.array([0.1, 0.9, 1e-8, 0, 0.5]), np.array([0.1, 1e-10, 0])]
    for without_decay in (
        lambda o, p, g, s, n: o.adam_update(p, g, *s[:2], s[2][:0], rules[0]),
        lambda o, p, g, s, n: o.rmsprop_update(p, g, *s, rules[1]),
        lambda o, p, g, s, n: o.adagrad_update(p, g, s[0], rules[2]),
    ):
        np.testing.assert_array_equal(take_steps(without_decay, room.optimizer, param, grads)[0], 1)


@given(seed=st.integers(0, 9), size=st.sampled_from([0, 1, 63, 64, 65, 16_385, 70_001]))
def test_clipping_kernels(reference, cpu, fill, integers, dtype, seed, size):
    a = integers(seed, (size,), dtype)
    for room in (reference, cpu):
        total = fill(room.optimizer.square_sum, a, shapes=[(1,)], dtype="float64")
        assert total[0] == (a * a).sum()
        scaled, clamped = a.copy(), a.copy()
        room.optimizer.shrink(scaled, np.array([0.25]))
        room.optimizer.shrink(scaled, np.array([1.5]))
        room.optimizer.clamp(clamped, 1.5)
        np.testing.assert_array_equal(scaled, a / 4)
        np.testing.assert_array_equal(clamped, np.clip(a, -1.5, 1.5))


def test_norms_are_brought_down_to_a_limit(room):
    squares, factor = np.array([9.0, 0.0, 16.0]), np.zeros(1)
    room.optimizer.norm_factor(squares, 2, factor)
    assert factor[0] == 2 / (5 + 1e-6)


def clipped(room, parts, limit):
    """Return copies of parts, brought down to a norm."""
    parts = [part.copy() for part in parts]
    squares, scaled, factor = np.zeros(len(parts)), np.zeros(len(parts)), np.zeros(2)
    for i, part in enumerate(parts):
        room.optimizer.square_sum(part, squares[i : i + 1], scaled[i : i + 1])
    room.optimizer.norm_factor(squares, limit, factor, scaled)
    for part in parts:
        room.optimizer.shrink(part, factor)
    return parts


@given(
    powers=st.lists(st.integers(-1000, 1023), min_size=1, max_size=4), limit=st.sampled_from([1e-3, 1.0, 300.0]),
    seed=st.integers(0, 9), narrow=st.booleans(),
)  # fmt: skip
def test_norms_of_any_size_are_brought_down(reference, cpu, powers, limit, seed, narrow):
    """Beside exact arithmetic in a wider type: neither squares nor factors overflow or vanish."""
    dtype = np.dtype("float32" if narrow else "float64")
    rng = np.random.default_rng(seed)
    powers = [min(max(power, -100), 126) if narrow else power for power in powers]
    parts = [(rng.uniform(0.5, 1, 40) * 2.0**power).astype(dtype) for power in powers]
    top = max(float(part.max()) for part in parts)
    norm = np.sqrt(sum(((part / top).astype(float) ** 2).sum() for part in parts))  # of parts / top
    if norm * top < limit:
        wanted = parts
    else:
        wanted = [part.astype(float) / top * (limit / (norm + 1e-6 / top)) for part in parts]
    for room in (reference, cpu):
        for got, want in zip(clipped(room, parts, limit), wanted, strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, want, rtol=2e-6 if narrow else 1e-12, atol=1e-38)


def test_the_largest_gradients_are_clipped_too(room, dtype):
    parts = [np.full(size, np.finfo(dtype).max, dtype) for size in (37, 63)]
    for part in clipped(room, parts, 1.0):
        np.testing.assert_allclose(part, 0.1, rtol=1e-6)


def test_clamp_keeps_nan_and_square_sums_do_not_overflow(room):
    a = np.array([np.nan, np.inf, -np.inf, 3e38], np.float32)
    total = np.zeros(1)
    room.optimizer.square_sum(a[3:], total)
    assert total[0] == pytest.approx(9e76, rel=1e-6)
    room.optimizer.clamp(a, 2.0)
    np.testing.assert_array_equal(a, [np.nan, 2, -2, 2])


@pytest.mark.parametrize("name", ["amsgrad", "rmsprop, all", "adagrad"])
def test_thread_count_changes_no_bit(cpu, with_threads, name):
    param, *grads = np.random.default_rng(0).normal(size=(3, 100_003)).astype("float32")

    def run():
        return [a.tobytes() for a in take_steps(RULES[name][0], cpu.optimizer, param, grads)]

    assert with_threads(1, run) == with_threads(2, run)


@pytest.mark.parametrize("size", [0, 1, 37, 16385, 200_001])
def test_elements_that_are_not_finite_are_counted(room, dtype, size):
    a, count = np.full(size, np.finfo(dtype).max, dtype), np.full(1, 9, np.int64)
    a[::2] *= -1
    room.optimizer.non_finite(a, count)
    assert count[0] == 0
    bad = np.array([np.nan, np.inf, -np.inf, -np.nan], dtype)
    places = np.unique(np.linspace(0, size - 1, 23).astype(int)) if size else np.empty(0, int)
    a[places] = np.resize(bad, places.size)
    room.optimizer.non_finite(a, count)
    assert count[0] == places.size


def test_thread_count_changes_no_bit_of_sgd_and_square_sums(cpu, with_threads):
    param, *grads = np.random.default_rng(0).normal(size=(3, 100_003)).astype("float32")

    def run():
        total = np.zeros(1)
        cpu.optimizer.square_sum(param, total)
        return sgd_steps(cpu.optimizer, param, grads, 0.1, 0.9, 0.0, 5e-4, True).tobytes() + total.tobytes()

    assert with_threads(1, run) == with_threads(2, run)
