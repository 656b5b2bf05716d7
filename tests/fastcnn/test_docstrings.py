"""Every public class and function explains its arguments, and what it makes is written as the call that makes it."""

import ast
import inspect
import pydoc
import re
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastcnn as fc
from fastcnn import augment, data, filters, initializers, losses, models, schedules
from fastcnn.docstrings import completed, entries, sections
from fastcnn.representation import written_call

MODULES = (fc, augment, data, filters, initializers, losses, models, schedules)
RANKS = {
    1: ("(N, W, C)", "(S, ", "Q"),
    2: ("(N, H, W, C)", "(R, S, ", "P, Q"),
    3: ("(N, D, H, W, C)", "(T, R, S, ", "O"),
}


def public():
    """Return all public classes and functions by their first names."""
    found = {}
    for module in MODULES:
        for name in getattr(module, "__all__", dir(module)):
            thing = getattr(module, name)
            own = getattr(thing, "__module__", "").startswith(module.__name__)
            if not name.startswith("_") and own and callable(thing) and not isinstance(thing, ModuleType):
                found.setdefault(thing, f"{module.__name__}.{name}")
    return {name: thing for thing, name in found.items()}


PUBLIC = public()


def arguments(thing):
    try:
        return inspect.signature(thing).parameters
    except ValueError:  # an exception's
        return {}


def described(doc):
    """Return the description of every argument in a docstring."""
    parts = [part for part in sections(doc) if part.startswith("Parameters\n----------\n")]
    return {name: " ".join(lines).strip() for part in parts for names, _, lines in entries(part) for name in names}


def test_the_walk_meets_all_families():
    assert len(PUBLIC) > 150
    for name in (
        "Conv2d",
        "SGD",
        "Trainer",
        "load",
        "augment.RandomShift",
        "schedules.Cosine",
        "filters.box",
        "data.mnist",
    ):
        assert f"fastcnn.{name}" in PUBLIC
    assert {"fastcnn.losses.NumberLoss", "fastcnn.models.vgg16_bn", "fastcnn.initializers.HeNormal"} <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_is_explained_once(name):
    thing = PUBLIC[name]
    doc = inspect.getdoc(thing)
    assert doc
    told = described(doc)
    missing = [argument for argument in arguments(thing) if not told.get(argument)]
    assert not missing, f"{name} does not explain {', '.join(missing)}"
    assert doc.count("Parameters\n----------") <= 1
    assert "*image" not in doc or not hasattr(thing, "rank")


@pytest.mark.parametrize("name", PUBLIC)
def test_help_shows_what_is_explained(name):
    """As `help` finds it, which does not look where `inspect` does."""
    shown = pydoc.render_doc(PUBLIC[name], renderer=pydoc.plaintext)
    lines = [line.lstrip(" |") for line in shown.splitlines()]
    for line in inspect.getdoc(PUBLIC[name]).splitlines():
        assert line.strip() in lines
    assert "attrgetter" not in shown


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if hasattr(thing, "output_shape")])
def test_layers_tell_shapes_and_errors(name):
    doc = inspect.getdoc(PUBLIC[name])
    if PUBLIC[name] in (fc.Layer, fc.Graph, fc.Sequential):
        return
    assert re.search(r"^Raises\n------$", doc, re.M)
    assert re.search(r"\(N, |\(H, W, C\)", doc), "no shape"


METHODS = {
    fc.Trainer: ("fit", "step", "evaluate", "predict"),
    fc.Sequential: (
        "activations", "astype", "backward", "draw_missing", "forward", "freeze", "initialize", "load_parameters",
        "memory", "node", "predict", "save", "to", "train", "trunk", "unfreeze",
    ),
    fc.Conv2d: ("astype", "backward", "forward", "output_shape", "train"),
    fc.CrossEntropy: ("forward",),
    fc.MultiTask: ("forward",),
    fc.SGD: ("update",),
    fc.SparseCoding: ("fit", "load", "reconstruct", "save", "transform"),
    fc.SparseCodingStack: ("fit", "load", "reconstruct", "save", "transform"),
    fc.Whitening: ("fit", "fit_transform", "inverse", "transform"),
    data.Normalization: ("apply", "fit", "from_metadata"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "method"), [(kind, name) for kind, names in METHODS.items() for name in names])
def test_methods_explain_their_arguments(kind, method):
    function = getattr(kind, method)
    told = described(inspect.getdoc(function))
    assert not [name for name in inspect.signature(function).parameters if name != "self" and not told.get(name)]


LAID_OUT = {
    "Conv": ("C / groups, K)", (4, 6, 3), {"groups": 2}, "weight"),
    "ConvTranspose": ("K / groups, C)", (4, 6, 3), {"groups": 2}, "weight"),
    "SeparableConv": ("1, C * m)", (4, 6, 3), {"depth_multiplier": 2}, "depthwise_weight"),
}


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("family", LAID_OUT)
def test_the_layout_told_is_that_of_the_weight(family, rank):
    """The letters of the docstring, given their sizes, are the shape of the parameter."""
    kind = getattr(fc, f"{family}{rank}d")
    ending, sizes, more, parameter = LAID_OUT[family]
    doc = inspect.getdoc(kind)
    image, filter_axes, output = RANKS[rank]
    assert image in doc
    assert f"{output}, " in doc
    assert f"{filter_axes}{ending}" in doc
    (layout,) = re.findall(rf'params\["{parameter}"\]\n    \((.*?)\)', doc)
    letters = {"T": 3, "R": 3, "S": 3, "C": 4, "K": 6, "groups": 2, "m": 2}
    told = tuple(int(eval(axis, {}, letters)) for axis in layout.split(", "))  # letters and numbers alone
    assert kind(*sizes, **more).parameter_shapes()[parameter] == told


def test_inherited_and_own_words():
    doc = inspect.getdoc(fc.Conv2d)
    assert doc.startswith("Convolution of images")
    told = described(doc)
    assert list(told) == list(inspect.signature(fc.Conv2d).parameters)
    assert "circular" in told["padding_mode"]
    assert "padding_mode : default 'zeros'" in doc
    assert doc.index("Parameters") < doc.index("Shapes") < doc.index("Raises") < doc.index(">>>")
    assert described(inspect.getdoc(fc.ConvTranspose2d))["padding"] != told["padding"]
    assert "lr * weight_decay" in described(inspect.getdoc(fc.AdamW))["weight_decay"]
    assert "default 0.01" in inspect.getdoc(fc.AdamW)


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.lists(st.sampled_from("abcdef"), unique=True))
def test_all_that_is_told_anywhere_is_found_in_the_signatures_order(own, base):
    names = sorted({*own, *base})
    function = eval(f"lambda {', '.join(names)}: None")

    def doc(told, word):
        return (
            "\n".join(["Parameters", "----------", *(f"{name}\n    {word} {name}." for name in told)]) if told else ""
        )

    found = described(completed("Do it.\n\n" + doc(own, "Own"), [doc(base, "Base")], function))
    assert list(found) == names
    assert all(found[name] == f"{'Own' if name in own else 'Base'} {name}." for name in names)


MADE = [
    fc.SGD(0.1, momentum=0.9, dampening=0.1, decay_bias=False),
    fc.Adam(eps=1e-6, amsgrad=True, betas=(0.5, 0.9)),
    fc.AdamW(0.1),
    fc.RMSprop(centered=True, eps=1e-6),
    fc.Adagrad(initial_accumulator_value=0.5),
    fc.CrossEntropy([1.0, 2.0], label_smoothing=0.1, device="reference"),
    fc.NLL(ignore_index=3),
    fc.Hinge(2, reduction="sum"),
    fc.BinaryCrossEntropy(pos_weight=[1.0, 3.0]),
    fc.SumSquaredError(),
    fc.MeanSquaredError("sum"),
    fc.L1(device="reference"),
    fc.SmoothL1(beta=0.5),
    fc.MultiTask({"a": (fc.L1(), 1.0), "b": (fc.CrossEntropy(), 0.5)}),
    schedules.Constant(),
    schedules.Step(3, gamma=0.5),
    schedules.MultiStep((1, 2), by="step"),
    schedules.Exponential(0.5),
    schedules.Cosine(0.1),
    schedules.Warmup(schedules.Cosine(by="step"), length=2),
    schedules.OneCycle(cycle_momentum=False, pct_start=0.5),
    schedules.ReduceOnPlateau("max", factor=0.5, metric="accuracy"),
    augment.RandomFlip(0.123456789),
    augment.RandomShift((1, 2), fill=[0.5, 1.0, 2.0]),
    augment.RandomShift(4, fill=-1.5),
    initializers.Constant(0.5),
    initializers.TruncatedNormal(std=2.0),
    initializers.HeNormal(1.0),
    initializers.Zeros(),
    fc.Input(32, 32, 3, name="left"),
    fc.Whitening("pca", 0.1),
    fc.SparseCoding(1, 4, 3, lam=50.0, p=2 / 3, rounds=2, seed=3),
    fc.Conv2d(3, 4, 3, weight_init=initializers.Normal(0.0, 0.01)),
    fc.Reshape(7, 7, -1),
]
NAMES = {**vars(fc), **vars(losses), **vars(schedules), **vars(augment), **vars(initializers)}


def own_names(thing):
    """Return the names that a thing's text may use: of two classes called Constant, its own module's."""
    module = next((m for m in (schedules, augment, initializers) if type(thing).__module__.startswith(m.__name__)), fc)
    return {**NAMES, **vars(initializers), **vars(module)} if module is not fc else {**NAMES, **vars(initializers)}


@pytest.mark.parametrize("thing", MADE, ids=lambda thing: f"{type(thing).__module__}.{type(thing).__name__}")
def test_what_is_written_makes_the_same_again(thing):
    text = repr(thing)
    assert " at 0x" not in text
    ast.parse(text, mode="eval")
    again = eval(text, own_names(thing))
    assert type(again) is type(thing)
    assert repr(again) == text
    for name in inspect.signature(type(thing)).parameters:
        if hasattr(thing, name):
            assert repr(getattr(again, name)) == repr(getattr(thing, name)), name


def test_arguments_with_their_defaults_are_left_out():
    assert repr(fc.CrossEntropy()) == "CrossEntropy()"
    assert repr(fc.CrossEntropy(np.array([1, 2]), ignore_index=1)) == "CrossEntropy(weight=[1.0, 2.0], ignore_index=1)"
    assert repr(schedules.Warmup(schedules.Cosine())) == "Warmup(schedule=Cosine())"
    assert repr(augment.RandomShift(4)) == "RandomShift(4)"
    assert repr(augment.RandomShift(4, 1)) == "RandomShift(4, fill=1.0)"
    assert repr(schedules.Step(np.int64(3))) == "Step(3)"


def test_classes_of_users_are_written_too():
    class Mine(fc.Loss):
        def __init__(self, power, *, scale=1.0, kept_elsewhere=None):
            super().__init__()
            self.power, self.scale = power, scale

        def check_targets(self, targets, images, shape, dtype=None):
            return targets

        def bind(self, backend, y, t, dy):
            raise NotImplementedError

    assert repr(Mine(3, scale=np.float64(2.0))) == "Mine(3, scale=2.0)"
    assert Mine.__doc__ is None


def test_a_trainer_is_written_by_its_parts():
    net = fc.Sequential(fc.Flatten(), fc.Linear(4, 2), input_shape=(2, 2, 1)).to("reference")
    text = repr(fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1)))
    assert text == f"Trainer(Sequential of 10 parameters, CrossEntropy(), {fc.SGD(0.1)!r})"


def test_arrays_and_defaults_compare():
    class Holder:
        def __init__(self, a=None, b=(1, 2)):
            self.a, self.b = a, b

    assert written_call(Holder, {"a": np.arange(2), "b": (1, 2)}) == "Holder(a=[0, 1])"
    assert written_call(Holder, {"a": None, "b": (1, 3)}) == "Holder(b=(1, 3))"
