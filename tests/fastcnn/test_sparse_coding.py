"""Sparse coding: the adjoint identity, costs that fall, solutions against others, files, errors, MNIST."""

import os
from itertools import pairwise

import numpy as np
import pytest
from sweeps import selected

import fastcnn as fc
from fastcnn.backend import get
from fastcnn.errors import ArgumentError, CheckpointError, DataError, ShapeError, TrainingError
from fastcnn.sparse_coding.inference import Inference, Schedule, normalized
from fastcnn.sparse_coding.model import CostBar

DEVICES = ("cpu", "reference")
ROUNDING = {"float32": 1e-6, "float64": 1e-12}  # of a cost, a sum over thousands of terms


def strokes(count=6, size=10, channels=1, seed=0):
    """Images of a few bright bars."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, size, size, channels))
    for image in images:
        for _ in range(2):
            at, length, c = rng.integers(1, size - 4), rng.integers(3, 6), rng.integers(channels)
            if rng.random() < 0.5:
                image[at, 1 : 1 + length, c] += 1
            else:
                image[2 : 2 + length, at, c] += 1
    return images


def never_rises(history, slack):
    """Say whether no cost is above the one before it under the same filters, images and beta."""
    pairs = list(pairwise(history))
    same = [(a, b) for a, b in pairs if all(a[key] == b[key] for key in ("epoch", "batch", "beta"))]
    assert len(same) > len(pairs) / 2
    return all(b["cost"] <= a["cost"] * (1 + slack) for a, b in same)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("R", "S"), [(1, 1), (3, 3), (4, 2), (7, 7)])
def test_maps_to_images_is_the_convolution_and_its_adjoint(device, dtype, integers, R, S):
    """<F z, y> = <z, F'y> on whole numbers, exactly; and F is the convolution (no correlation) with each filter."""
    signal = pytest.importorskip("scipy.signal", reason="SciPy's convolution is the oracle of this test")
    backend, (N, H, W, C, K) = get(device), (2, 5, 6, 2, 3)
    f, y = integers(0, (R, S, C, K), dtype), integers(1, (N, H, W, C), dtype)
    z = integers(2, (N, H + R - 1, W + S - 1, K), dtype)
    inference = Inference(backend, y, f, 1.0, 1.0)
    images, maps = np.empty_like(y), np.empty_like(z)
    inference.to_images(z, f, images)
    inference.to_maps(y, maps)
    assert (images * y).sum() == (z * maps).sum()
    want = sum(signal.convolve(z[1, ..., k].astype(float), f[..., 1, k].astype(float), mode="valid") for k in range(K))
    np.testing.assert_allclose(images[1, ..., 1], want, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("p", [1, 0.5, 2 / 3])
def test_the_cost_never_rises_within_a_round(device, dtype, p):
    coding = fc.SparseCoding(1, 5, 3, lam=8.0, p=p, rounds=4, iterations=3, seed=1, dtype=dtype, device=device)
    coding.fit(strokes(), epochs=3, batch_size=4)
    history = coding.cost_history
    assert len(history) == 3 * 2 * (4 * 3 + coding.filter_steps)
    assert never_rises(history, ROUNDING[dtype.name])
    assert all(np.isclose(r["cost"], r["data"] + r["distance"] + r["penalty"]) for r in history)
    assert coding.objective_history[-1] < coding.objective_history[0]
    filters = [record["data"] for record in history if record["step"] == "filters"]
    assert filters[coding.filter_steps - 1] < filters[0]
    np.testing.assert_allclose(np.square(coding.filters).sum(axis=(0, 1, 2)), 1, rtol=1e-5)


def test_a_cost_that_rises_is_told():
    record = {"epoch": 1, "batch": 1, "beta": 1.0}
    assert not never_rises([{**record, "cost": cost} for cost in (3.0, 2.0, 2.1)], 1e-6)


@pytest.mark.parametrize("p", [1, 0.5, 2 / 3])
def test_the_recorded_cost_is_the_half_quadratic_one(p):
    """C_beta from its definition: dense matrices, no kernel."""
    rng = np.random.default_rng(0)
    y, f = rng.random((2, 5, 4, 2)), normalized(rng.normal(size=(3, 2, 2, 3)))
    inference = Inference(get("cpu"), y, f, 6.0, p)
    beta = list(inference.alternate(Schedule(1.0, 3.0, 2, 2, 3)))[-1]
    F = fc.conv_matrix(f, (5, 4, 2), padding=((2, 2), (1, 1)))
    F = (F if isinstance(F, np.ndarray) else F.toarray()).T
    z, x = inference.z.reshape(2, -1), inference.x.reshape(2, -1)
    data = 3.0 * np.square(z @ F.T - y.reshape(2, -1)).sum()
    want = data, beta / 2 * np.square(z - x).sum(), (np.abs(x) ** p).sum()
    np.testing.assert_allclose(inference.cost(beta), want, rtol=1e-12)
    inference.shrink(beta)
    x = inference.x.reshape(2, -1)
    want = 3.0 * np.square(x @ F.T - y.reshape(2, -1)).sum() + (np.abs(x) ** p).sum()
    assert inference.objective() == pytest.approx(want, rel=1e-12)


def test_conjugate_gradients_solve_the_system():
    rng = np.random.default_rng(0)
    y, f, lam, beta = rng.random((2, 5, 4, 2)), normalized(rng.normal(size=(3, 2, 2, 3))), 6.0, 0.5
    inference = Inference(get("cpu"), y, f, lam, 1.0)
    inference.x[...] = rng.normal(size=inference.x.shape)
    inference.solve(beta, 200)
    F = fc.conv_matrix(f, (5, 4, 2), padding=((2, 2), (1, 1)))
    F = (F if isinstance(F, np.ndarray) else F.toarray()).T
    x = inference.x.reshape(2, -1)
    want = np.linalg.solve(lam * F.T @ F + beta * np.eye(F.shape[1]), (lam * y.reshape(2, -1) @ F + beta * x).T).T
    np.testing.assert_allclose(inference.z.reshape(2, -1), want, atol=1e-10)


def test_maps_for_p_1_are_near_the_best_there_are():
    """Proximal gradients, run until they stand, find the least of the convex cost, which is all but reached."""
    rng = np.random.default_rng(0)
    y, f, lam = strokes(3, 8), normalized(rng.normal(size=(3, 3, 1, 4))), 5.0
    F = fc.conv_matrix(f, (8, 8, 1), padding=2)
    F = (F if isinstance(F, np.ndarray) else F.toarray()).T
    best, step = np.zeros((3, F.shape[1])), 1 / (lam * np.linalg.norm(F, 2) ** 2)
    for _ in range(3000):
        best = best + step * lam * (y.reshape(3, -1) - best @ F.T) @ F
        best = np.sign(best) * np.maximum(np.abs(best) - step, 0)
    least = lam / 2 * np.square(best @ F.T - y.reshape(3, -1)).sum() + np.abs(best).sum()
    inference = Inference(get("cpu"), y, f, lam, 1.0)
    inference.run(Schedule(2.5, 1.3, 20, 20, 6))
    assert least * (1 - 1e-9) <= inference.objective() <= 1.02 * least


def test_the_rooms_learn_the_same(dtype):
    fitted = [
        fc.SparseCoding(2, 5, (3, 2), lam=9.0, seed=3, dtype=dtype, device=device).fit(strokes(channels=2), epochs=2)
        for device in DEVICES
    ]
    bound = 1e-2 if dtype == "float32" else 1e-8  # rounding grows from epoch to epoch
    np.testing.assert_allclose(fitted[0].filters, fitted[1].filters, atol=bound)
    assert fitted[0].objective_history == pytest.approx(fitted[1].objective_history, rel=bound)


def test_a_seed_gives_the_same_bits_and_another_one_does_not():
    first, second, third = (
        fc.SparseCoding(1, 4, 3, seed=seed).fit(strokes(), epochs=2, batch_size=2).filters.tobytes()
        for seed in (5, 5, 6)
    )
    assert first == second != third


def test_thread_count_changes_no_bit(with_threads):
    images = strokes(40, 28)

    def run():
        coding = fc.SparseCoding(1, 6, 5, rounds=2, iterations=2).fit(images, epochs=1)
        return coding.filters.tobytes(), coding.cost_history[-1]["cost"]

    assert with_threads(1, run) == with_threads(2, run)


@pytest.mark.parametrize("device", DEVICES)
def test_connectivity_keeps_filters_at_zero_and_the_others_learning(device):
    g = np.array([[1, 1, 0, 0], [0, 1, 1, 1]])
    coding = fc.SparseCoding(2, 4, 3, connectivity=g, lam=9.0, device=device)
    before = coding.filters.copy()
    coding.fit(strokes(channels=2), epochs=2)
    assert np.all(coding.filters[:, :, g == 0] == 0)
    assert np.all(np.abs(coding.filters - before).max(axis=(0, 1))[g == 1] > 0)


def test_an_image_is_coded_alike_in_any_batch():
    images, coding = strokes(5), fc.SparseCoding(1, 4, 3, lam=9.0, dtype="float64")
    together = coding.transform(images)
    np.testing.assert_allclose(coding.transform(images, batch_size=2), together, atol=1e-10)
    np.testing.assert_allclose(coding.transform(images[3:4])[0], together[3], atol=1e-10)
    assert coding.transform(images[:0]).shape == (0, 12, 12, 4)
    assert coding.reconstruct(together[:0]).shape == (0, 10, 10, 1)


def test_smallest_images_and_black_ones():
    coding = fc.SparseCoding(3, 2, 3, lam=50.0).fit(np.full((1, 1, 1, 3), 0.5), epochs=2)
    assert not coding.transform(np.zeros((2, 1, 1, 3))).any()
    assert np.isfinite(coding.filters).all()
    black = fc.SparseCoding(1, 2, 3)
    before = black.filters.copy()
    np.testing.assert_array_equal(black.fit(np.zeros((2, 4, 4, 1)), epochs=1).filters, before)


def test_a_stack_fits_each_layer_to_the_maps_below(tmp_path):
    layers = fc.SparseCoding(1, 4, 3, lam=20.0), fc.SparseCoding(4, 6, 3, lam=50.0, seed=1)
    images = strokes()
    stack = fc.SparseCodingStack(*layers).fit(images, epochs=3)
    maps = stack.transform(images)
    assert maps.shape == (6, 14, 14, 6)
    np.testing.assert_array_equal(maps, layers[1].transform(layers[0].transform(images)))
    back = stack.reconstruct(maps)
    assert np.square(back - images).sum() < 0.3 * np.square(images).sum()
    stack.save(tmp_path / "stack.safetensors")
    again = fc.SparseCodingStack.load(tmp_path / "stack.safetensors")
    np.testing.assert_array_equal(again.transform(images), maps)
    with pytest.raises(CheckpointError, match=r"holds a stack of 2 layers: load it by SparseCodingStack\.load"):
        fc.SparseCoding.load(tmp_path / "stack.safetensors")


def test_a_stack_with_pooling(tmp_path):
    layers = fc.SparseCoding(1, 4, 4), fc.SparseCoding(4, 3, 3)
    stack = fc.SparseCodingStack(*layers, pool=2).fit(strokes(), epochs=1)
    below = layers[0].transform(strokes())
    padded = np.pad(np.abs(below), ((0, 0), (0, 1), (0, 1), (0, 0)))
    pooled = padded.reshape(6, 7, 2, 7, 2, 4).max(axis=(2, 4))
    np.testing.assert_array_equal(stack.transform(strokes()), layers[1].transform(pooled))
    with pytest.raises(ArgumentError, match="cannot undo the pooling"):
        stack.reconstruct(stack.transform(strokes()))
    stack.save(tmp_path / "s")
    assert fc.SparseCodingStack.load(tmp_path / "s").pool == 2


@pytest.mark.parametrize("device", DEVICES)
def test_saved_and_loaded(tmp_path, dtype, device):
    path, g = tmp_path / "f.safetensors", [[1, 0, 1]]
    coding = fc.SparseCoding(1, 3, (3, 2), lam=7.0, p=2 / 3, beta=0.4, seed=2, dtype=dtype)
    coding.fit(strokes(), epochs=1)
    coding.save(path)
    again = fc.SparseCoding.load(path, device=device)
    assert (again.config(), again.dtype, again.device) == (coding.config(), dtype, device)
    assert again.filters.tobytes() == coding.filters.tobytes()
    fc.SparseCoding(2, 3, 3, connectivity=[g[0], [1, 1, 0]]).save(path)
    np.testing.assert_array_equal(fc.SparseCoding.load(path).connectivity, [g[0], [1, 1, 0]])
    assert os.listdir(tmp_path) == [path.name]


def test_files_that_cannot_be_read_or_written(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(CheckpointError, match="cannot be read"):
        fc.SparseCoding.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="is damaged"):
        fc.SparseCoding.load(path)
    fc.models.lenet5().to("reference").save(path)
    with pytest.raises(CheckpointError, match="holds no layers of sparse coding"):
        fc.SparseCoding.load(path)
    coding = fc.SparseCoding(1, 2, 3)
    with pytest.raises(CheckpointError, match="cannot be written"):
        coding.save(tmp_path / "no" / "folder")
    coding.save(path)
    for old, new, problem in (
        (b'\\"version\\": 1', b'\\"version\\": 2', "has format version 2"),
        (b'\\"features\\": 2', b'\\"features\\": 3', r"where float32 of shape \(3, 3, 1, 3\) is needed"),
        (b'\\"features\\": 2', b'\\"features\\": 0', "cannot be built"),
        (b'\\"features\\"', b'\\"futures\\" ', "cannot be built"),
    ):
        coding.save(path)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))
        with pytest.raises(CheckpointError, match=problem):
            fc.SparseCoding.load(path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(p=0.8), "p=0.8 was given: choose 1, 1/2 or 2/3"),
        (dict(lam=0), "lam=0 was given: it must be a finite number above 0"),
        (dict(lam=float("nan")), "lam=nan was given"),
        (dict(beta=-1.0), "beta=-1.0 was given"),
        (dict(beta_factor=1), "beta_factor=1 was given: it must be a finite number above 1"),
        (dict(connectivity=[[1, 1]]), r"give \(channels, features\) = \(2, 3\) of 0 and 1"),
        (dict(connectivity=[[1, 0, 2], [1, 1, 1]]), "of 0 and 1"),
        (dict(connectivity=[[1, 0, 1], [1, 0, 1]]), "leaves map 1 without a filter"),
        (dict(connectivity=[[0, 0, 0], [1, 1, 1]]), "leaves channel 0 without a filter"),
        (dict(kernel_size=(3, 3, 3)), "kernel_size="),
        (dict(kernel_size=0), "kernel_size=0"),
        (dict(rounds=0), "rounds=0"),
        (dict(seed=-1), "seed=-1"),
    ],
)
def test_arguments_that_are_refused(arguments, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        fc.SparseCoding(**(dict(channels=2, features=3, kernel_size=3) | arguments))


def test_images_that_are_refused():
    coding, images = fc.SparseCoding(3, 2, 3), np.ones((2, 6, 7, 3))
    for wrong, kind, sentence in (
        (np.moveaxis(images, -1, 1), ShapeError, "from_nchw"),
        (images[0], ShapeError, r"needed: add a batch axis with x\[None\]"),
        (images[..., :2], ShapeError, r"\(2, 6, 7, 2\), where \(N, H, W, 3\)"),
        (images[:, :0], ShapeError, "at least one pixel"),
        (images.astype(np.uint8), DataError, "floats are needed"),
        (np.where(images > 0, np.nan, 0), DataError, "hold NaN or infinity"),
    ):
        for method in (coding.fit, coding.transform):
            with pytest.raises(kind, match=sentence):
                method(wrong)
    with pytest.raises(DataError, match="no images to fit"):
        coding.fit(images[:0])
    with pytest.raises(ShapeError, match="smaller than its filters of 3x3"):
        coding.reconstruct(np.ones((1, 2, 5, 2)))
    with pytest.raises(ShapeError, match=r"where \(N, H, W, 2\) is needed"):
        coding.reconstruct(np.ones((1, 5, 5, 3)))
    with pytest.raises(ShapeError, match="got filters of shape"):
        coding.filters = np.ones((3, 3, 2, 2))
    with pytest.raises(ShapeError, match="give it channels=2"):
        fc.SparseCodingStack(coding, fc.SparseCoding(3, 2, 3))
    with pytest.raises(ArgumentError, match="give it layers of SparseCoding"):
        fc.SparseCodingStack()
    assert coding.cost_history == []


def test_images_too_large_for_a_cost_stop_the_fit_and_keep_the_filters():
    coding = fc.SparseCoding(1, 2, 3)
    before = coding.filters.copy()
    with pytest.raises(TrainingError, match=r"in epoch 1, batch 1 of .* scale the images"):
        coding.fit(np.full((2, 5, 5, 1), 2e38))
    with pytest.raises(DataError, match="too large for float32: scale them"):
        coding.transform(np.full((2, 5, 5, 1), 2e38))
    np.testing.assert_array_equal(coding.filters, before)


def test_the_bar_shows_the_cost(capfd):
    with CostBar(True, "epoch 1/1", 10) as bar:
        bar.show_cost(5, 1.25, 0.5)
    shown = capfd.readouterr().err
    assert "epoch 1/1" in shown
    assert "cost 1.2500  10 images/s" in shown
    with CostBar(False, "epoch 1/1", 10) as bar:
        bar.show_cost(5, 1.25, 0.5)
    assert capfd.readouterr().err == ""


def test_digits_of_the_package_are_made_of_few_map_elements():
    images = fc.data.digits()[0].images[:60]
    check_coding(fc.SparseCoding(1, 12, 5, lam=10.0).fit(images, epochs=4, batch_size=30), images)


@pytest.mark.skipif("FASTCNN_DATA" not in os.environ, reason="FASTCNN_DATA names no folder with MNIST")
@pytest.mark.parametrize("p", selected([1, 0.5, 2 / 3], 0.5))
def test_patches_of_mnist_are_made_of_few_map_elements(p):
    rng, digits = np.random.default_rng(0), fc.data.mnist()[1].images
    patches = np.stack(
        [digits[n, r : r + 16, s : s + 16] for n, r, s in zip(*rng.integers(0, 12, (3, 100)), strict=True)]
    )
    lam = 10.0 if p == 1 else 50.0  # below 1 a small element costs more
    coding = fc.SparseCoding(1, 16, 7, lam=lam, p=p).fit(patches, epochs=5)
    check_coding(coding, patches)
    shape = np.abs(coding.filters[:, :, 0]).reshape(49, 16)
    energy = np.sort(np.square(shape), axis=0)[::-1]
    fresh = np.sort(np.square(fc.SparseCoding(1, 16, 7).filters.reshape(49, 16)), axis=0)[::-1]
    assert energy[:12].sum() > 1.15 * fresh[:12].sum()  # strokes: a quarter of the pixels hold most of a filter


def check_coding(coding, images):
    """Less than a tenth of the energy is lost, fewer than a quarter of the elements are not 0, and no cost rises."""
    maps = coding.transform(images)
    lost = np.square(coding.reconstruct(maps) - images).sum() / np.square(images).sum()
    assert lost < 0.1
    assert (maps != 0).mean() < 0.25
    assert never_rises(coding.cost_history, ROUNDING["float32"])
    assert coding.objective_history[-1] < 0.95 * coding.objective_history[0]
