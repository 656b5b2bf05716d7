"""The gradient of 1x1 filters by weights: exact however the work is cut, and the same for any number of threads."""

import numpy as np
import pytest
from problems import describe

from fastcnn.kernels.cpu.convolution.pointwise_backward_weight import applies, plan_pointwise
from fastcnn.kernels.cpu.simd.tile import tiles

UNPADDED = ((0, 0),) * 3
CASES = {  # images, image, stride, C, K, groups
    "roles as they are": (3, (1, 14, 14), (1, 1, 1), 160, 96, 1),
    "roles changed": (2, (1, 40, 40), (1, 1, 1), 160, 16, 1),
    "roles changed, in chunks": (4, (1, 40, 40), (1, 1, 1), 96, 8, 1),
    "parts of vectors": (5, (1, 13, 11), (1, 1, 1), 47, 85, 1),
    "roles changed, parts of vectors": (2, (1, 40, 40), (1, 1, 1), 150, 11, 1),
    "pixels that alias": (2, (1, 9, 9), (1, 1, 1), 40, 1024, 1),
    "strided images": (19, (1, 14, 14), (1, 2, 2), 33, 64, 1),
    "strided, odd images": (7, (1, 9, 7), (1, 2, 3), 64, 8, 1),
    "strided, rows longer than a block": (2, (1, 3, 1300), (1, 2, 2), 20, 40, 1),
    "strided volumes": (3, (5, 8, 6), (2, 2, 1), 24, 40, 1),
    "groups": (3, (1, 12, 12), (1, 1, 1), 60, 96, 3),
    "groups of many channels": (2, (1, 40, 40), (1, 2, 2), 96, 128, 2),
    "one pixel": (1, (1, 1, 1), (1, 1, 1), 100, 70, 1),
    "one channel": (3, (1, 20, 20), (1, 1, 1), 1, 50, 1),
    "one filter": (3, (1, 20, 20), (1, 1, 1), 50, 1, 1),
}


def arrays(integers, fit, dtype, name):
    """Return x, dy, the shape of dw and the problem."""
    N, image, stride, C, K, groups = CASES[name]
    geometry = fit(image, (1, 1, 1), stride, UNPADDED, (1, 1, 1))
    x, dy = integers(1, (N, *image, C), dtype), integers(2, (N, *geometry.output, K), dtype)
    problem = describe(x, dy, (1, 1, 1), stride, UNPADDED, (1, 1, 1), groups)
    assert applies(problem, 14, 4)
    return x, dy, (1, 1, 1, C // groups, K), problem


@pytest.mark.parametrize("name", CASES)
def test_every_cut_is_exact(reference, cpu, fill, integers, fit, dtype, name):
    x, dy, shape, problem = arrays(integers, fit, dtype, name)
    got, want = (
        fill(room.conv.conv_backward_weight, x, dy, problem, shapes=[shape], dtype=dtype) for room in (cpu, reference)
    )
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["roles changed, in chunks", "parts of vectors", "groups of many channels"])
def test_threads_change_no_bit(cpu, fill, fit, integers, with_threads, name):
    x, dy, shape, problem = arrays(integers, fit, "float32", name)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(a.shape, np.float32) for a in (x, dy))

    def run():
        return fill(cpu.conv.conv_backward_weight, x, dy, problem, shapes=[shape], dtype=np.dtype("float32"))

    np.testing.assert_array_equal(with_threads(1, run), with_threads(2, run))


def test_roles_change_where_filters_are_few():
    block = tiles("float32")
    one, how = (1, 1, 1), (block.rows, block.lanes, 4)
    problems = (describe((16, 1, 14, 14, 480), (16, 1, 14, 14, K), one, one, UNPADDED, one) for K in (192, block.lanes))
    many, few = (plan_pointwise(problem, *how) for problem in problems)
    assert (many.swapped, few.swapped) == (False, True)
