"""Between channels last and PyTorch's channels first, for oracles."""

from collections.abc import Callable
from typing import Any


def first(x: Any) -> Any:
    """Return a channels-last tensor (N, ..., C) as (N, C, ...)."""
    return x.movedim(-1, 1)


def last(x: Any) -> Any:
    """Return a channels-first tensor (N, C, ...) as (N, ..., C)."""
    return x.movedim(1, -1)


def channels_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an oracle from `function(torch, x)`, which works channels first."""

    def oracle(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
        return last(function(torch, first(xs[0])))

    return oracle


def filters(weight: Any) -> Any:
    """Return a filter (..., C / groups, K) as PyTorch's (K, C / groups, ...)."""
    return weight.movedim(-1, 0).movedim(-1, 1)
