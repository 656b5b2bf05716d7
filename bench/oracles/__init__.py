"""What every operation is compared with: PyTorch in float64, or its equation in NumPy.

Each module lists the operations of one family as `OPERATIONS`; `collect` returns them all.
"""

from importlib import import_module

from fastcnn.bench.oracles.operation import Operation

FAMILIES = ("convolution", "pooling", "activation", "normalization", "regrouping", "losses")


def collect(families: tuple[str, ...] = FAMILIES) -> dict[str, list[Operation]]:
    """Return the operations by family.

    >>> "Conv2d" in [operation.name for operation in collect()["convolution"]]
    True
    """
    return {family: import_module(f"fastcnn.bench.oracles.{family}").OPERATIONS for family in families}
