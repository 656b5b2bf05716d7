"""Constructors and functions that refuse in a sentence what they do not take, as arguments of PyTorch not here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, TypeVar, cast

import numpy as np

from fastcnn.errors import SignatureError

Class = TypeVar("Class", bound=type)
Function = TypeVar("Function", bound=Callable[..., Any])

TELLING = bool | int | float | str | None
NO_TRUTH = "truth value of an array"  # what NumPy says where an array is taken for one value
LONGEST = 40  # characters of a value in a sentence


class ChecksArguments:
    """The base of classes whose constructors, and those of their subclasses, raise a SignatureError."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        check_arguments(cls)


def check_arguments(cls: Class) -> Class:
    """Let a class's own constructor, if it has one, refuse arguments that it does not take by a SignatureError.

    Its signature, documentation and types stay. Nothing is looked at before Python itself has refused the arguments.

    >>> @check_arguments
    ... class Cube:
    ...     def __init__(self, size: int, *, hollow: bool = False) -> None: ...
    >>> Cube(3, holow=True)
    Traceback (most recent call last):
        ...
    fastcnn.errors.SignatureError: Cube does not take holow=True: did you mean hollow? It takes size and hollow.
    """
    if "__init__" in vars(cls):
        cls.__init__ = _checked(cls.__init__, cls)  # type: ignore[misc]
    return cls


def _checked(init: Callable[..., None], owner: type) -> Callable[..., None]:
    @wraps(init)
    def checked(self: Any, *args: Any, **keywords: Any) -> None:
        try:
            init(self, *args, **keywords)
        except (TypeError, ValueError) as error:
            made = type(self)
            label = made.__name__ if made.__init__ is checked else owner.__name__
            if isinstance(error, TypeError):
                problem = _problem(_without_self(init), label, args, keywords)
            else:
                problem = _arrays(_without_self(init), made.__name__, args, keywords, error)
            if problem is None:
                raise  # of a value, or another function's fault
            raise SignatureError(problem) from None

    return checked


def checks_arguments(function: Function) -> Function:
    """Let a function, or a method, refuse what it does not take by a SignatureError, as `check_arguments` lets a class.

    >>> @checks_arguments
    ... def cube(size: int = 1) -> None: ...
    >>> cube(edge=3)
    Traceback (most recent call last):
        ...
    fastcnn.errors.SignatureError: cube does not take edge=3: it takes size.
    """

    @wraps(function)
    def checked(*args: Any, **keywords: Any) -> Any:
        try:
            return function(*args, **keywords)
        except TypeError:
            found, given = signature(function), args
            if next(iter(found.parameters), "") == "self":
                found, given = _without_self(function), args[1:]
            problem = _problem(found, function.__name__, given, keywords)
            if problem is None:
                raise  # another function's fault
            raise SignatureError(problem) from None

    return cast(Function, checked)


def _without_self(method: Callable[..., Any]) -> Signature:
    found = signature(method)
    return found.replace(parameters=list(found.parameters.values())[1:])


def _problem(found: Signature, label: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> str | None:
    """Return what is wrong with arguments; None if the signature takes them."""
    try:
        found.bind(*args, **keywords)
    except TypeError as error:
        reason = str(error)
    else:
        return None
    parameters = list(found.parameters.values())
    names = [p.name for p in parameters if p.kind is not Parameter.VAR_POSITIONAL]
    takes = f"it takes {_listed(names)}" if names else "it takes none"
    unknown = [name for name in keywords if name not in names]
    if unknown:
        given = _listed([f"{name}={_short(keywords[name])}" for name in unknown])
        near = get_close_matches(unknown[0], names, n=1)
        return f"{label} does not take {given}: " + (f"did you mean {near[0]}? I{takes[1:]}." if near else f"{takes}.")
    needed = [p.name for p in parameters if p.default is Parameter.empty and p.name in names]
    missing = [name for name in needed[len(args) :] if name not in keywords]
    if missing:
        return f"{label} was not given {_listed(missing)}: {takes}."
    placed = [p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    if len(args) > len(placed):
        by_name = f", and {_listed(names[len(placed) :])} by name only" if len(names) > len(placed) else ""
        return f"{label} was given {len(args)} arguments, and takes at most {len(placed)}{by_name}: {takes}."
    return f"{label}: {reason}; {takes}."


def _arrays(
    found: Signature, label: str, args: Sequence[Any], keywords: Mapping[str, Any], error: ValueError
) -> str | None:
    """Return which arguments are arrays, if an error says that one of them was taken for one value; else None."""
    given = found.bind(*args, **keywords).arguments if NO_TRUTH in str(error) else {}
    names = [name for name, value in given.items() if isinstance(value, np.ndarray)]
    return f"{label} was given an array as {_listed(names)}, and takes one value: give that." if names else None


def _short(value: Any) -> str:
    """Return a value as it is written, where that fits into a sentence."""
    return repr(value) if isinstance(value, TELLING) and len(repr(value)) <= LONGEST else "..."


def _listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
