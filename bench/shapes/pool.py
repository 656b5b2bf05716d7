"""Poolings as benchdnn's pooling driver writes them, with the kind in front, and those of networks.

    max:mb16ic64ih112oh56kh3sh2ph1      avg_p:...      avg_np:...      lp1 lp2 gauss adaptive_avg ...

The keys are those of `convolution.py` without oc and g; no kind means max. avg_p (or avg) counts padded
pixels in the mean, avg_np does not. lp1 and lp2 are norms, gauss a weighted mean; adaptive windows follow from the
sizes of image and output, subsample takes the windows' first pixels; nearest, bilinear and unpool go the other way,
from the output's size to the image's. The padding is the same on both sides, and the output size is what fits,
rounded down, or rounded up (ceil_mode) where `o` says so.

    lenet, alexnet, vgg19, resnet50, googlenet, mobilenet    as published; global pooling is one window

Source: oneDNN, tests/benchdnn/doc/driver_pool.md.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from fastcnn.bench.shapes.convolution import AXES, Convolution, Triple, build, name_and_count, read, refusal

BATCH = 16  # that of the convolutions beside them
LENET_BATCH = 128
SIGMAS_IN_A_WINDOW = 4
ENLARGING = ("nearest", "bilinear", "unpool")
OTHERS = ("lp1", "lp2", "gauss", "adaptive_avg", "adaptive_max", "subsample", *ENLARGING)  # see `cases/pool_kinds.py`
KINDS = {"max": "max", "avg": "avg_p", "avg_p": "avg_p", "avg_np": "avg_np"} | {kind: kind for kind in OTHERS}
_KIND = re.compile(r"([a-z_]+[12]?):")


@dataclass(frozen=True)
class Pooling:
    """One pooling: its kind ("max", "avg_p", "avg_np", one of OTHERS) and its windows, one filter a channel."""

    kind: str
    windows: Convolution

    @property
    def name(self) -> str:
        """Name of the shape."""
        return self.windows.name

    @property
    def count(self) -> int:
        """How often a network holds it."""
        return self.windows.count

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.windows.batch

    @property
    def ceil_mode(self) -> bool:
        """Whether the last window hangs over the padded image."""
        return any(overhang > 0 for overhang in self._overhang())

    @property
    def pads(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Padding as (before, after) of each axis, both the same."""
        d, h, w = ((p, p) for p in self.windows.padding)
        return d, h, w

    def _overhang(self) -> Triple:
        c = self.windows
        d, h, w = (
            (output - 1) * stride + (window - 1) * dilation + 1 - image - 2 * padding
            for image, output, window, stride, padding, dilation in zip(
                c.image, c.output, c.window, c.stride, c.padding, c.dilation, strict=True
            )
        )
        return d, h, w

    def with_batch(self, batch: int) -> "Pooling":
        """Return the same pooling for another number of images."""
        return replace(self, windows=self.windows.with_batch(batch))

    def counted(self, name: str, count: int) -> "Pooling":
        """Return the same under a name and count."""
        return replace(self, windows=self.windows.counted(name, count))

    def descriptor(self) -> str:
        """Return the shortest descriptor, without name and count."""
        keys = self.windows.axis_keys()
        ends = f"{self.kind}:mb{self.windows.batch}ic{self.windows.channels}"
        return ends + "".join(keys[letter] for letter in "iokspd")

    def __str__(self) -> str:
        """Return the descriptor with its name and count."""
        return self.descriptor() + name_and_count(self.name, self.count)


def parse(text: str) -> Pooling:
    """Read one descriptor.

    Raises
    ------
    ShapeError
        If the text is no descriptor, or describes no pooling.

    >>> pool = parse("avg:ic64ih7kh7")
    >>> pool.descriptor(), pool.windows.y_shape
    ('avg_p:mb2ic64ih7oh1kh7ph0', (2, 1, 1, 1, 64))
    """
    text = text.strip()
    match = _KIND.match(text)
    given = match[1] if match else "max"
    if given not in KINDS:
        raise refusal(text, f"{given!r} is no kind of pooling: choose of {', '.join(KINDS)}")
    numbers, name, count = read(text[match.end() :] if match else text)
    for key in ("oc", "g"):
        if key in numbers:
            raise refusal(text, f"a pooling has no {key}; leave it out")
    if "ic" not in numbers:
        raise refusal(text, "it lacks ic; write a descriptor such as max:ic64ih112kh3sh2ph1")
    channels = {"oc": numbers["ic"], "g": numbers["ic"]}
    pool = Pooling(KINDS[given], build(text, numbers | channels, name, count))
    _check(text, pool)
    return pool


def _check(text: str, pool: Pooling) -> None:
    """Refuse what no library pools: dilated means, paddings past half a window, windows that begin outside."""
    c = pool.windows
    if pool.kind != "max" and c.dilation != (1, 1, 1):
        raise refusal(text, "the windows of a mean have no dilation; leave d out")
    for a, axis in enumerate(AXES):
        extent, overhang = (c.window[a] - 1) * c.dilation[a] + 1, pool._overhang()[a]
        if 2 * c.padding[a] > extent:
            raise refusal(text, f"p{axis} (={c.padding[a]}) must be at most half of what its window spans ({extent})")
        begins_inside = (c.output[a] - 1) * c.stride[a] < c.image[a] + c.padding[a]
        if not -c.stride[a] < overhang < c.stride[a] or not begins_inside:
            raise refusal(text, f"o{axis} (={c.output[a]}) is not what fits, neither rounded down nor up; leave it out")
    if min(pool._overhang()) < 0 < max(pool._overhang()):
        raise refusal(text, "one output size is rounded down and another up; round all the same way")


def _pool(name: str, size: int, channels: int, window: int, stride: int, more: str = "", kind: str = "max") -> Pooling:
    """Return a square pooling of BATCH images; `more` holds further keys."""
    return parse(f'{kind}:mb{BATCH}ic{channels}ih{size}kh{window}sh{stride}{more}n"{name}"')


def lenet() -> list[Pooling]:
    """Return the two poolings of LeNet."""
    found = [_pool("lenet:pool1", 28, 20, 2, 2), _pool("lenet:pool2", 14, 50, 2, 2)]
    return [pool.with_batch(LENET_BATCH) for pool in found]


def alexnet() -> list[Pooling]:
    """Return the three poolings of AlexNet, whose windows overlap."""
    sizes = (55, 96), (27, 256), (13, 256)
    return [_pool(f"alexnet:pool{i}", size, channels, 3, 2) for i, (size, channels) in enumerate(sizes, 1)]


def vgg19() -> list[Pooling]:
    """Return the five poolings of VGG-19."""
    sizes = (224, 64), (112, 128), (56, 256), (28, 512), (14, 512)
    return [_pool(f"vgg19:pool{i}", size, channels, 2, 2) for i, (size, channels) in enumerate(sizes, 1)]


def resnet50() -> list[Pooling]:
    """Return the two poolings of ResNet-50."""
    return [_pool("resnet50:pool1", 112, 64, 3, 2, "ph1"), _pool("resnet50:global", 7, 2048, 7, 1, kind="avg_p")]


def googlenet() -> list[Pooling]:
    """Return the 14 poolings of GoogLeNet; those between stages round up."""
    stages = (112, 64, 56), (56, 192, 28), (28, 480, 14), (14, 832, 7)
    blocks = {
        "3a": (28, 192), "3b": (28, 256), "4a": (14, 480), "4b": (14, 512), "4c": (14, 512), "4d": (14, 512),
        "4e": (14, 528), "5a": (7, 832), "5b": (7, 832),
    }  # fmt: skip
    return [
        *(
            _pool(f"googlenet:pool{number}", size, channels, 3, 2, f"oh{output}ph0")
            for number, (size, channels, output) in enumerate(stages, 1)
        ),
        *(_pool(f"googlenet:inception_{block}", *sizes, 3, 1, "ph1") for block, sizes in blocks.items()),
        _pool("googlenet:global", 7, 1024, 7, 1, kind="avg_p"),
    ]


def mobilenet() -> list[Pooling]:
    """Return the one pooling of MobileNet v1."""
    return [_pool("mobilenet:global", 7, 1024, 7, 1, kind="avg_p")]


def kinds() -> list[Pooling]:
    """Return every kind of pooling on a stage of a ResNet, and the networks' own of 2 x 2."""
    half = [_pool(f"kinds:{kind}", 56, 64, 2, 2, kind=kind) for kind in ("max", "avg_p", *OTHERS)]
    overlapping = [
        _pool(f"kinds:{kind}_3x3", 56, 64, 3, 2, "ph1", kind) for kind in ("max", "avg_p", "avg_np", "gauss")
    ]
    return half + overlapping


SETS: dict[str, Callable[[], list[Pooling]]] = {
    "lenet": lenet,
    "alexnet": alexnet,
    "vgg19": vgg19,
    "resnet50": resnet50,
    "googlenet": googlenet,
    "mobilenet": mobilenet,
    "kinds": kinds,
}
