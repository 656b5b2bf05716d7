"""The convolutions of well-known networks, and lists of them in files.

Each set holds every convolution of its network as published, for the batch sizes below; equal
shapes stand once, with their count. Fully connected layers are not convolutions and are left out.

    lenet      20 and 50 filters 5x5, padding 2, on 28x28       LeCun, Bottou, Bengio, Haffner 1998
    alexnet    227x227, two groups in layers 2, 4 and 5         Krizhevsky, Sutskever, Hinton 2012
    vgg19      224x224, configuration E                         Simonyan, Zisserman 2014
    resnet50   224x224, v1.5                                    He, Zhang, Ren, Sun 2015
    googlenet  224x224, no auxiliary heads                      Szegedy and others 2014
    mobilenet  224x224, MobileNet v1, width 1                   Howard and others 2017
    deepbench  the training list, with its own batch sizes      Baidu, kernels/conv_problems.h

ResNet-50 v1.5 strides in the 3x3 of a stage's first block, v1 in its 1x1: 4.09 G multiply-adds
against 3.8 G.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self, TypeVar

from fastcnn.bench.shapes.convolution import Convolution, parse, refusal
from fastcnn.errors import DataError, FastcnnError

BATCH = 16  # of the ImageNet networks: fits any machine's memory, and fills its cores
LENET_BATCH = 128


def _conv(
    name: str,
    size: int,
    channels: int,
    filters: int,
    window: int,
    stride: int = 1,
    pad: int | None = None,
    groups: int = 1,
    batch: int = BATCH,
) -> Convolution:
    """Return a square convolution, padded to keep the size at stride 1 unless `pad` is given."""
    pad = (window - 1) // 2 if pad is None else pad
    return parse(f'g{groups}mb{batch}ic{channels}ih{size}oc{filters}kh{window}sh{stride}ph{pad}n"{name}"')


class Problem(Protocol):
    """What a layer is measured on: a shape, named, and how often a network holds it."""

    @property
    def name(self) -> str:
        """Its name, or nothing."""

    @property
    def count(self) -> int:
        """How often a network holds it."""

    @property
    def batch(self) -> int:
        """Number of images."""

    def with_batch(self, batch: int) -> Self:
        """Return the same for another number of images."""

    def counted(self, name: str, count: int) -> Self:
        """Return the same under a name and count."""

    def descriptor(self) -> str:
        """Return its descriptor, without name and count."""


AnyProblem = TypeVar("AnyProblem", bound=Problem)


def merged(problems: Iterable[AnyProblem]) -> list[AnyProblem]:
    """Return each shape once, under the name it had first, with counts added up."""
    counts: dict[AnyProblem, AnyProblem] = {}
    for problem in problems:
        shape = problem.counted("", 1)
        known = counts.get(shape)
        counts[shape] = known.counted(known.name, known.count + problem.count) if known else problem
    return list(counts.values())


def lenet() -> list[Convolution]:
    """Return the two convolutions of LeNet."""
    return [
        _conv("lenet:conv1", 28, 1, 20, 5, batch=LENET_BATCH),
        _conv("lenet:conv2", 14, 20, 50, 5, batch=LENET_BATCH),
    ]


def alexnet() -> list[Convolution]:
    """Return the five convolutions of AlexNet."""
    return [
        _conv("alexnet:conv1", 227, 3, 96, 11, stride=4, pad=0),
        _conv("alexnet:conv2", 27, 96, 256, 5, groups=2),
        _conv("alexnet:conv3", 13, 256, 384, 3),
        _conv("alexnet:conv4", 13, 384, 384, 3, groups=2),
        _conv("alexnet:conv5", 13, 384, 256, 3, groups=2),
    ]


def vgg19() -> list[Convolution]:
    """Return the 16 convolutions of VGG-19."""
    found, channels, size = [], 3, 224
    for stage, (filters, depth) in enumerate([(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)], 1):
        for layer in range(1, depth + 1):
            found.append(_conv(f"vgg19:conv{stage}_{layer}", size, channels, filters, 3))
            channels = filters
        size //= 2
    return found


def resnet50() -> list[Convolution]:
    """Return the 53 convolutions of ResNet-50 v1.5."""
    found, channels, size = [_conv("resnet50:conv1", 224, 3, 64, 7, stride=2)], 64, 56
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 2):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 2 else 1
            name = f"resnet50:res{stage}{'abcdef'[block]}"
            if block == 0:
                found.append(_conv(f"{name}_shortcut", size, channels, 4 * width, 1, stride))
            found.append(_conv(f"{name}_1", size, channels, width, 1))
            found.append(_conv(f"{name}_2", size, width, width, 3, stride))
            size //= stride
            found.append(_conv(f"{name}_3", size, width, 4 * width, 1))
            channels = 4 * width
    return found


# Size, then filters: 1x1, 3x3 reduced, 3x3, 5x5 reduced, 5x5, after pooling (the paper's table 1).
_INCEPTION = {
    "3a": (28, 64, 96, 128, 16, 32, 32),
    "3b": (28, 128, 128, 192, 32, 96, 64),
    "4a": (14, 192, 96, 208, 16, 48, 64),
    "4b": (14, 160, 112, 224, 24, 64, 64),
    "4c": (14, 128, 128, 256, 24, 64, 64),
    "4d": (14, 112, 144, 288, 32, 64, 64),
    "4e": (14, 256, 160, 320, 32, 128, 128),
    "5a": (7, 256, 160, 320, 32, 128, 128),
    "5b": (7, 384, 192, 384, 48, 128, 128),
}


def googlenet() -> list[Convolution]:
    """Return the 57 convolutions of GoogLeNet."""
    found = [
        _conv("googlenet:conv1", 224, 3, 64, 7, stride=2),
        _conv("googlenet:conv2_reduce", 56, 64, 64, 1),
        _conv("googlenet:conv2", 56, 64, 192, 3),
    ]
    channels = 192
    for block, (size, one, reduce3, three, reduce5, five, pooled) in _INCEPTION.items():
        name = f"googlenet:inception_{block}"
        found += [
            _conv(f"{name}_1x1", size, channels, one, 1),
            _conv(f"{name}_3x3_reduce", size, channels, reduce3, 1),
            _conv(f"{name}_3x3", size, reduce3, three, 3),
            _conv(f"{name}_5x5_reduce", size, channels, reduce5, 1),
            _conv(f"{name}_5x5", size, reduce5, five, 5),
            _conv(f"{name}_pool", size, channels, pooled, 1),
        ]
        channels = one + three + five + pooled
    return found


def mobilenet() -> list[Convolution]:
    """Return the 27 convolutions of MobileNet v1: the first, then 13 pairs of depthwise and 1x1."""
    found, channels, size = [_conv("mobilenet:conv1", 224, 3, 32, 3, stride=2)], 32, 112
    pairs = [
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ]
    for number, (filters, stride) in enumerate(pairs, 2):
        found.append(_conv(f"mobilenet:conv{number}_dw", size, channels, channels, 3, stride, groups=channels))
        size //= stride
        found.append(_conv(f"mobilenet:conv{number}_1x1", size, channels, filters, 1))
        channels = filters
    return found


# Batch sizes, then shapes; the list holds a shape twice where its networks do.
_DEEPBENCH = {
    (4, 8, 16, 32): """
        ic1ih161iw700oc32kh5kw20sh2sw2 ic32ih79iw341oc32kh5kw10sh2sw2
    """,
    (16,): """
        ic1ih48iw480oc16kh3kw3ph1pw1 ic16ih24iw240oc32kh3kw3ph1pw1 ic32ih12iw120oc64kh3kw3ph1pw1
        ic64ih6iw60oc128kh3kw3ph1pw1 ic3ih224oc64kh7sh2ph3 ic192ih28oc32kh5ph2 ic192ih28oc64kh1
        ic512ih14oc48kh5ph2 ic512ih14oc192kh1 ic832ih7oc256kh1 ic832ih7oc128kh5ph2
        ic1ih161iw700oc64kh5kw5sh2sw2ph1pw1 ic64ih80iw350oc64kh3kw3ph1pw1
        ic64ih80iw350oc128kh5kw5sh2sw2ph1pw1 ic128ih40iw175oc128kh3kw3ph1pw1
        ic128ih40iw175oc256kh5kw5sh2sw2ph1pw1 ic256ih20iw84oc256kh3kw3ph1pw1
        ic256ih20iw84oc512kh5kw5sh2sw2ph1pw1 ic512ih10iw42oc512kh3kw3ph1pw1
    """,
    (8,): """
        ic3ih108oc64kh3sh2ph1 ic64ih54oc64kh3ph1 ic128ih27oc128kh3ph1 ic128ih14oc256kh3ph1
        ic256ih7oc512kh3ph1
    """,
    (8, 16): """
        ic3ih224oc64kh3ph1 ic64ih112oc128kh3ph1 ic128ih56oc256kh3ph1 ic256ih28oc512kh3ph1
        ic512ih14oc512kh3ph1 ic512ih7oc512kh3ph1*2 ic64ih56oc64kh3ph1 ic64ih56oc256kh1sh2
        ic128ih28oc128kh3ph1 ic128ih28oc512kh1sh2 ic256ih14oc256kh1 ic256ih14oc256kh3ph1
        ic256ih14oc1024kh1sh2 ic512ih7oc512kh1 ic2048ih7oc512kh1sh2ph3 ic64ih112oc64kh1
        ic64ih56oc256kh1 ic256ih56oc64kh1 ic256ih56oc128kh1sh2 ic128ih28oc512kh1
        ic512ih28oc128kh1 ic512ih28oc256kh1sh2 ic256ih14oc1024kh1*2 ic512ih28oc1024kh1sh2
        ic1024ih14oc256kh1 ic1024ih14oc512kh1sh2 ic512ih7oc2048kh1 ic1024ih14oc2048kh1sh2
        ic2048ih7oc512kh1
    """,
}


def deepbench() -> list[Convolution]:
    """Return the 94 convolutions of DeepBench's training list."""
    found = [
        parse(shape).with_batch(batch)
        for batches, shapes in _DEEPBENCH.items()
        for shape in shapes.split()
        for batch in batches
    ]
    return [replace(c, name=f"deepbench:{number}") for number, c in enumerate(found, 1)]


SETS: dict[str, Callable[[], list[Convolution]]] = {
    "lenet": lenet,
    "alexnet": alexnet,
    "vgg19": vgg19,
    "resnet50": resnet50,
    "googlenet": googlenet,
    "mobilenet": mobilenet,
    "deepbench": deepbench,
}


def depthwise() -> list[Convolution]:
    """Return the 13 depthwise convolutions of MobileNet v1."""
    return [c for c in mobilenet() if c.groups == c.channels]


DEPTHWISE_SETS: dict[str, Callable[[], list[Convolution]]] = {"mobilenet": depthwise}


def parse_depthwise(text: str) -> Convolution:
    """Read one descriptor of a depthwise convolution: as many groups as input channels.

    Raises
    ------
    ShapeError
        If the text is no descriptor, or the convolution is not depthwise.
    """
    c = parse(text)
    if c.groups != c.channels:
        raise refusal(text.strip(), f"a depthwise convolution has g (={c.groups}) equal to ic (={c.channels})")
    return c


def read_file(path: Path, parse: Callable[[str], AnyProblem]) -> list[AnyProblem]:
    """Read descriptors, one a line, each by `parse`; what follows # is a comment.

    Raises
    ------
    DataError
        If the file cannot be read or holds no descriptor, or a line is none, which is named.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list of shapes {path} cannot be read ({error}); give a text file.") from error
    found = []
    for number, line in enumerate(lines, 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        try:
            found.append(parse(text))
        except FastcnnError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    if not found:
        raise DataError(f"The list of shapes {path} holds no descriptor; write one a line.")
    return found


def resolve(
    text: str, sets: Mapping[str, Callable[[], list[AnyProblem]]], parse: Callable[[str], AnyProblem]
) -> list[AnyProblem]:
    """Return the problems of `text`: a set's name, a file's path, or one descriptor."""
    if text in sets:
        return merged(sets[text]())
    if os.path.isfile(text):  # unlike Path.is_file, never raises: a descriptor may be longer than any file name
        return merged(read_file(Path(text), parse))
    return [parse(text)]
