"""Networks as cases: the twin is the same network, the counts follow from the layers."""

import json

import numpy as np
import pytest

import fastcnn as fc
from fastcnn.bench.cases import model


def test_training_and_inference_of_a_model():
    train, infer = model.cases("lenet5", 2, "float32")
    assert (train.pass_name, infer.pass_name) == model.PASSES
    multiply_adds = 2 * sum(row.multiply_adds for row in fc.models.get("lenet5")().measures())
    first = 2 * 28 * 28 * 6 * 25
    assert infer.flops == 2 * multiply_adds
    assert train.flops == 2 * (3 * multiply_adds - first)
    parameters = 61_706
    assert infer.bytes == 4 * (2 * 28 * 28 + 2 * 10 + parameters)
    assert train.bytes == 4 * (2 * 28 * 28 + 2 * 10 + 3 * parameters)
    assert infer.images == 2
    json.dumps(train.request)
    train.call()
    infer.call()


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("float64", 1e-12)])
def test_errors_against_float64(dtype, bound):
    for case in model.cases("lenet5", 2, dtype):
        assert 0 < case.error() < bound


@pytest.fixture
def torch():
    """Return PyTorch on one thread: in our process its threads and ours would spin side by side."""
    found = pytest.importorskip("torch", reason="PyTorch is the peer")
    before = found.get_num_threads()
    found.set_num_threads(1)
    yield found
    found.set_num_threads(before)


def branching():
    x = fc.Input(8, 8, 3)
    h = fc.ReLU()(fc.Conv2d(3, 4, 3, padding=1)(x))
    h = fc.MaxPool2d(2)(h + fc.Conv2d(4, 4, (1, 3), padding=(0, 1), bias=False)(h))
    return fc.Graph(x, fc.Linear(16, 5)(fc.Flatten()(fc.AvgPool2d(2)(h))))


@pytest.mark.parametrize("make", [fc.models.get("lenet5"), branching])
def test_twin_is_the_same_network(make, torch):
    from fastcnn.bench.peer import torch_model

    net = make()
    net.astype("float64").to("reference").initialize(3)
    twin = torch_model.build(json.loads(json.dumps(model.describe(net)))).double()
    weighted = [layer for _, layer in net.named_layers() if layer.params]
    twins = [module for module in twin.modules() if hasattr(module, "weight")]
    before = None
    for ours, theirs in zip(weighted, twins, strict=True):
        weight = ours.params["weight"]
        if weight.ndim == 4:
            before = weight.shape[-1]
            array = weight.transpose(3, 2, 0, 1)
        else:  # after Flatten, our features are (pixel, channel), PyTorch's (channel, pixel)
            channels, before = before or 1, None
            array = weight.reshape(-1, channels, weight.shape[1]).transpose(2, 1, 0).reshape(weight.shape[::-1])
        theirs.weight.data = torch.from_numpy(array.copy())
        if "bias" in ours.params:
            theirs.bias.data = torch.from_numpy(ours.params["bias"].copy())
    images = np.random.default_rng(0).standard_normal((3, *net.input_shapes[0]))
    with torch.no_grad():
        expected = twin(torch.from_numpy(fc.to_nchw(images))).numpy()
    np.testing.assert_allclose(net.predict(images), expected, rtol=1e-9, atol=1e-12)


def test_twin_runs_both_passes_in_both_layouts(torch):
    from fastcnn.bench.peer import torch_worker

    train, infer = model.cases("lenet5", 4, "float32")
    calls = torch_worker.model_calls(json.loads(json.dumps(train.request)))
    assert set(calls) == {"nchw", "channels_last"}
    for step in calls.values():
        losses = [step() for _ in range(10)]
        assert losses[-1] < losses[0]
    for predict in torch_worker.model_calls(json.loads(json.dumps(infer.request))).values():
        assert predict().shape == (4, 10)


@pytest.mark.parametrize("name", fc.models.CLASSIFIERS)
def test_every_classifier_has_a_twin(name, torch):
    from fastcnn.bench.peer import torch_model

    net = fc.models.get(name)()
    with torch.device("meta"):  # shapes alone
        twin = torch_model.build(json.loads(json.dumps(model.describe(net))))
        images, _ = torch_model.random_batch(
            {"batch": 2, "input_shape": net.input_shapes[0], "dtype": "float32", "classes": 2}
        )
        assert twin(images).shape == (2, *net.output_shapes[0])
    assert sum(parameter.numel() for parameter in twin.parameters()) == net.parameter_count
