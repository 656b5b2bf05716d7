"""The errors users meet: one sentence with what was given, what was needed and what to do.

Every class is a FastcnnError and the built-in error that fits, so that either can be caught.
"""


class FastcnnError(Exception):
    """Any error that fastcnn raises on purpose."""


class ArgumentError(FastcnnError, ValueError):
    """An argument has a value that its function or layer does not take."""


class SignatureError(ArgumentError, TypeError):
    """Arguments under names, or in a number, that a constructor or function does not take."""


class ShapeError(FastcnnError, ValueError):
    """The shape of an array does not fit the layer, network or kernel that it meets."""


class DataError(FastcnnError, ValueError):
    """Images, labels or data files that cannot be used."""


class BackendError(FastcnnError, RuntimeError):
    """A device that does not exist or cannot run here."""


class CheckpointError(FastcnnError, OSError):
    """A model file that cannot be read or written."""


class TrainingError(FastcnnError, ArithmeticError):
    """Training met a loss, a gradient or a running statistic that is not a finite number."""
