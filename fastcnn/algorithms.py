"""Which algorithm convolutions use: a switch for all layers that leave the choice open.

"auto" takes the fastest for each shape. "direct" adds the products of the definition in float32, without the larger
rounding of Winograd's transforms (some eight times as much, a few millionths of the output's magnitude).
"""

from fastcnn.errors import ArgumentError

ALGORITHMS = ("auto", "direct")

_switch = "auto"


def check_algorithm(name: str) -> str:
    """Return `name`, or refuse what is no algorithm."""
    if name not in ALGORITHMS:
        raise ArgumentError(f"algorithm={name!r} was given: choose one of {', '.join(ALGORITHMS)}.")
    return name


def set_convolution_algorithm(name: str) -> None:
    """Let every convolution whose own `algorithm` is "auto" use this one, from its next plan on.

    Parameters
    ----------
    name
        "auto", the fastest for each shape, or "direct", the sums of the definition (else ArgumentError).

    >>> set_convolution_algorithm("direct")
    >>> set_convolution_algorithm("auto")
    """
    global _switch
    _switch = check_algorithm(name)


def resolve_algorithm(own: str) -> str:
    """Return the algorithm of a layer: its own, or the switch's where it has none."""
    return _switch if own == "auto" else own
