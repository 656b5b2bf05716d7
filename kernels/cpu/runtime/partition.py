"""How work is cut into tasks."""

LINE = 64  # bytes of a cache line
MIN_TASKS = 32  # enough to keep 16 threads busy to the end
# Below these a second thread costs more to wake than it saves.
SERIAL_FLOPS = 2_000_000
SERIAL_ELEMENTS = 1 << 15
SERIAL_MOVES = 1 << 16  # elements that are hardly more than read and written
SERIAL_WINDOWS = 1 << 14  # elements that each sum up their neighbours
SERIAL_EXPONENTIALS = 1 << 12  # about 2 ns each
SERIAL_POWERS = 1 << 10  # about 10 ns each, once for every tap of a window


def blocks_of(count: int, largest: int) -> tuple[int, int]:
    """Cut count into equal blocks of at most `largest`: return (block, number of blocks)."""
    number = -(-count // max(1, largest))
    block = -(-count // number)
    return block, -(-count // block)
