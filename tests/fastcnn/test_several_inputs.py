"""Networks of several inputs and outputs: data as tuples or by name, in training, prediction and files."""

import numpy as np
import pytest

import fastcnn as fc

DEVICES = ("reference", "cpu")


def network(device: str = "reference") -> fc.Graph:
    image, numbers = fc.Input(6, 6, 1, name="image"), fc.Input(3, name="numbers")
    seen = fc.Flatten()(fc.MaxPool2d(2)(fc.ReLU()(fc.Conv2d(1, 4, 3, padding=1, name="conv")(image))))
    both = fc.Concat()(seen, fc.ReLU()(fc.Linear(3, 5, name="side")(numbers)))
    net = fc.Graph([image, numbers], [fc.Linear(41, 4, name="class")(both), fc.Linear(41, 2, name="box")(both)])
    return net.astype("float64").to(device)


def losses() -> fc.MultiTask:
    return fc.MultiTask({"class": (fc.CrossEntropy(), 1.0), "box": (fc.MeanSquaredError(), 0.5)})


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = {"image": rng.standard_normal((20, 6, 6, 1)), "numbers": rng.standard_normal((20, 3))}
    return x, {"class": rng.integers(0, 4, 20), "box": rng.standard_normal((20, 2))}


def parameters(net: fc.Graph) -> np.ndarray:
    return net.own_store().values.copy()


@pytest.mark.parametrize("device", DEVICES)
def test_tuples_and_names_train_alike(device, data):
    x, t = data
    forms = [data, ((x["image"], x["numbers"]), t), (dict(reversed(x.items())), (t["class"], t["box"]))]
    results = []
    for form in forms:
        trainer = fc.Trainer(network(device), losses(), fc.SGD(0.05, momentum=0.9), seed=4)
        history = trainer.fit(form, epochs=3, batch_size=8, validation=form)
        results.append((parameters(trainer.net), history.epochs[-1]["val_loss"], trainer.evaluate(form).loss))
        assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    for values, *numbers in results[1:]:
        np.testing.assert_array_equal(values, results[0][0])
        assert numbers == list(results[0][1:])


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_is_pytorchs(device, data):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    functional = torch.nn.functional
    net = network(device)
    net.initialize(3)
    named = dict(net.named_layers())
    twins = {
        f"{name}.{key}": torch.from_numpy(value.copy()).requires_grad_()
        for name, layer in named.items()
        for key, value in layer.params.items()
    }
    x, t = data
    h = torch.from_numpy(x["image"]).permute(0, 3, 1, 2)
    h = functional.conv2d(h, twins["conv.weight"].permute(3, 2, 0, 1), twins["conv.bias"], padding=1)
    h = functional.max_pool2d(torch.relu(h), 2).permute(0, 2, 3, 1).flatten(1)
    side = torch.relu(torch.from_numpy(x["numbers"]) @ twins["side.weight"] + twins["side.bias"])
    both = torch.cat([h, side], 1)
    y = {name: both @ twins[f"{name}.weight"] + twins[f"{name}.bias"] for name in ("class", "box")}
    loss = functional.cross_entropy(y["class"], torch.from_numpy(t["class"]))
    loss = loss + 0.5 * functional.mse_loss(y["box"], torch.from_numpy(t["box"]))
    loss.backward()
    torch.optim.SGD(twins.values(), 0.1).step()
    assert fc.Trainer(net, losses(), fc.SGD(0.1)).step(*data) == pytest.approx(loss.item(), rel=1e-10)
    for name, layer in named.items():
        for key, value in layer.params.items():
            wanted = twins[f"{name}.{key}"].detach().numpy()
            np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=1e-11, err_msg=name)


def test_inputs_by_name_in_prediction(data):
    net, (x, _) = network(), data
    wanted = net.predict(x["image"], x["numbers"])
    trainer = fc.Trainer(net, losses(), fc.SGD(0.1))
    for found in (net.predict(x), net.eval().forward(x), trainer.predict(x), trainer.predict(tuple(x.values()))):
        for y, expected in zip(found, wanted, strict=True):
            np.testing.assert_allclose(y, expected, rtol=1e-12)
    for given in (x, tuple(x.values())):
        np.testing.assert_allclose(net.activations(given, "class"), wanted[0], rtol=1e-12)


def test_files_keep_the_names_of_inputs(tmp_path, data):
    net = network()
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors", device="reference")
    assert again.input_names == ["image", "numbers"]
    np.testing.assert_array_equal(again.predict(data[0])[1], net.predict(data[0])[1])


def test_inputs_without_names_are_counted():
    a, b = fc.Input(3), fc.Input(3)
    assert fc.Graph([a, b], a + b).input_names == ["input1", "input2"]
    assert fc.Graph(a, fc.ReLU()(a)).input_names == ["input"]
    net = fc.Graph([a, b], a + b).to("reference")
    assert net.predict({"input2": np.ones((2, 3)), "input1": np.ones((2, 3))}).sum() == 12


def test_one_input_takes_rows_a_tuple_of_one_or_its_name():
    net = fc.Sequential(fc.Linear(2, 2), input_shape=(2,)).to("reference")
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.0))
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    found = {trainer.step(given, [0, 1]) for given in (x, tuple(map(tuple, x)), (x,), {"input": x})}
    assert len(found) == 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda net, x: net.predict(x["image"]), "got 1 inputs and has 2"),
        (lambda net, x: net.predict({"image": x["image"]}), "inputs for image were given"),
        (lambda net, x: net.predict({"image": x["image"], "number": x["numbers"]}), "has image, numbers"),
        (lambda net, x: net.predict(x["numbers"], x["image"]), "of shape (20, 3)"),
        (lambda net, x: net.predict(x["image"][:3], x["numbers"]), "3, 20 images"),
        (lambda net, x: fc.Graph([fc.Input(2, name="a"), fc.Input(2, name="a")], []), "outputs=[]"),
        (lambda net, x: fc.Input(2, name=3), "name=3"),
        (lambda net, x: fc.Trainer(net, losses(), fc.SGD(0.1), augment=fc.augment.RandomFlip()), "of 2 inputs"),
        (lambda net, x: fc.Trainer(net, losses(), fc.SGD(0.1)).fit(((x["image"],), {})), "got 1 inputs and has 2"),
    ],
)
def test_wrong_inputs_get_one_sentence(call, sentence, data):
    with pytest.raises(fc.FastcnnError) as caught:
        call(network(), data[0])
    assert sentence in str(caught.value)


def test_two_inputs_of_one_name_are_refused():
    a, b = fc.Input(3, name="a"), fc.Input(3, name="a")
    with pytest.raises(fc.ArgumentError, match=r"2 inputs are named 'a'"):
        fc.Graph([a, b], a + b)
