"""SGD: rooms exactly equal on powers of two, PyTorch's rule over several steps, threads."""

import numpy as np
import pytest

RULES = [(0.0, 0.0, False), (0.5, 0.0, False), (0.5, 0.25, False), (0.5, 0.25, True)]
SIZES = [0, 1, 37, 100_003]


def steps(optimizer, param, grads, lr, momentum, weight_decay, nesterov):
    """Return the parameters after a step for each gradient, which must stay as it is."""
    param, velocity = param.copy(), np.zeros_like(param)
    for grad in grads:
        kept = grad.copy()
        rule = (lr, momentum, weight_decay, nesterov)
        assert optimizer.sgd_update(param, grad, velocity, *rule) is None
        np.testing.assert_array_equal(grad, kept)
    return param


@pytest.mark.parametrize(("momentum", "weight_decay", "nesterov"), RULES)
@pytest.mark.parametrize("size", SIZES)
def test_rooms_agree_exactly(reference, cpu, integers, dtype, size, momentum, weight_decay, nesterov):
    """Whole numbers and factors that are powers of two: nothing is rounded."""
    param, *grads = (integers(seed, (size,), dtype) for seed in range(3))
    rule = (0.125, momentum, weight_decay, nesterov)
    want = steps(reference.optimizer, param, grads, *rule)
    np.testing.assert_array_equal(steps(cpu.optimizer, param, grads, *rule), want)
    assert not size or (want != param).any()


@pytest.mark.parametrize(("momentum", "weight_decay", "nesterov"), RULES)
def test_matches_pytorch(room, momentum, weight_decay, nesterov):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    rng = np.random.default_rng(0)
    param, *grads = rng.normal(size=(6, 41))
    twin = torch.nn.Parameter(torch.tensor(param))
    rule = torch.optim.SGD([twin], 0.1, momentum, 0.0, weight_decay, nesterov)
    for grad in grads:
        twin.grad = torch.tensor(grad)
        rule.step()
    got = steps(room.optimizer, param, grads, 0.1, momentum, weight_decay, nesterov)
    np.testing.assert_allclose(got, twin.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_without_momentum_the_velocity_is_left_alone(room, dtype):
    param, grad, velocity = np.ones(5, dtype), np.ones(5, dtype), np.full(5, np.nan, dtype)
    room.optimizer.sgd_update(param, grad, velocity, 0.5, 0.0, 0.0, False)
    np.testing.assert_array_equal(param, 0.5)
    assert np.isnan(velocity).all()


def test_thread_count_changes_no_bit(cpu, with_threads):
    param, *grads = np.random.default_rng(0).normal(size=(3, 100_003)).astype("float32")

    def run():
        return steps(cpu.optimizer, param, grads, 0.1, 0.9, 5e-4, True).tobytes()

    assert with_threads(1, run) == with_threads(2, run)
