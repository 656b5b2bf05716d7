"""Random graphs, for tests that hold for any network."""

from math import prod

from hypothesis import strategies as st

import fastcnn as fc

KINDS = ("layer", "layer", "in place", "in place", "view", "conv", "linear", "norm", "add", "add", "multiply", "concat")


def one_input(shape, shared):
    """Return makers of layers that take one image of this shape."""
    height, width, channels = shape
    again = shared.setdefault(channels, fc.Conv2d(channels, channels, 3, padding=1))
    makers = [
        fc.ReLU, fc.GELU, fc.Sigmoid, fc.SiLU, fc.LeakyReLU, fc.ReLU6, fc.Softmax, fc.Identity,
        lambda: fc.Conv2d(channels, 3, 3, padding=1), lambda: fc.Conv2d(channels, 4, 1, bias=False), lambda: again,
        lambda: fc.Conv2d(channels, 4, 3, padding=1, padding_mode="replicate"),
        lambda: fc.BatchNorm2d(channels), lambda: fc.GroupNorm(1, channels), lambda: fc.LayerNorm(channels),
        lambda: fc.LocalResponseNorm(3), lambda: fc.Gain(channels),
        lambda: fc.Dropout(0.4), lambda: fc.Dropout2d(0.4), lambda: fc.Permute(1, 0, 2),
        lambda: fc.Reshape(1, height * width, channels), lambda: fc.PadChannels(0, 1), lambda: fc.Pad(1),
    ]  # fmt: skip
    if len(shape) == 3 and min(height, width) >= 2:
        makers += [lambda: fc.MaxPool2d(2), lambda: fc.AvgPool2d(2, 1), lambda: fc.LPPool2d(2, 2)]
    return [maker for maker in makers if maker is not fc.Softmax or channels > 1]


@st.composite
def networks(draw):
    """Draw a graph: branches that part and join, layers used twice, views, and outputs that others read, too."""
    nodes = [fc.Input(4, 4, 3) for _ in range(draw(st.integers(1, 2)))]
    inputs, shared = list(nodes), {}
    for _ in range(draw(st.integers(1, 9))):
        node = draw(st.sampled_from(nodes[-4:]))
        alike = [other for other in nodes if other.shape == node.shape]
        kind = draw(st.sampled_from(KINDS))
        other = draw(st.sampled_from(alike))
        if kind == "add":
            made = (
                [fc.ReLU()(node + other)]
                if draw(st.booleans())
                else [fc.Add()(node, other, draw(st.sampled_from(alike)))]
            )
        elif kind == "multiply":
            made = [node * other]
        elif kind == "concat":
            made = [fc.Concat()(node, other)]
        elif kind == "conv":  # what fusion makes one step of
            inner = fc.Conv2d(node.shape[-1], 3, 3, padding=1)(node)
            made = [fc.ReLU()(inner)]
            if min(made[0].shape[:2]) >= 2 and draw(st.booleans()):
                made.append(fc.MaxPool2d(2)(made[0]))
        elif kind == "in place":
            made = [draw(st.sampled_from((fc.ReLU, fc.GELU, fc.SiLU)))()(node)]
        elif kind == "view":
            made = [fc.Reshape(1, prod(node.shape[:-1]), node.shape[-1])(node)]
        elif kind == "linear":
            rows = fc.Flatten()(node)
            made = [fc.Reshape(2, 2, 3)(fc.Sigmoid()(fc.Linear(rows.shape[0], 12)(rows)))]
        elif kind == "norm":
            inner = fc.BatchNorm2d(node.shape[-1])(node)
            made = [fc.ReLU()(inner + other)] if draw(st.booleans()) else [fc.ReLU6()(inner)]
        else:
            made = [draw(st.sampled_from(one_input(node.shape, shared)))()(node)]
        nodes += made
    outputs = draw(st.lists(st.sampled_from(nodes[len(inputs) :]), min_size=1, max_size=2, unique=True))
    if nodes[-1] not in outputs:
        outputs.append(nodes[-1])
    reached = {source for node in in_order(outputs) for source in (node, *node.inputs)}
    return [node for node in inputs if node in reached], outputs


def in_order(outputs):
    found, waiting = set(), list(outputs)
    while waiting:
        node = waiting.pop()
        found.add(node)
        waiting += node.inputs
    return found
