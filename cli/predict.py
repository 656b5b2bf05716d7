"""`fastcnn predict MODEL IMAGE...`: the likeliest classes of image files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastcnn.cli.models import (
    check_finite,
    class_names,
    image_shape,
    load_model,
    normalization,
    quiet_overflow,
)
from fastcnn.cli.options import FILE, device_options, json_option, use_threads
from fastcnn.cli.output import print_table, write_json
from fastcnn.errors import ShapeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXAMPLES = """
\b
Examples:
  fastcnn predict lenet.safetensors digit.png
  fastcnn predict lenet.safetensors scans/*.png --resize --invert --top 1 --json classes.json
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=FILE)
@click.argument("images", type=FILE, nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to show.")
@click.option("--resize", is_flag=True, help="Resize images to the size that the model needs.")
@click.option("--invert", is_flag=True, help="Swap dark and light: for dark digits on light paper.")
@device_options
@json_option
def predict(
    model: Path,
    images: tuple[Path, ...],
    top: int,
    resize: bool,
    invert: bool,
    device: str,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Classify image files with MODEL, a .safetensors file.

    Images become grey or RGB as the model needs, and white where they are transparent.
    """
    import numpy as np

    net = load_model(model, device)
    names = class_names(net)
    if device == "cpu":
        use_threads(threads)
    pixels = np.stack([_read(path, image_shape(net), resize, invert) for path in images])
    with quiet_overflow():
        scores = net.predict(normalization(net).apply(pixels))
    for path, score in zip(images, scores, strict=True):
        check_finite(bool(np.isfinite(score).all()), model, f"a score of {path}")
    results = [_likeliest(score, names, top) for score in scores]
    print_table(
        (("image", False), ("class", False), ("probability", True)),
        (
            (str(path) if row is result[0] else "", row["class"], f"{row['probability']:.1%}")
            for path, result in zip(images, results, strict=True)
            for row in result
        ),
    )
    content = [{"file": str(path), "classes": result} for path, result in zip(images, results, strict=True)]
    write_json(json_file, {"images": content})


def _read(path: Path, shape: tuple[int, int, int], resize: bool, invert: bool) -> "NDArray[np.float32]":
    from fastcnn.data.dataset import scaled
    from fastcnn.data.images import read_image

    size, channels = shape[:2], shape[2]
    if channels not in (1, 3):
        raise ShapeError(f"The model takes {channels} channels; image files give it 1 or 3.")
    pixels = read_image(path, channels, size if resize else None)
    if pixels.shape != shape:
        raise ShapeError(
            f"{path} has {pixels.shape[0]}x{pixels.shape[1]} pixels and the model takes "
            f"{size[0]}x{size[1]}; give --resize to resize it."
        )
    return scaled(255 - pixels if invert else pixels)


def _likeliest(score: "NDArray[np.floating]", names: list[str], top: int) -> list[dict[str, Any]]:
    """Return the `top` classes with the largest softmax of the scores, the likeliest first."""
    import numpy as np

    exponentials = np.exp(score.astype(np.float64) - score.max())
    probabilities = exponentials / exponentials.sum()
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [{"class": names[index], "probability": float(probabilities[index])} for index in order]
