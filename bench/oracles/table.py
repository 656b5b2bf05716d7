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

EDGES = """
## At the edges

- NaN passes forward. The gradient there is that of the piece which PyTorch's comparisons fail into, the same in every
  lane, room and fused kernel: dy for `ReLU`, `ReLU6`, `ELU` and `Hardswish` (so a NaN that a clip lets pass lets its
  gradient pass, too), slope * dy for `LeakyReLU`, 0 for `Abs`, and NaN for the smooth ones. Max-pooling takes the last
  NaN of a window for its maximum, and gives it the gradient.
- Normalizations measure around a number of their input, in two passes, and again in float64 where a sum leaves the
  range of float32: what is constant gives 0 whatever its size, and deviations to 1e37 are normalized. In float64 a
  variance above 1e308 is infinite and what it divides 0, and so is a running variance above 3e38 in float32, as in
  PyTorch. Means and Euclidean norms of windows hold where their sums would overflow.
- `Upsample` takes the nearest pixels that PyTorch takes for a contiguous array of the same dtype. Its gradient is the
  transpose of that; PyTorch's goes by the sizes alone, also where its way forward goes by the scale factor.
- The batch may be empty, and no other axis.
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
    yield EDGES.rstrip("\n")
