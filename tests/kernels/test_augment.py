"""Moved images: both rooms against padding, cropping and mirroring, for any size and shift; threads."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st


def movement(seed, N, reach):
    """Return flips and shifts of N images; shifts may push an image out."""
    rng = np.random.default_rng(seed)
    return rng.random(N) < 0.5, rng.integers(-reach, reach + 1, N), rng.integers(-reach, reach + 1, N)


def cropped(images, rows, flip, down, right, fill, reach):
    """Return the images mirrored, padded and cropped, as PyTorch's users move them."""
    H, W = images.shape[1:3]
    moved = []
    for row, mirrored, dh, dw in zip(rows, flip, down, right, strict=True):
        image = np.fliplr(images[row]) if mirrored else images[row]
        padded = np.stack([np.pad(image[..., c], reach, constant_values=v) for c, v in enumerate(fill)], axis=-1)
        moved.append(padded[reach - dh :][:H, reach - dw :][:, :W])
    return np.array(moved).reshape(len(rows), *images.shape[1:])


@given(
    seed=st.integers(0, 9), N=st.integers(0, 9), H=st.integers(1, 9), W=st.integers(1, 9), C=st.integers(1, 5),
    reach=st.integers(0, 12),
)  # fmt: skip
def test_images_are_mirrored_and_shifted(room, fill, dtype, seed, N, H, W, C, reach):
    rng = np.random.default_rng(seed)
    images, rows = rng.standard_normal((7, H, W, C)).astype(dtype), rng.integers(0, 7, N)
    moves, background = movement(seed, N, reach), rng.standard_normal(C).astype(dtype)
    got = fill(room.augment.move_images, images, rows, *moves, background, shapes=[(N, H, W, C)], dtype=dtype)
    np.testing.assert_array_equal(got, cropped(images, rows, *moves, background, reach))


def test_thread_count_changes_no_bit(cpu, fill, with_threads, integers):
    images, rows = integers(0, (50, 32, 30, 3), "float32"), np.arange(50)[::-1].copy()
    moves, background = movement(0, 50, 4), np.ones(3, "float32")

    def run():
        return fill(cpu.augment.move_images, images, rows, *moves, background, shapes=[images.shape], dtype="float32")

    one, two = with_threads(1, run), with_threads(2, run)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, cropped(images, rows, *moves, background, 4))
