"""How objects are written: as the call that makes them, with the arguments that differ from their defaults."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np

LONGEST_LIST = 32  # numbers of an array that are written out: a line or two


class Written:
    """The base of classes whose attributes have their constructor's names."""

    shown: ClassVar[tuple[str, ...]] = ()
    """Arguments that are written even where they have their defaults; the constructor's first one without its name."""

    def __repr__(self) -> str:
        names = inspect.signature(type(self)).parameters
        values = {name: getattr(self, name) for name in names if hasattr(self, name)}
        return written_call(type(self), values, self.shown)


def written_call(kind: type, values: Mapping[str, Any], shown: Collection[str] = ()) -> str:
    """Return the call of a class with these arguments, as far as they differ from their defaults or are `shown`.

    >>> from fractions import Fraction
    >>> written_call(Fraction, {"numerator": 0, "denominator": 3})
    'Fraction(denominator=3)'
    """
    words: list[str] = []
    arguments = inspect.signature(kind).parameters if values else {}
    for key, value in values.items():
        argument = arguments[key]
        if argument.kind is inspect.Parameter.VAR_POSITIONAL:
            words += map(written, value)
        elif argument.default is inspect.Parameter.empty or (key in shown and key == next(iter(arguments))):
            words.append(written(value))
        elif key in shown or not _same(value, argument.default):
            words.append(f"{key}={written(value)}")
    return f"{kind.__name__}({', '.join(words)})"


def written(value: Any) -> str:
    """Return an argument as it is given: arrays as lists, long ones as their shapes, NumPy's numbers as Python's.

    >>> written(np.array([1.0, 2.0])), written(np.float64(0.5)), written(np.dtype("float32"))
    ('[1.0, 2.0]', '0.5', "'float32'")
    >>> written(np.ones(1000))
    '<array (1000,) float64>'
    """
    if isinstance(value, np.ndarray) and value.size > LONGEST_LIST:
        return f"<array {value.shape} {value.dtype}>"
    if isinstance(value, np.ndarray | np.generic):
        return repr(value.tolist())
    return repr(value.name) if isinstance(value, np.dtype) else repr(value)


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, np.ndarray) or isinstance(default, np.ndarray):
        return bool(np.array_equal(value, default))
    return bool(value == default)
