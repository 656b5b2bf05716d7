"""Augmentation: how movements are drawn and joined, what training sees of them, and what is refused."""

import numpy as np
import pytest
from small_training import blobs, network, parameters, trainer, without_times

import fastcnn as fc
from fastcnn.augment import Movement, Mover, RandomFlip, RandomShift
from fastcnn.backend import get

SHAPE = (5, 7, 2)


def moved(augmentations, images: np.ndarray, seed: int = 0) -> np.ndarray:
    out = np.empty_like(images)
    mover = Mover(augmentations, images.shape[1:], images.dtype, np.random.default_rng(seed))
    mover.gather(get("reference"), images, np.arange(len(images)), out)
    return out


def drawn(augmentation, count: int = 20000) -> Movement:
    movement = Movement(np.zeros(count, bool), np.zeros(count, int), np.zeros(count, int))
    augmentation.draw(np.random.default_rng(0), movement)
    return movement


def test_movements_are_spread_as_they_say():
    movement = drawn(RandomShift((2, 3)))
    for shift, most in ((movement.down, 2), (movement.right, 3)):
        values, counts = np.unique(shift, return_counts=True)
        assert list(values) == list(range(-most, most + 1))
        np.testing.assert_allclose(counts / counts.sum(), 1 / (2 * most + 1), rtol=0.1)
    assert abs(np.corrcoef(movement.down, movement.right)[0, 1]) < 0.03
    assert not movement.flip.any()
    assert drawn(RandomFlip(0.25)).flip.mean() == pytest.approx(0.25, abs=0.01)
    assert not drawn(RandomFlip(0)).flip.any()
    assert drawn(RandomFlip(1)).flip.all()


def test_several_are_one_movement_in_their_order():
    """Joined movements are those of one after the other, where nothing leaves the image on the way."""
    images = np.zeros((400, *SHAPE))
    images[:, 2, 2:5] = np.random.default_rng(0).standard_normal((400, 3, 2))
    steps = [RandomShift(1), RandomFlip(), RandomShift((0, 1)), RandomFlip(0.3)]
    joined = moved(steps, images)
    generator, one_by_one = np.random.default_rng(0), images
    for step in steps:
        movement, given = Movement(np.zeros(400, bool), np.zeros(400, int), np.zeros(400, int)), one_by_one
        step.draw(generator, movement)
        one_by_one, moves = np.empty_like(images), (movement.flip, movement.down, movement.right)
        get("reference").augment.move_images(given, np.arange(400), *moves, np.zeros(2), one_by_one)
    np.testing.assert_array_equal(joined, one_by_one)
    assert len({image.tobytes() for image in joined != 0}) == 3 * 5  # places


def test_what_comes_in_is_the_fill():
    images = np.ones((50, *SHAPE))
    for fill, want in ((-3.0, {1, -3}), ((2.0, 5.0), {1, 2, 5})):
        out = moved((RandomShift(2, fill=fill), RandomFlip()), images)
        assert set(np.unique(out)) == want
        assert set(np.unique(out[..., 0])) == {1, fill if fill == -3 else 2}
    assert (moved(RandomFlip(), images) == 1).all()


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_training_moves_images_by_the_seed(device):
    augment = (RandomShift(1), RandomFlip())
    runs = [trainer(network(device), seed=seed, augment=augment) for seed in (5, 5, 6)]
    plain = trainer(network(device), seed=5)
    histories = [run.fit(blobs(), 2, batch_size=16, validation=blobs()) for run in (*runs, plain)]
    assert without_times(histories[0]) == without_times(histories[1])
    np.testing.assert_array_equal(parameters(runs[0].net), parameters(runs[1].net))
    for other in (runs[2], plain):
        assert (parameters(runs[0].net) != parameters(other.net)).any()


def test_rooms_see_the_same_images(monkeypatch):
    seen = {}
    for device in ("reference", "cpu"):
        run = trainer(network(device), augment=(RandomShift(2), RandomFlip()))
        given, train = [], run._train_batch

        def spy(batch, given=given, train=train):
            given.append(batch.plan.inputs[0].copy())
            return train(batch)

        monkeypatch.setattr(run, "_train_batch", spy)
        run.fit(blobs(), 2, batch_size=16)
        seen[device] = np.concatenate(given)
    np.testing.assert_array_equal(seen["reference"], seen["cpu"])
    assert len({image.tobytes() for image in seen["cpu"]}) > 95  # of 100: an epoch moves in other ways than the last


def test_nothing_else_is_moved():
    """The order of images is that of a run without augmentation; evaluation, prediction and step see them as given."""
    run, plain = trainer(seed=3, augment=RandomShift(0)), trainer(seed=3)
    for one in (run, plain):
        one.fit(blobs(), 2, batch_size=16)
    np.testing.assert_array_equal(parameters(run.net), parameters(plain.net))
    run, plain = (trainer(seed=3, **keywords) for keywords in ({"augment": RandomShift(5)}, {}))
    assert run.evaluate(blobs()) == plain.evaluate(blobs())
    np.testing.assert_array_equal(run.predict(blobs().images), plain.predict(blobs().images))
    assert run.step(*blobs()) == plain.step(*blobs())


def test_a_shifted_class_is_learned():
    """Trained on bars at one place, a network with augmentation knows them where they never stood."""
    images, labels = np.zeros((64, 6, 6, 1)), np.arange(64) % 2
    images[labels == 0, 2:4, :, 0] = 1
    images[labels == 1, :, 2:4, 0] = 1
    elsewhere = np.roll(images, (2, 2), axis=(1, 2))
    accuracies = []
    for augment in (None, RandomShift(2)):
        net = fc.Sequential(fc.Flatten(), fc.Linear(36, 16), fc.ReLU(), fc.Linear(16, 2), input_shape=(6, 6, 1))
        run = fc.Trainer(net.to("reference"), fc.CrossEntropy(), fc.SGD(0.1, momentum=0.9), augment=augment)
        run.fit((images, labels), 30, batch_size=16)
        accuracies.append(run.evaluate((elsewhere, labels)).accuracy)
    assert accuracies[0] < 0.8
    assert accuracies[1] == 1.0


REFUSED = {
    "p": (lambda: RandomFlip(1.5), "p=1.5 was given: it must be a finite number from 0 to 1"),
    "pixels": (lambda: RandomShift(-1), "pixels=-1"),
    "half pixels": (lambda: RandomShift(1.5), "pixels=1.5"),
    "fill": (lambda: RandomShift(1, fill="black"), "fill='black' was given: give a finite number, or one for each"),
    "endless fill": (lambda: RandomShift(1, fill=[np.inf]), "fill="),
    "far": (lambda: trainer(augment=RandomShift(6)), r"RandomShift\(6\) may push images of 6x6 pixels out"),
    "channels": (lambda: trainer(augment=RandomShift(1, fill=[0, 1])), "2 numbers to fill with for images of 1"),
    "two fills": (lambda: trainer(augment=[RandomShift(1), RandomShift(1, 2.0)]), "several shifts that fill"),
    "words": (lambda: trainer(augment="flip"), "augment='flip' was given: give RandomFlip"),
    "class": (lambda: trainer(augment=RandomFlip), "give RandomFlip"),
    "rows": (
        lambda: trainer(fc.Sequential(fc.Linear(4, 3), input_shape=(4,)), augment=RandomFlip()),
        r"inputs of shape \(4,\): it moves images \(H, W, C\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    call, sentence = REFUSED[name]
    with pytest.raises(fc.ArgumentError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
