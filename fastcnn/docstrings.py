"""Docstrings of a family of classes: what a base says of an argument stands in the docstring of every subclass.

An argument that many share is described once, under "Parameters" of the class (or function) that brings it in. From
there each subclass takes those of its constructor's arguments that it does not describe itself, and the sections of
`INHERITED` that it lacks, so that `help(Conv2d)` explains all of them. Defaults are added from the signature, and axes
are written out for classes of one rank: "(N, *image, C)" becomes "(N, H, W, C)".
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

Anything = TypeVar("Anything", bound=Callable[..., Any])

INHERITED = ("Shapes", "Attributes", "Notes", "Raises")
AXES = {"*filter": "TRS", "*image": "DHW", "*output": "OPQ", "*ones": "111"}
Entry = tuple[list[str], str, list[str]]  # names, what follows " : ", and the lines of the description


class Described:
    """The base of classes whose docstrings are completed by those of their bases."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if cls.__dict__.get("__doc__"):
            bases = [base.__doc__ for base in cls.__mro__[1:] if base not in (Described, object)]
            cls.__doc__ = completed(cls.__doc__ or "", bases, cls.__init__, getattr(cls, "rank", None))


def describe(function: Anything, *shared: str) -> Anything:
    """Complete a function's docstring by descriptions of shared arguments, and return the function."""
    if function.__doc__:
        function.__doc__ = completed(function.__doc__, shared, function)
    return function


def completed(doc: str, bases: Any, function: Any, rank: int | None = None) -> str:
    r"""Return a docstring with descriptions of all arguments that it or one of the `bases` (nearest first) describes.

    >>> base = "\n".join(("Parameters", "----------", "x, y", "    Numbers.", "by", "    A factor."))
    >>> completed("Return by * x.", [base], lambda x, by=2.0: by * x).split("\n")[4:]
    ['x', '    Numbers.', 'by : default 2.0', '    A factor.']
    """
    parts = sections(inspect.cleandoc(doc))
    known = [entries(part) for part in parts if part.startswith("Parameters\n")]
    own = known[0] if known else []
    inherited = [sections(inspect.cleandoc(base)) for base in bases if base]
    told = [entry for base in inherited for part in base if part.startswith("Parameters\n") for entry in entries(part)]
    names, defaults = _arguments(function)
    found = _chosen(names, own, told)
    if found:
        found.sort(key=lambda entry: min((names.index(n) for n in entry[0] if n in names), default=0))
        section = "\n".join(["Parameters", "----------", *(_written(entry, defaults) for entry in found)])
        parts = _with(parts, section)
    for title in INHERITED:
        extra = next((part for base in inherited for part in base if part.startswith(f"{title}\n-")), None)
        if extra and not any(part.startswith(f"{title}\n-") for part in parts):
            parts = _with(parts, extra)
    return _spelled("\n\n".join(parts), rank)


def sections(doc: str) -> list[str]:
    """Cut a docstring into its paragraphs: a numpydoc section up to the next empty line is one of them."""
    return [part for part in re.split(r"\n[ ]*\n", doc.strip("\n")) if part]


def entries(section: str) -> list[Entry]:
    """Return the arguments of a "Parameters" section."""
    found: list[Entry] = []
    for line in section.split("\n")[2:]:
        if line.startswith(" "):
            found[-1][2].append(line)
        else:
            names, _, kind = line.partition(" : ")
            found.append(([name.strip().lstrip("*") for name in names.split(",")], kind, []))
    return found


def _chosen(names: list[str], own: list[Entry], told: list[Entry]) -> list[Entry]:
    """Return the own entries, and for each name that they lack the first one told of it."""
    found = list(own)
    missing = [name for name in names if not any(name in entry[0] for entry in own)]
    for given, kind, lines in told:
        some = [name for name in given if name in missing]
        if some:
            found.append((some, kind.partition("default ")[0].rstrip(", "), lines))
            missing = [name for name in missing if name not in some]
    return found


def _written(entry: Entry, defaults: dict[str, str]) -> str:
    names, kind, lines = entry
    told = [defaults[name] for name in names if name in defaults]
    if told and len(told) == len(names) and not kind:
        kind = "default " + ", ".join(told if len(set(told)) > 1 else told[:1])
    return "\n".join([", ".join(names) + (f" : {kind}" if kind else ""), *lines])


def _arguments(function: Any) -> tuple[list[str], dict[str, str]]:
    """Return the names of a function's arguments, but `self`, and what their defaults look like."""
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None:
        return [], {}
    positional = code.co_varnames[: code.co_argcount]
    names = list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    if code.co_flags & inspect.CO_VARARGS:
        names.insert(code.co_argcount, code.co_varnames[len(names)])
    values = function.__defaults__ or ()
    defaults = dict(zip(positional[len(positional) - len(values) :], values, strict=True))
    defaults |= function.__kwdefaults__ or {}
    return [name for name in names if name != "self"], {name: repr(value) for name, value in defaults.items()}


def _with(parts: list[str], section: str) -> list[str]:
    """Return the paragraphs with a section in place of the one of its title, or before other sections and examples."""
    title = section.partition("\n")[0]
    for i, part in enumerate(parts):
        if part.startswith(f"{title}\n-"):
            return [*parts[:i], section, *parts[i + 1 :]]
    order = ("Parameters", *INHERITED)
    before = order[: order.index(title)]
    at = max((i + 1 for i, part in enumerate(parts) if part.startswith(tuple(f"{t}\n-" for t in before))), default=0)
    if not at:
        starts = (i for i, part in enumerate(parts) if part.startswith(">>>") or re.match(r"[A-Z]\w+\n--", part))
        at = next(starts, len(parts))
    return [*parts[:at], section, *parts[at:]]


def _spelled(doc: str, rank: int | None) -> str:
    """Return a docstring with the axes of one rank written out."""
    if rank is None:
        return doc
    for group, letters in AXES.items():
        doc = doc.replace(group, ", ".join(letters[3 - rank :]))
    return doc
