"""Transposed convolution in networks: fusion, costs, receptive fields, model files, an autoencoder."""

import numpy as np
import pytest

import fastcnn as fc

DEVICES = ("reference", "cpu")


def decoder(fuse: bool = True) -> fc.Sequential:
    return fc.Sequential(
        fc.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), fc.ReLU(),
        fc.ConvTranspose2d(4, 4, (2, 3), stride=(1, 3), groups=4, dilation=(2, 1), padding=((0, 1), (2, 0))), fc.ReLU(),
        fc.ConvTranspose2d(4, 2, 3, padding="same", bias=False),
        input_shape=(4, 5, 6), fuse=fuse,
    )  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_fused_relu_changes_no_bit(device):
    rng = np.random.default_rng(6)
    nets = [decoder(fuse).to(device) for fuse in (True, False)]
    for net in nets:
        net.initialize(8)
        for _, layer in net.named_layers():
            if "bias" in layer.params:
                layer.params["bias"] = np.linspace(-0.3, 0.3, len(layer.params["bias"]))
    fused, plain = (net.plan(3, training=True) for net in nets)
    assert (len(fused.fused), len(plain.fused)) == (2, 0)
    x = rng.standard_normal((3, 4, 5, 6)).astype(np.float32)
    dy = rng.standard_normal((3, *nets[0].output_shapes[0])).astype(np.float32)
    results = [[net.forward(x), net.backward(dy)] for net in nets]
    for net, result in zip(nets, results, strict=True):
        result += [gradient for layer in net.layers for gradient in layer.grads.values()]
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_start_with_the_fan_of_one_output():
    layer = fc.ConvTranspose2d(64, 256, 3, groups=2, device="reference")
    assert layer.params["weight"].shape == (3, 3, 128, 64)
    assert layer.params["weight"].std() == pytest.approx(np.sqrt(2 / (9 * 32)), rel=0.02)
    np.testing.assert_array_equal(layer.params["bias"], np.zeros(256))
    assert layer.parameter_count == 3 * 3 * 128 * 64 + 256


def test_multiply_adds_are_those_of_the_convolution_it_transposes():
    down = fc.Conv2d(5, 8, (4, 3), stride=(3, 2), padding=(1, 2), dilation=(1, 2))
    for size in (19, 20, 21):
        small = down.output_shape((size, 16, 5))
        extra = (size + 2 - 4) % 3, (16 + 4 - 5) % 2
        up = fc.ConvTranspose2d(8, 5, (4, 3), (3, 2), (1, 2), extra, dilation=(1, 2))
        assert up.output_shape(small) == (size, 16, 5)
        assert up.multiply_adds((size, 16, 5)) == down.multiply_adds(small)


def widest_dependence(net: fc.Sequential) -> int:
    """Return how many pixels of a signal one output reaches, at most, by the gradients of all outputs."""
    for layer in net.layers:
        layer.params["weight"] = np.ones_like(layer.params["weight"])
    (length, _), (outputs, _) = net.input_shapes[0], net.output_shapes[0]
    net.forward(np.ones((1, length, 1)))
    spans = []
    for i in range(outputs):
        dy = np.zeros((1, outputs, 1))
        dy[0, i] = 1
        reached = np.flatnonzero(net.backward(dy))
        spans.append(reached[-1] - reached[0] + 1 if reached.size else 0)
    return max(spans)


CHAINS = {
    "phases of one tap": [fc.ConvTranspose1d(1, 1, 2, stride=2)],
    "overlapping filters": [fc.ConvTranspose1d(1, 1, 5, stride=2)],
    "stride over the filter": [fc.ConvTranspose1d(1, 1, 2, stride=3), fc.Conv1d(1, 1, 3)],
    "stride 1": [fc.ConvTranspose1d(1, 1, 3), fc.Conv1d(1, 1, 3)],
    "up, then fine": [fc.ConvTranspose1d(1, 1, 4, stride=2), fc.Conv1d(1, 1, 3), fc.Conv1d(1, 1, 2)],
    "down and up": [fc.Conv1d(1, 1, 3, stride=2), fc.ConvTranspose1d(1, 1, 2, stride=2), fc.Conv1d(1, 1, 2)],
    "up and down": [fc.ConvTranspose1d(1, 1, 3, stride=2), fc.Conv1d(1, 1, 3, stride=2), fc.Conv1d(1, 1, 3)],
}


@pytest.mark.parametrize("name", CHAINS)
def test_receptive_field_is_how_far_an_output_reaches(name):
    net = fc.Sequential(*CHAINS[name], input_shape=(33, 1)).to("reference")
    (field,) = net.measures()[-1].receptive_field
    assert isinstance(field, int)
    assert field == widest_dependence(net)


def test_receptive_field_of_a_grid_refined_again_is_a_bound():
    layers = [fc.Conv1d(1, 1, 3, stride=2), fc.ConvTranspose1d(1, 1, 4, stride=2), fc.Conv1d(1, 1, 3)]
    net = fc.Sequential(*layers, input_shape=(33, 1)).to("reference")
    assert net.measures()[-1].receptive_field == (8,)
    assert widest_dependence(net) == 7


def test_summary_shows_it():
    line = decoder().summary().splitlines()[1].split("  ")
    assert line[0] == "conv_transpose1"
    assert "ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1)" in line


@pytest.mark.parametrize("device", DEVICES)
def test_saved_network_gives_the_same_outputs(device, tmp_path):
    net = decoder().to(device)
    net.initialize(3)
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors", device=device)
    assert [repr(layer) for layer in again.layers] == [repr(layer) for layer in net.layers]
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 6))
    np.testing.assert_array_equal(again.predict(x), net.predict(x))


@pytest.mark.parametrize("device", DEVICES)
def test_empty_batch(device):
    layer = fc.ConvTranspose2d(2, 3, 3, stride=2, device=device)
    assert layer.forward(np.empty((0, 5, 5, 2))).shape == (0, 11, 11, 3)
    assert layer.backward(np.empty((0, 11, 11, 3))).shape == (0, 5, 5, 2)
    assert (layer.grads["weight"] == 0).all()
    assert (layer.grads["bias"] == 0).all()


def test_autoencoder_learns_the_digits():
    """Images of 8x8 pixels go through 2x2x8 numbers and come back: the error falls well below that of the mean."""
    train, _ = fc.data.digits()
    images = train.images[:256]
    net = fc.Sequential(
        fc.Conv2d(1, 16, 3, stride=2, padding=1), fc.ReLU(), fc.Conv2d(16, 8, 3, stride=2, padding=1),
        fc.ConvTranspose2d(8, 16, 4, stride=2, padding=1), fc.ReLU(), fc.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
        input_shape=(8, 8, 1),
    )  # fmt: skip
    net.initialize(0)
    optimizer, store = fc.SGD(0.003, momentum=0.9), net.own_store()
    losses = []
    for _ in range(100):
        difference = net.forward(images) - images
        losses.append(float(np.square(difference).sum(axis=(1, 2, 3)).mean()))
        net.backward(2 * difference / len(images))
        optimizer.update(store.backend, store.values, store.gradients)
    variance = float(np.square(images - images.mean(axis=0)).sum(axis=(1, 2, 3)).mean())
    assert losses[-1] < 0.5 * variance < losses[0], (losses[::20], variance)
