"""What a convolution is, in shapes alone: the name by which layers hand it to a room, and a room caches its plans.

    x (N, D, H, W, C)   y (N, O, P, Q, K)   filter (T, R, S)   stride, dilation: pixels along D, H and W

oneDNN calls this the problem's descriptor. It stays that of the forward pass: the gradient by the input goes from y to
x, and a transposed convolution is described by the convolution that it transposes.
"""

from typing import NamedTuple

Shape = tuple[int, ...]
Triple = tuple[int, int, int]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair, Pair]  # (before, after) for depth, height and width


class ConvProblem(NamedTuple):
    """A convolution from an array of shape x to one of shape y."""

    x: Shape
    y: Shape
    filter: Triple
    stride: Triple
    padding: Padding
    dilation: Triple
    groups: int

    def ends(self, transposed: bool) -> tuple[Shape, Shape]:
        """Return the shapes of source and target: x and y, or y and x for the gradient by the input.

        >>> one = (1, 1, 1)
        >>> problem = ConvProblem((8, 1, 1, 9, 3), (8, 1, 1, 7, 5), (1, 1, 3), one, ((0, 0),) * 3, one, 1)
        >>> problem.ends(transposed=True)
        ((8, 1, 1, 7, 5), (8, 1, 1, 9, 3))
        """
        return (self.y, self.x) if transposed else (self.x, self.y)
