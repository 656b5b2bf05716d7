"""Values of arguments: what is no number that a float holds, or an array for one value, is refused in a sentence."""

import inspect
from decimal import Decimal

import numpy as np
import pytest

import fastcnn as fc
from fastcnn import initializers
from fastcnn.layers import LAYERS

NO_NUMBERS = [float("nan"), 10**400, -(10**400), "1", None, [1.0], True, 1j, np.array([0.5, 0.5]), b"1"]

LEADING = {
    "num_features": 4, "num_groups": 2, "num_channels": 4, "normalized_shape": 4, "in_channels": 4, "out_channels": 4,
    "kernel_size": 3, "size": 3, "output_size": 2, "channels": 4, "before": 1, "after": 1, "in_features": 4,
    "out_features": 4, "padding": 1, "norm_type": 2.0, "lr": 0.1, "value": 0.5,
}  # fmt: skip


def leading(cls):
    """Return the arguments that a class does not go without."""
    parameters = inspect.signature(cls).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return {p.name: LEADING[p.name] for p in needed} if all(p.name in LEADING for p in needed) else None


def arguments_of(classes, kind):
    """Return (class, argument) for all whose default is of a kind."""
    found = []
    for cls in sorted(classes, key=lambda cls: cls.__name__):
        if leading(cls) is not None:
            found += [(cls, p.name) for p in inspect.signature(cls).parameters.values() if type(p.default) is kind]
    return found


RULES = set(initializers.INITIALIZERS.values())
NUMBERS = arguments_of({*LAYERS.values(), *RULES, fc.SGD, fc.Adam, fc.RMSprop, fc.Adagrad, fc.Whitening}, float)
NUMBERS += [(initializers.Constant, "value"), (fc.LPPool2d, "norm_type")]
TRUTHS = arguments_of(LAYERS.values(), bool)


def test_the_arguments_are_found():
    assert {(fc.LeakyReLU, "negative_slope"), (fc.BatchNorm2d, "eps"), (initializers.Normal, "std")} <= set(NUMBERS)
    assert {(fc.Linear, "bias"), (fc.BatchNorm2d, "affine"), (fc.AvgPool2d, "ceil_mode")} <= set(TRUTHS)


@pytest.mark.parametrize(("cls", "name"), NUMBERS)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:9])
def test_what_is_no_number_is_refused(cls, name, value):
    if value is None and inspect.signature(cls).parameters[name].annotation not in (float, "float"):
        return
    if isinstance(value, float) and (cls, name) == (fc.Pad, "value"):
        return  # a padding of NaN is one
    with pytest.raises(fc.ArgumentError) as caught:
        cls(**leading(cls) | {name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize(("cls", "name"), TRUTHS)
def test_an_array_for_one_value_is_refused(cls, name):
    if name == "inplace":
        return  # ignored
    with pytest.raises(fc.SignatureError, match=rf"^{cls.__name__} was given an array as {name}"):
        cls(**leading(cls) | {name: np.zeros(4)})


@pytest.mark.parametrize("rule", [initializers.Normal(0, 0), initializers.TruncatedNormal(low=0, high=np.inf)])
def test_numbers_at_the_ends_are_taken(rule):
    assert np.isfinite(fc.Linear(3, 2, weight_init=rule).params["weight"]).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: initializers.Normal(std=-1.0),
        lambda: initializers.HeNormal(gain=-1.0),
        lambda: initializers.HeUniform(gain=-1.0),
        lambda: initializers.Uniform(1.0, -1.0),
        lambda: initializers.TruncatedNormal(low=float("nan")),
        lambda: initializers.TruncatedNormal(mean=Decimal("0.5")),
    ],
)
def test_initializers_refuse_what_they_cannot_draw(make):
    with pytest.raises(fc.ArgumentError):
        make()


@pytest.mark.parametrize("rule", ["HeNormal", 3, np.zeros(3), initializers.HeNormal, lambda shape, generator: 0])
@pytest.mark.parametrize(
    "make", [lambda: fc.Linear(2, 2), lambda: fc.Conv2d(1, 2, 3), lambda: fc.SeparableConv2d(1, 2, 3)]
)
def test_a_rule_assigned_later_is_checked_as_the_first_one(rule, make):
    layer = make()
    with pytest.raises(fc.ArgumentError, match="weight_init="):
        layer.weight_init = rule
    assert layer.weight_init is None
    layer.weight_init = initializers.Constant(0.5)
    assert (next(iter(layer.params.values())) == 0.5).all()
