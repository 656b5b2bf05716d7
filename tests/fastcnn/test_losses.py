"""Losses at the door: what they refuse, in one sentence, and the cases that no oracle draws."""

import math

import numpy as np
import pytest

import fastcnn as fc

DEVICES = ("reference", "cpu")


@pytest.mark.parametrize("device", DEVICES)
def test_ignored_labels_do_not_count(device):
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((4, 3)), np.array([0, -100, 2, -100])
    for make in (fc.CrossEntropy, fc.NLL):
        loss, alone = make(device=device), make(device=device)
        assert loss.forward(logits, labels) == pytest.approx(alone.forward(logits[::2], labels[::2]), rel=1e-12)
        gradient = loss.backward()
        np.testing.assert_allclose(gradient[::2], alone.backward(), rtol=1e-12)
        assert not gradient[1::2].any()
        assert make(ignore_index=1, device=device).forward(logits, [0, 1, 2, 1]) == loss.forward(logits, labels)


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_to_learn_from_is_no_loss(device):
    loss = fc.CrossEntropy(device=device)
    assert loss.forward(np.ones((2, 3)), [-100, -100]) == 0
    assert not loss.backward().any()
    weighted = fc.CrossEntropy([0, 1, 1], device=device)
    assert weighted.forward(np.ones((2, 3)), [0, 0]) == 0
    assert not weighted.backward().any()


@pytest.mark.parametrize("device", DEVICES)
def test_pixels_are_rows(device):
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((2, 3, 5, 4)), rng.integers(4, size=(2, 3, 5))
    for make in (fc.CrossEntropy, fc.NLL, fc.Hinge):
        loss, rows = make(device=device), make(device=device)
        assert loss.forward(logits, labels) == rows.forward(logits.reshape(-1, 4), labels.reshape(-1))
        np.testing.assert_array_equal(loss.backward().reshape(-1, 4), rows.backward())


@pytest.mark.parametrize("device", DEVICES)
def test_probabilities_of_pixels_are_rows_and_a_mean_counts_rows(device):
    rng = np.random.default_rng(0)
    logits, shares = rng.standard_normal((2, 3, 5, 4)), rng.dirichlet(np.ones(4), (2, 3, 5))
    loss, rows = (fc.CrossEntropy([0.5, 2.0, 1.0, 0.0], device=device) for _ in range(2))
    total = fc.CrossEntropy([0.5, 2.0, 1.0, 0.0], reduction="sum", device=device).forward(logits, shares)
    assert loss.forward(logits, shares) == rows.forward(logits.reshape(-1, 4), shares.reshape(-1, 4))
    assert loss.forward(logits, shares) == pytest.approx(total / 30, rel=1e-14)
    np.testing.assert_array_equal(loss.backward().reshape(-1, 4), rows.backward())
    assert rows.forward(np.zeros((1, 4)), np.zeros((1, 4))) == 0  # PyTorch's, too: rows need not sum to 1
    assert not rows.backward().any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_logits_and_the_dtype_of_gradients(device, dtype):
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype)
    for loss, targets, want in (
        (fc.CrossEntropy(device=device), [1, 1], 1e4),
        (fc.CrossEntropy(label_smoothing=0.3, device=device), [1, 1], 0.7 * 1e4 + 0.1 * 3e4),
        (fc.CrossEntropy(device=device), np.eye(3)[[1, 1]], 1e4),
        (fc.Hinge(device=device), [1, 1], (2e4 + 1 + 1e4 + 1) / 6),
        (fc.BinaryCrossEntropy(device=device), np.eye(3)[[1, 1]], (2e4 + 2 * math.log(2)) / 6),
    ):
        assert loss.forward(logits, targets) == pytest.approx(want, rel=1e-6)
        gradient = loss.backward()
        assert gradient.dtype == dtype
        assert np.isfinite(gradient).all()


def test_halves_and_sums():
    y, t = np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2))
    for loss, value, slope in (
        (fc.SumSquaredError(device="reference"), 15.0, y),
        (fc.MeanSquaredError(device="reference"), 7.5, y / 2),
        (fc.MeanSquaredError("sum", device="reference"), 30.0, 2 * y),
        (fc.L1(device="reference"), 2.5, np.full((2, 2), 0.25)),
        (fc.L1("sum", device="reference"), 10.0, np.ones((2, 2))),
        (fc.SmoothL1("sum", beta=2.0, device="reference"), 0.25 + 1 + 2 + 3, [[0.5, 1], [1, 1]]),
    ):
        assert loss.forward(y, t) == value
        np.testing.assert_array_equal(loss.backward(), slope)


def test_targets_may_be_whole_numbers_but_not_of_another_shape():
    loss = fc.MeanSquaredError(device="reference")
    assert loss.forward(np.ones((2, 1)), [[3], [1]]) == 2
    with pytest.raises(fc.DataError, match=r"shape \(2,\) were given, .* \(2, 1\): add the missing axis"):
        loss.forward(np.ones((2, 1)), [3, 1])
    with pytest.raises(fc.DataError, match="give a target for each"):
        loss.forward(np.ones((2, 1)), np.ones((2, 2)))
    with pytest.raises(fc.DataError, match="needs numbers"):
        loss.forward(np.ones((1, 1)), [["a"]])
    with pytest.raises(fc.DataError, match="lists of different lengths"):
        loss.forward(np.ones((2, 1)), [[1], [1, 2]])


REFUSED = {
    "reduction": (lambda: fc.L1("none"), "choose 'mean' or 'sum'"),
    "device": (lambda: fc.L1(device="tpu"), "'tpu'"),
    "beta": (lambda: fc.SmoothL1(beta=-1), "beta=-1 was given"),
    "smoothing": (lambda: fc.CrossEntropy(label_smoothing=1.5), "finite number from 0 to 1"),
    "weights": (lambda: fc.CrossEntropy([1, -1]), "weight="),
    "no weights": (lambda: fc.NLL([]), "weight="),
    "power": (lambda: fc.Hinge(p=3), "p=3 was given"),
    "margin": (lambda: fc.Hinge(margin=float("inf")), "margin=inf"),
    "pos_weight": (lambda: fc.BinaryCrossEntropy("many"), "pos_weight='many'"),
    "too many weights": (lambda: fc.CrossEntropy([1, 1]).forward(np.ones((1, 3)), [0]), "give 3 weights"),
    "pos_weights": (lambda: fc.BinaryCrossEntropy([1, 1]).forward(np.ones((1, 3)), np.ones((1, 3))), "2 weights"),
    "probabilities": (
        lambda: fc.CrossEntropy().forward(np.ones((1, 2)), [[0.5, 1.5]]), "from 0.5 to 1.5 .*, between 0 and 1"
    ),
    "no number": (lambda: fc.CrossEntropy().forward(np.ones((1, 2)), [[0.5, np.nan]]), "probabilities from nan"),
    "whole probabilities": (
        lambda: fc.CrossEntropy().forward(np.ones((1, 2)), [[0, 1]]), r"probabilities .* as floats, shape \(1, 2\)"
    ),
    "probabilities of others": (
        lambda: fc.CrossEntropy().forward(np.ones((1, 3)), [[0.5, 0.5]]), r"shape \(1, 2\) .* as floats, shape \(1, 3\)"
    ),
    "probabilities of a hinge": (
        lambda: fc.Hinge().forward(np.ones((1, 2)), [[0.5, 0.5]]), r"one label an image, shape \(1,\)\.$"
    ),
    "ragged": (lambda: fc.CrossEntropy().forward(np.ones((2, 2)), [[0.5, 0.5], [1.0]]), "different lengths"),
    "shares": (lambda: fc.BinaryCrossEntropy().forward(np.ones((1, 1)), [[1.5]]), "between 0 and 1"),
    "integers": (lambda: fc.L1().forward([[1, 2]], [[1, 2]]), "floats are needed"),
    "one axis": (lambda: fc.L1().forward([1.0, 2.0], [1.0, 2.0]), "give a row for each image"),
    "backward": (lambda: fc.L1().backward(), "forward first"),
    "no head": (lambda: fc.MultiTask({}), "a head for each output"),
    "no weight": (lambda: fc.MultiTask({"a": fc.L1()}), r"give \(loss, weight\)"),
    "bad weight": (lambda: fc.MultiTask({"a": (fc.L1(), -1)}), "the weight of head 'a'=-1"),
    "backward of many": (lambda: fc.MultiTask({"a": (fc.L1(), 1)}).backward(), "forward first"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    call, sentence = REFUSED[name]
    with pytest.raises(fc.FastcnnError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_multi_task_takes_dicts_and_tuples():
    loss = fc.MultiTask(
        {
            "kind": (fc.CrossEntropy(device="reference"), 2.0),
            "place": (fc.SumSquaredError(device="reference"), 0.5),
        }
    )
    outputs, targets = (np.zeros((1, 2)), np.array([[1.0, 3.0]])), ([0], np.zeros((1, 2)))
    value = 2 * math.log(2) + 0.5 * 5
    assert loss.forward(outputs, targets) == pytest.approx(value)
    kind, place = loss.backward()
    np.testing.assert_allclose(kind, [[-1, 1]])
    np.testing.assert_allclose(place, [[0.5, 1.5]])
    names = ("place", "kind")
    assert loss.forward(dict(zip(names, outputs[::-1], strict=True)), dict(zip(names, targets[::-1], strict=True))) == (
        pytest.approx(value)
    )
    np.testing.assert_array_equal(loss.backward()["place"], place)
    with pytest.raises(fc.DataError, match="targets for kind were given, and the heads are kind, place"):
        loss.forward(outputs, {"kind": [0]})
    with pytest.raises(fc.DataError, match="outputs were given as 1 arrays"):
        loss.forward(outputs[:1], targets)
