"""What the tests of training share: a small data set, a network for it, and its trainer."""

from typing import NamedTuple

import numpy as np

import fastcnn as fc

CLASSES = 3


class Data(NamedTuple):
    images: np.ndarray
    labels: np.ndarray


def blobs(count: int = 50) -> Data:
    """Images whose brightest quarter is their class: easy to learn."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=count)
    images = 0.3 * rng.standard_normal((count, 6, 6, 1))
    for image, label in zip(images, labels, strict=True):
        image[3 * (label // 2) :][:3, 3 * (label % 2) :][:, :3] += 1
    return Data(images.astype(np.float32), labels)


def network(device: str = "reference") -> fc.Sequential:
    return fc.Sequential(
        fc.Conv2d(1, 5, 3, padding=1), fc.ReLU(), fc.MaxPool2d(2), fc.Flatten(),
        fc.Linear(45, CLASSES), input_shape=(6, 6, 1),
    ).to(device)  # fmt: skip


def trainer(net: fc.Graph | None = None, lr: float = 0.1, loss=None, **keywords) -> fc.Trainer:
    optimizer = fc.SGD(lr, momentum=0.9)
    return fc.Trainer(network() if net is None else net, loss or fc.CrossEntropy(), optimizer, **keywords)


def parameters(net: fc.Graph) -> np.ndarray:
    return net.own_store().values.copy()


def without_times(history: fc.History) -> list[dict]:
    return [
        {key: value for key, value in epoch.items() if key not in ("images_per_s", "seconds")}
        for epoch in history.epochs
    ]
