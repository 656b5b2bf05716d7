"""Types of the sizes that entry points take."""

Pair = tuple[int, int]  # before and after, along one axis
Triple = tuple[int, int, int]  # of depth, height and width
Padding = tuple[Pair, Pair, Pair]
