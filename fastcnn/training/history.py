"""What training reports: a record for every epoch."""

from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict


class EpochRecord(TypedDict):
    """One epoch: means over its images as they were trained on, and validation after it, if any.

    Accuracies are None where the loss has no classes. `seconds` and `images_per_s` cover training, not validation.
    """

    loss: float
    accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    images_per_s: float
    seconds: float


class Evaluation(NamedTuple):
    """What an evaluation found.

    Parameters
    ----------
    loss
        The mean loss.
    accuracy
        The share of labels at which the largest logit stands; None where the loss has no classes.
    """

    loss: float
    accuracy: float | None


@dataclass
class History:
    """The epochs of one `fit`.

    Parameters
    ----------
    epochs
        An `EpochRecord` for each, in order, as plain dicts ready for JSON.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
