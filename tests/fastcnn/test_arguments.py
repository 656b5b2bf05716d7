"""Constructors: what they do not take, PyTorch's own arguments among it, is refused in one sentence."""

import copy
import inspect
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastcnn as fc
from fastcnn.arguments import check_arguments
from fastcnn.layers import LAYERS


def public_classes() -> list[type]:
    """Return the classes that users make objects of."""
    modules = [fc, fc.augment, fc.data, fc.initializers, fc.schedules]
    found = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    found |= {getattr(fc, name) for name in fc.__all__ if inspect.isclass(getattr(fc, name))} | set(LAYERS.values())
    ours = [cls for cls in found if cls.__module__.startswith("fastcnn") and not issubclass(cls, Exception | tuple)]
    helpers = {
        "Checked",
        "ChecksArguments",
        "Described",
        "Written",
        "Backend",
        "History",
        "Moment",
        "Movement",
        "Mover",
        "Node",
    }
    return sorted(
        (c for c in ours if not inspect.isabstract(c) and c.__name__ not in helpers), key=lambda c: c.__name__
    )


CLASSES = public_classes()


def test_the_classes_are_found():
    names = {cls.__name__ for cls in CLASSES}
    assert len(names) > 100
    assert {"Conv2d", "ReLU", "CrossEntropy", "MultiTask", "SGD", "Cosine", "Trainer", "Graph", "Sequential", "Normal",
            "RandomFlip", "SparseCoding", "SparseCodingStack", "Whitening", "Input", "Dataset"} <= names  # fmt: skip
    assert not [cls for cls in CLASSES if cls.__init__ is object.__init__]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@given(
    name=st.sampled_from(["foreach", "qbias", "größe"]) | st.text(min_size=1),
    value=st.none() | st.booleans() | st.text(),
)
def test_an_unknown_argument_gets_a_sentence(cls, name, value):
    if name in inspect.signature(cls).parameters or name == "self":
        return
    with pytest.raises(fc.SignatureError, match=rf"^{cls.__name__} does not take ") as caught:
        cls(**{name: value})
    assert isinstance(caught.value, fc.ArgumentError)
    assert isinstance(caught.value, TypeError)
    assert str(caught.value).endswith(".")
    assert name in str(caught.value)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_too_many_and_too_few_arguments_get_a_sentence(cls):
    parameters = inspect.signature(cls).parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    if needed:
        with pytest.raises(fc.SignatureError, match=rf"^{cls.__name__} was not given .*{needed[0]}.*: it takes .*\.$"):
            cls()
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        with pytest.raises(
            fc.SignatureError, match=rf"^{cls.__name__} was given 40 arguments, and takes at most .*\.$"
        ):
            cls(*range(40))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fc.BinaryCrossEntropy(weight=np.ones(3)), "BinaryCrossEntropy does not take weight=...: "),
        (lambda: fc.BatchNorm2d(3, bias=False), "BatchNorm2d does not take bias=False: it takes num_features, eps, "),
        (lambda: fc.SGD(0.1, maximize=True), "SGD does not take maximize=True: it takes lr, momentum, "),
        (lambda: fc.Adam(maximise=True, foreach=1), "Adam does not take maximise=True and foreach=1: it takes lr, "),
        (lambda: fc.Upsample(2, antialias=True), "Upsample does not take antialias=True: it takes size, "),
        (
            lambda: fc.Conv2d(3, 4, kernelsize=3),
            "Conv2d does not take kernelsize=3: did you mean kernel_size? It takes ",
        ),
        (lambda: fc.Linear(2, 3, in_features=2), "Linear: multiple values for argument 'in_features'; it takes "),
    ],
)
def test_arguments_of_pytorch_that_are_not_here(make, sentence):
    try:
        made = make()
    except fc.ArgumentError as error:
        assert str(error).startswith(sentence)  # noqa: PT017 - some of them may be taken
    else:
        assert made is not None


def test_signatures_types_and_copies_stay():
    assert list(inspect.signature(fc.SGD).parameters)[:2] == ["lr", "momentum"]
    assert inspect.signature(fc.ReLU).parameters["dtype"].default == "float32"
    assert fc.Conv2d.__init__.__name__ == "__init__"
    assert "lr: 'float' = 0.001" in str(inspect.signature(fc.Adam))
    for thing in (fc.SGD(0.5, momentum=0.9), fc.initializers.Normal(2.0)):
        assert repr(pickle.loads(pickle.dumps(thing))) == repr(copy.deepcopy(thing)) == repr(thing)


def test_errors_inside_a_constructor_are_its_own():
    @check_arguments
    class Broken:
        def __init__(self, a: int) -> None:
            len(a)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="has no len") as caught:
        Broken(3)
    assert not isinstance(caught.value, fc.FastcnnError)


def test_layers_of_users_refuse_by_their_own_names():
    class Mine(fc.ReLU):
        pass

    class Other(fc.ReLU):
        def __init__(self, size: int) -> None:
            super().__init__(naem=size)

    with pytest.raises(fc.SignatureError, match=r"^Mine does not take naem=3: did you mean name\?"):
        Mine(naem=3)
    with pytest.raises(fc.SignatureError, match=r"^Other was not given size: it takes size\.$"):
        Other()
    with pytest.raises(fc.SignatureError, match=r"does not take naem=3: did you mean name\?"):
        Other(3)


NET = fc.Sequential(fc.Linear(2, 2), input_shape=(2,))
TRAINER = fc.Trainer(NET, fc.CrossEntropy(), fc.SGD(0.1))

FUNCTIONS = [
    fc.save, fc.load, fc.fold, fc.estimate_population_statistics, fc.conv_matrix, fc.data.load, fc.data.mnist,
    fc.data.fashion, fc.data.cifar10, fc.data.digits, fc.data.remap_labels, fc.filters.box, fc.filters.gaussian,
    fc.filters.sobel_x, fc.filters.sobel_y, fc.filters.laplacian, fc.filters.sharpen, TRAINER.fit, TRAINER.evaluate,
    TRAINER.predict, NET.activations, NET.save, NET.load_parameters,
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_functions_and_methods_refuse_what_they_do_not_take(function):
    takes = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    with pytest.raises(fc.SignatureError) as caught:
        function(shuffle=True)
    said = str(caught.value)
    assert said.startswith(f"{function.__name__} does not take shuffle=True: ")
    assert all(name in said for name in takes if name != "self")
    assert "self" not in said.split()


@pytest.mark.parametrize("name", fc.models.names())
def test_models_refuse_what_they_do_not_take(name):
    with pytest.raises(fc.SignatureError, match=rf"^{name} does not take pretrained=True: it takes .*input_shape"):
        getattr(fc.models, name)(pretrained=True)


def test_errors_inside_a_model_are_its_own():
    with pytest.raises(fc.ArgumentError, match="classes"):
        fc.models.lenet5(classes="ten")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda net, trainer: trainer.fit(None, epoch=2),
            r"^fit does not take epoch=2: did you mean epochs\? It takes train, ",
        ),
        (lambda net, trainer: trainer.fit(), r"^fit was not given train: it takes train, "),
        (lambda net, trainer: trainer.evaluate(None, verbose=True), "^evaluate does not take verbose=True: "),
        (lambda net, trainer: net.memory(4, train=False), "^memory does not take train=False: did you mean training"),
        (lambda net, trainer: net.save(), "^save was not given path: "),
    ],
)
def test_methods_refuse_what_they_do_not_take(call, sentence):
    net = fc.Sequential(fc.Linear(2, 2), input_shape=(2,))
    with pytest.raises(fc.SignatureError, match=sentence):
        call(net, fc.Trainer(net, fc.CrossEntropy(), fc.SGD()))
