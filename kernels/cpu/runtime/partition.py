"""How work is cut into tasks."""

LINE = 64  # bytes of a cache line
MIN_TASKS = 32  # enough to keep 16 threads busy to the end
SERIAL_FLOPS = 2_000_000  # below this a second thread costs more to wake than it saves


def blocks_of(count: int, largest: int) -> tuple[int, int]:
    """Cut count into equal blocks of at most `largest`: return (block, number of blocks)."""
    number = -(-count // max(1, largest))
    block = -(-count // number)
    return block, -(-count // block)
