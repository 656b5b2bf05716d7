"""Axes that hold nothing: an empty batch passes every layer both ways, any other one is refused in a sentence."""

from copy import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastcnn as fc

MODES = ("constant", "reflect", "replicate", "circular")
RANKED = {  # rank: layers of images (..., 4)
    rank: [
        *[getattr(fc, f"{name}{rank}d")(*given) for name, given in (
            ("Conv", (4, 6, 3, 1, 1)), ("ConvTranspose", (4, 6, 3)), ("SeparableConv", (4, 6, 3)),
            ("MaxPool", (2,)), ("AvgPool", (2,)), ("LPPool", (2, 2)), ("LPPool", (1, 2)), ("AdaptiveAvgPool", (2,)),
            ("AdaptiveMaxPool", (2,)), ("BatchNorm", (4,)), ("InstanceNorm", (4,)), ("Dropout", (0.5,)),
        )],
        *[fc.Pad(1, mode) for mode in MODES], fc.Upsample(scale_factor=1.5), fc.Upsample(3), fc.Subsample(1),
        fc.Upsample(3, mode=("linear", "bilinear", "trilinear")[rank - 1]),
        *[getattr(fc, f"Conv{rank}d")(4, 2, 3, padding=1, padding_mode=mode) for mode in MODES[1:]],
    ]
    for rank in (1, 2, 3)
}  # fmt: skip
ANY = [
    fc.ReLU(), fc.ReLU6(), fc.ELU(), fc.GELU(), fc.Softmax(), fc.LogSoftmax(), fc.Abs(), fc.Gain(4), fc.Identity(),
    fc.GlobalAvgPool(), fc.GlobalMaxPool(), fc.Flatten(), fc.Dropout(0.5), fc.LayerNorm(4), fc.GroupNorm(2, 4),
    fc.LocalResponseNorm(3), fc.PadChannels(1, 2), fc.Add(), fc.Multiply(), fc.Concat(), fc.Linear(4, 3),
    fc.Permute((1, 0)), fc.Reshape((-1,)), fc.Elementwise(lambda x: 2 * x, lambda x: 2.0),
]  # fmt: skip
ALL = [(layer, rank) for rank, layers in RANKED.items() for layer in layers]
ALL += [(fc.LocalContrastNorm(3), 2), (fc.GaussianPool2d(2), 2)]
ALL += [(layer, rank) for layer in ANY for rank in ((1,) if isinstance(layer, fc.Permute) else (1, 2, 3))]


def on_device(layer, device):
    """Return a copy of a layer that has not run yet."""
    made = copy(layer)
    made.device = device
    return made


def inputs(layer, shape, batch):
    """Return as many arrays as the layer takes."""
    return [np.ones((batch, *shape), "float32")] * layer.arity


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("layer", "rank"), ALL, ids=repr)
def test_an_empty_batch_passes_both_ways(device, training, layer, rank):
    shape = (4,) if isinstance(layer, fc.Linear) else (5, 6, 7)[:rank] + (4,)
    made = on_device(layer, device)
    made.train(training)
    xs = inputs(made, shape, 0)
    y = made.forward(*xs)
    assert y.shape == (0, *made.output_shape(*[shape] * made.arity))
    dx = made.backward(y)
    assert (dx[0] if isinstance(dx, tuple) else dx).shape == xs[0].shape
    assert all(not gradient.any() for gradient in made.grads.values())


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize(("layer", "rank"), ALL, ids=repr)
def test_any_other_empty_axis_is_refused(device, layer, rank):
    made = on_device(layer, device)
    for axis in range(rank + 1):
        shape = tuple(0 if i == axis else size for i, size in enumerate((5, 6, 7)[:rank] + (4,)))
        for batch in (0, 1):
            with pytest.raises(fc.ShapeError, match=r"axes of at least 1: only the batch may be empty") as caught:
                made.forward(*inputs(made, shape, batch))
            assert str(caught.value).count(". ") == 0
        with pytest.raises(fc.ShapeError, match="axes of at least 1"):
            made.output_shape(*[shape] * made.arity)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(lambda sizes: 0 in sizes))
def test_inputs_of_networks(sizes):
    with pytest.raises(fc.ArgumentError, match="whole numbers >= 1"):
        fc.Input(*sizes)
    with pytest.raises(fc.FastcnnError):
        fc.Sequential(fc.ReLU(), input_shape=tuple(sizes))


def test_unpooling_and_pooling_with_indices():
    layer = fc.MaxPool1d(2, return_indices=True)
    values, indices = layer.forward(np.ones((0, 4, 3), "float32"))
    assert values.shape == indices.shape == (0, 2, 3)
    assert fc.MaxUnpool1d(2).forward(values, indices).shape == (0, 4, 3)
    for refusing, arrays in ((layer, [np.ones((1, 0, 3))]), (fc.MaxUnpool1d(2), [np.ones((1, 0, 3))] * 2)):
        with pytest.raises(fc.ShapeError, match="axes of at least 1"):
            refusing.forward(arrays[0], *[array.astype(int) for array in arrays[1:]])
