"""The table of operations: rooms, dtypes, oracle and worst error of each, as Markdown."""

from collections.abc import Iterator

from fastcnn.backend import DEVICES
from fastcnn.bench.oracles import collect
from fastcnn.bench.oracles.operation import Operation, compare

HEADER = """# Operations and how far they are from their oracles

Written by `fastcnn operations --out docs/operations.md`. Every operation runs in each room and dtype, forward and
backward, beside PyTorch in float64 or, where PyTorch lacks it, its equation in NumPy (gradients by central differences,
which are good to about 1e-9 themselves). An error is the largest difference over the largest magnitude, the worst of
the rooms; "gradient" is the worst of all gradients by inputs and parameters.

| operation | rooms | oracle | float64 forward | float64 gradient | float32 forward | float32 gradient |
| --- | --- | --- | --- | --- | --- | --- |
"""


def row(operation: Operation) -> str:
    """Return one line of the table."""
    cells = []
    for dtype in ("float64", "float32"):
        errors = [compare(operation, device, dtype) for device in DEVICES]
        cells += [f"{max(values):.0e}" for values in zip(*errors, strict=True)]
    return f"| {' | '.join([operation.name, ', '.join(DEVICES), operation.against, *cells])} |"


def lines() -> Iterator[str]:
    """Yield the page, a line or more at a time; needs PyTorch."""
    yield HEADER.rstrip("\n")
    for operations in collect().values():
        for operation in operations:
            yield row(operation)
