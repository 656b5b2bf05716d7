"""Transposed convolutions as benchdnn's deconvolution driver writes them, and those of two networks.

    mb16ic512ih4oc256oh8kh4sh2ph1

The keys are those of `convolution.py`; i is the (small) input and o the (large) output. Along an axis

    o = (i - 1) * s + (k - 1) * (d + 1) + 1 - 2 * p + output_padding       0 <= output_padding < s

An absent output size has no output padding; an absent padding follows from the output size.

    dcgan   the generator of 64x64 images in PyTorch's example     Radford, Metz, Chintala 2016
    unet    the four up-convolutions 2x2                           Ronneberger, Fischer, Brox 2015

Source: oneDNN, tests/benchdnn/doc/driver_deconv.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from fastcnn.bench.shapes.convolution import AXES, Convolution, Triple, build, name_and_count, read, refusal

BATCH = 16
UNET_BATCH = 4  # its last output alone holds 40 MB an image


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution, as the convolution whose input gradient it is (channels and sizes swapped)."""

    adjoint: Convolution

    @property
    def name(self) -> str:
        """Name of the shape."""
        return self.adjoint.name

    @property
    def count(self) -> int:
        """How often a network holds it."""
        return self.adjoint.count

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.adjoint.batch

    @property
    def output_padding(self) -> Triple:
        """Rows of output behind the last window that stride and padding alone would not give, by axis."""
        c = self.adjoint
        d, h, w = (
            image - ((output - 1) * stride + (window - 1) * dilation + 1 - 2 * padding)
            for image, output, window, stride, padding, dilation in zip(
                c.image, c.output, c.window, c.stride, c.padding, c.dilation, strict=True
            )
        )
        return d, h, w

    def with_batch(self, batch: int) -> "Transposed":
        """Return the same for another number of images."""
        return Transposed(self.adjoint.with_batch(batch))

    def counted(self, name: str, count: int) -> "Transposed":
        """Return the same under a name and count."""
        return Transposed(self.adjoint.counted(name, count))

    def descriptor(self) -> str:
        """Return the shortest descriptor, without name and count."""
        c = self.adjoint
        swapped = replace(c, channels=c.filters, filters=c.channels, image=c.output, output=c.image)
        return swapped.descriptor()

    def __str__(self) -> str:
        """Return the descriptor with its name and count."""
        return self.descriptor() + name_and_count(self.name, self.count)


def parse(text: str) -> Transposed:
    """Read one descriptor.

    Raises
    ------
    ShapeError
        If the text is no descriptor, or describes no transposed convolution.

    >>> t = parse("ic64ih16oc32kh4sh2ph1")
    >>> t.adjoint.image, t.descriptor()
    ((1, 32, 32), 'mb2ic64ih16oc32oh32kh4sh2ph1')
    """
    text = text.strip()
    numbers, name, count = read(text)
    groups = numbers.get("g", 1)
    for key in ("ic", "oc"):
        if key not in numbers:
            raise refusal(text, f"it lacks {key}; write a descriptor such as ic64ih16oc32kh4sh2ph1")
        if numbers[key] % groups:
            raise refusal(text, f"{key} (={numbers[key]}) must be divisible by g (={groups})")
    swapped = numbers | {"ic": numbers["oc"], "oc": numbers["ic"]}
    for axis in AXES:
        own = {letter: numbers[letter + axis] for letter in "iokspd" if letter + axis in numbers}
        if "i" in own and "k" in own:  # where one of them is absent, `build` says so
            swapped |= _axis(text, axis, own)
    return Transposed(build(text, swapped, name, count))


def _axis(text: str, axis: str, own: dict[str, int]) -> dict[str, int]:
    """Return the keys of the adjoint's axis from those of one axis of ours, by their first letter."""
    stride = own.get("s", 1)
    whole = (own["i"] - 1) * stride + (own["k"] - 1) * (own.get("d", 0) + 1) + 1
    padding = own.get("p", max(0, whole - own["o"] + 1) // 2 if "o" in own else 0)
    least = whole - 2 * padding
    output = own.get("o", least)
    if output < 1:
        raise refusal(text, f"p{axis} (={padding}) leaves no output; give a padding below {(whole + 1) // 2}")
    if not least <= output < least + stride:
        raise refusal(
            text,
            f"o{axis} (={output}) must lie between {least} and {least + stride - 1} for its image, filter and padding",
        )
    return {f"i{axis}": output, f"o{axis}": own["i"], f"p{axis}": padding}


def _layer(
    name: str, size: int, channels: int, filters: int, window: int, stride: int, pad: int, batch: int
) -> Transposed:
    return parse(f'mb{batch}ic{channels}ih{size}oc{filters}kh{window}sh{stride}ph{pad}n"{name}"')


def dcgan() -> list[Transposed]:
    """Return the five layers of DCGAN's generator."""
    return [
        _layer("dcgan:layer1", 1, 100, 512, 4, 1, 0, BATCH),
        _layer("dcgan:layer2", 4, 512, 256, 4, 2, 1, BATCH),
        _layer("dcgan:layer3", 8, 256, 128, 4, 2, 1, BATCH),
        _layer("dcgan:layer4", 16, 128, 64, 4, 2, 1, BATCH),
        _layer("dcgan:layer5", 32, 64, 3, 4, 2, 1, BATCH),
    ]


def unet() -> list[Transposed]:
    """Return the four up-convolutions of U-Net on a 572x572 image."""
    sizes = (28, 1024), (52, 512), (100, 256), (196, 128)
    return [
        _layer(f"unet:up{number}", size, channels, channels // 2, 2, 2, 0, UNET_BATCH)
        for number, (size, channels) in enumerate(sizes, 1)
    ]


SETS: dict[str, Callable[[], list[Transposed]]] = {"dcgan": dcgan, "unet": unet}
