"""The generator of weights that nobody gave a seed for, in layers used without a Trainer."""

import numpy as np

from fastcnn.errors import ArgumentError

_generator = np.random.default_rng()


def manual_seed(seed: int) -> None:
    """Make the weights that are drawn from now on reproducible (a Trainer has its own seed).

    Parameters
    ----------
    seed
        A whole number from 0 up (else ArgumentError).

    >>> manual_seed(7); a = default_generator().random()
    >>> manual_seed(7); a == default_generator().random()
    True
    """
    global _generator
    _generator = seeded(seed)


def default_generator() -> np.random.Generator:
    """Return the generator that `manual_seed` seeds."""
    return _generator


def seeded(seed: int) -> np.random.Generator:
    """Return a new generator, or refuse a seed that is no whole number from 0 up."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ArgumentError(f"seed={seed!r} was given: a seed is a whole number from 0 up.")
    return np.random.default_rng(int(seed))
