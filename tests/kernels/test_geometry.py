"""Blocks of a convolution's outputs: as large as their source fits a cache, for any number of rows."""

from time import perf_counter

from hypothesis import given
from hypothesis import strategies as st

from fastcnn.kernels.cpu.convolution.axes import Axis
from fastcnn.kernels.cpu.convolution.direct_plan import SOURCE_BYTES, block_shape
from fastcnn.kernels.cpu.runtime.partition import blocks_of


def axis(outputs: int, step: int = 1, extent: int = 1) -> Axis:
    return Axis((0,), (extent - 1,), 0, step, 0, 1, outputs)


@given(
    rows=st.integers(1, 400), columns=st.integers(1, 60), step=st.integers(1, 4), extent=st.integers(1, 12),
    channels=st.integers(0, 600),
)  # fmt: skip
def test_a_block_has_the_most_rows_whose_source_fits(rows, columns, step, extent, channels):
    tile_rows, pixel, many = 6, channels * 4, 10**6
    found = block_shape(many, (axis(1), axis(rows, step, extent), axis(columns)), channels, 4, tile_rows)

    def source(high: int, wide: int) -> int:
        return ((high - 1) * step + extent) * wide * pixel

    wide = columns
    while wide > tile_rows and source(1, wide) > SOURCE_BYTES:
        wide = -(-wide // 2)
    fitting = [high for high in range(1, rows + 1) if source(high, wide) <= SOURCE_BYTES]
    assert found == (blocks_of(rows, max(fitting, default=1))[0], blocks_of(columns, wide)[0])


def test_it_takes_no_longer_for_many_rows():
    start = perf_counter()
    rows, columns = block_shape(1, (axis(1), axis(10**12), axis(1)), 84, 4, 6)
    assert perf_counter() - start < 1  # one by one it would take days
    assert 1 <= rows * 84 * 4 <= SOURCE_BYTES
    assert columns == 1
