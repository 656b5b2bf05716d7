"""Programs: launches that are repeated do what their doors would do, for any contents of the arrays."""

import numpy as np
import pytest
from problems import describe

from fastcnn.kernels.cpu import activation, conv, conv_pool, linear, norm, program
from fastcnn.kernels.cpu.activation import relu_forward
from fastcnn.kernels.cpu.runtime import launch, native_launch, workspace

ONE, NONE, HALO = (1, 1, 1), ((0, 0),) * 3, ((0, 0), (1, 1), (1, 1))


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def poison():
    """Overwrite all scratch memory: a launch must not count on what an earlier call left there."""
    for buffer in workspace._current.workspace.held.values():
        buffer.view(np.uint8)[...] = 0x7F


def convolution(channels, filters, size, pixels, groups=1):
    """Return (constants, inputs, output, calls) of a convolution and a ReLU."""
    x, w, b = arrays(0, (2, 1, pixels, pixels, channels), (1, size, size, channels // groups, filters), (filters,))
    y = np.empty((2, 1, pixels, pixels, filters), np.float32)
    padding = ((0, 0), (size // 2, size // 2), (size // 2, size // 2))
    call = conv.conv_forward, (x, w, b, describe(x, y, w, ONE, padding, ONE, groups), 0, y)
    return [w, b], [x], y, [call, (relu_forward, (y, y))]


def folded():
    """Return a convolution by a filter that is folded with a normalization."""
    (w, b), (x,), y, ((door, arguments), *_) = convolution(6, 7, 3, 8)
    statistics = np.abs(arrays(1, (4, 7))[0])
    whole, bias = np.empty_like(w), np.empty_like(b)
    fold = norm.fold_norm, (w.reshape(-1, 7), b, *statistics, 1e-5, whole.reshape(-1, 7), bias)
    return [w, b, statistics], [x], y, [fold, (door, (x, whole, bias, *arguments[3:]))]


def dense():
    x, w, b = arrays(2, (300, 40), (40, 50), (50,))
    y = np.empty((300, 50), np.float32)
    return [w, b], [x], y, [(linear.linear_forward, (x, w, b, 1, y))]


def pooled():
    x, w, b = arrays(3, (3, 1, 12, 12, 6), (1, 5, 5, 6, 16), (16,))
    y, winner = np.empty((3, 1, 4, 4, 16), np.float32), np.empty((3, 1, 4, 4, 16), np.uint8)
    problem = describe(x, (3, 1, 8, 8, 16), w, ONE, NONE, ONE)
    return [w, b], [x], y, [(conv_pool.conv_pool_forward, (x, w, b, problem, (1, 2, 2), y, winner))]


def one_row():
    (w, b), (x,), y, _ = dense()
    return [w, b], [x], y[:1], [(linear.linear_forward, (x[:1], w, b, 1, y[:1]))]


CASES = {
    "gather": lambda: convolution(24, 20, 3, 9),
    "merged": lambda: convolution(3, 4, 5, 17),
    "one channel out": lambda: convolution(20, 1, 3, 12),
    "lane by lane": lambda: convolution(32, 32, 3, 9, groups=32),
    "winograd": lambda: convolution(64, 64, 3, 30),
    "winograd in groups": lambda: convolution(128, 128, 3, 30, groups=2),
    "few pixels": lambda: convolution(64, 70, 3, 4),
    "folded": folded,
    "dense": dense,
    "one row": one_row,
    "pooled": pooled,
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


def by_doors(calls, y):
    poison()
    for door, arguments in calls:
        door(*arguments)
    return y.copy()


def test_repeats_what_doors_do(case):
    constants, inputs, y, calls = case
    made = program.Program(calls)
    for seed in range(4):
        for array in (*inputs, *constants):
            array[...] = np.abs(arrays(seed, array.shape)[0])
        expected = by_doors(calls, y)
        y.fill(np.nan)
        poison()
        made.run()
        np.testing.assert_array_equal(y, expected)
    steps = made._tape._steps
    assert [step.__name__ for step, _ in (*steps[0], *steps[1])] == ["_run_stretch"]


def test_keeps_what_is_made_of_constants(case):
    constants, inputs, y, calls = case
    made = program.Program(calls, constants)
    for version, changes in ((0, False), (0, False), (0, False), (1, True), (None, True), (None, True), (2, True)):
        inputs[0][...] = arrays(version or 0, inputs[0].shape)[0]
        for array in constants if changes else ():
            array *= np.float32(1.25)
        expected = by_doors(calls, y)
        poison()
        made.run(version)
        np.testing.assert_array_equal(y, expected)


def test_packs_once_while_constants_stay():
    constants, _, y, calls = CASES["winograd"]()
    made = program.Program(calls, constants)
    for _ in range(3):
        made.run(version=5)
    before = y.copy()
    constants[0] *= 2  # told to nobody
    made.run(version=5)
    np.testing.assert_array_equal(y, before)
    assert made.kept_bytes > constants[0].nbytes
    made.run(version=6)
    np.testing.assert_array_equal(y, by_doors(calls, y))


def test_a_filter_that_is_computed_is_no_constant():
    constants, (x,), y, ((door, arguments), _) = CASES["winograd"]()
    (w,) = arrays(9, constants[0].shape)
    calls = [(relu_forward, (w, w)), (door, (x, w, *arguments[2:]))]
    made = program.Program(calls, constants)
    for seed in range(4):
        w[...] = arrays(seed, w.shape)[0]
        made.run(version=1)
        found, w[...] = y.copy(), arrays(seed, w.shape)[0]
        np.testing.assert_array_equal(found, by_doors(calls, y))


def test_other_functions_stay_calls():
    seen, (x,) = [], arrays(0, (40,))
    made = program.Program([(relu_forward, (x, x)), (seen.append, (1,)), (relu_forward, (x, x))])
    for _ in range(4):
        made.run()
    assert seen == [1] * 4


@pytest.mark.skipif(launch.thread_limit() < 2, reason="one thread")
def test_other_threads_and_other_memory_begin_anew(with_threads):
    _, _, y, calls = CASES["gather"]()
    made = program.Program(calls)
    expected = by_doors(calls, y)
    for count in (2, 2, 2, 1, 1, 1, 2, 2, 2):
        y.fill(np.nan)
        with_threads(count, made.run)
        np.testing.assert_array_equal(y, expected)
    workspace.release()
    assert made._tape is not None
    made.run()
    assert made._tape is None
    np.testing.assert_array_equal(y, expected)


def test_a_guard_stops_the_run_and_a_later_one_goes_on():
    (x,), numbers, counts = arrays(0, (40,)), np.zeros(3), np.zeros(2, np.int64)
    before, between, after = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    made = program.Program(
        [
            (relu_forward, (x, before)), (program.stop_unless_finite, (numbers,)),
            (relu_forward, (x, between)), (program.stop_if_any, (counts,)), (relu_forward, (x, after)),
        ]
    )  # fmt: skip
    bad = {0: (np.nan, 0), 1: (0, 2), 3: (-np.inf, 1), 4: (0, 1), 5: (0, -1)}  # by doors, then by the program
    for run in range(7):
        for array in (before, between, after):
            array.fill(-1)
        numbers[1], counts[1] = bad.get(run, (0, 0))
        if run in bad:
            with pytest.raises(program.GuardError):
                made.run()
        else:
            made.run()
        assert (before >= 0).all()
        assert (between >= 0).all() == np.isfinite(numbers[1])
        assert (after >= 0).all() == (run not in bad)
    assert [step.__name__ for step, _ in made._tape._steps[1]] == ["_run_stretch"]


def test_entry_takes_every_kind_of_argument():
    (x,) = arrays(0, (5, 7))
    y = np.empty_like(x)
    made = program.Program([(activation.leaky_relu_forward, (x, 0.25, y)), (activation.elu_forward, (y, 0.5, y))])
    for _ in range(3):
        made.run()
    leaky = np.where(x > 0, x, 0.25 * x)
    np.testing.assert_allclose(y, np.where(leaky > 0, leaky, 0.5 * np.expm1(leaky)), rtol=1e-5, atol=1e-6)


def test_rehearsal_runs_nothing_and_counts_what_would_be_kept():
    constants, _, y, calls = CASES["winograd"]()
    y.fill(7)
    rehearsed, made = program.Program(calls, constants), program.Program(calls, constants)
    with workspace.rehearsal(workspace.aligned_empty):
        rehearsed.run()
    assert (y == 7).all()
    made.run()
    assert rehearsed.kept_bytes == made.kept_bytes > 0


@pytest.mark.parametrize(("channels", "filters", "size", "groups"), [(24, 40, 3, 1), (24, 40, 1, 1), (40, 40, 3, 40)])
@pytest.mark.parametrize("algorithm", ["auto", "direct", "scatter"])
def test_launches_with_plans_need_no_python(channels, filters, size, groups, algorithm):
    """A plan is a tuple of numbers, tuples and arrays: all travel as words of machine code."""
    pad = ((0, 0), (size // 2, size // 2), (size // 2, size // 2))
    x, w, y = arrays(0, (2, 1, 9, 9, channels), (1, size, size, channels // groups, filters), (2, 1, 9, 9, filters))
    with launch.recording() as launches:
        conv.conv_forward(x, w, None, ONE, pad, ONE, groups, 0, y, algorithm)
        conv.conv_backward_input(y, w, ONE, pad, ONE, groups, x, algorithm)
        conv.conv_backward_weight(x, y, ONE, pad, ONE, groups, w)
    assert launches
    assert [each.kernel.__name__ for each in launches if native_launch._native(each) is None] == []
