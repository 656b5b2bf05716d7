"""`fastcnn train MODEL`: train a named model, report every epoch, save the network.

The defaults for few images come from five-fold cross-validation of lenet within the training digits, of 64
settings of batch size, learning rate, epochs and weight decay, with two or three seeds a fold; the test part
chose nothing. They had 98.81%, within the noise of the best (98.84%, at twice the learning rate, which learns
CIFAR-10 badly); a weight decay of 5e-4 and 20 epochs had 98.43%. Those for many images are short: one cycle
takes lenet5 above 99% of MNIST's test images in four epochs (99.1 to 99.3%, four seeds; batches of 48 to 128
at rates in proportion do as well).
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fastcnn.cli.options import (
    ModelName,
    Number,
    OutputFile,
    data_options,
    device_options,
    json_option,
    use_threads,
)
from fastcnn.cli.output import plural, write_json
from fastcnn.schedules import SCHEDULES, OneCycle

if TYPE_CHECKING:
    from fastcnn import Optimizer, Trainer
    from fastcnn.augment import Augmentation
    from fastcnn.data import Dataset, Normalization
    from fastcnn.schedules import Schedule
    from fastcnn.training.history import EpochRecord

EXAMPLES = """
\b
Examples:
  fastcnn train lenet
  fastcnn train lenet5 --data mnist --epochs 3 --out lenet5.safetensors
  fastcnn train resnet20 --data cifar10 --batch-size 128 --lr 0.1
  fastcnn train lenet --data my_images --batch-size 64 --lr 0.005 --json run.json
  fastcnn train lenet --data cifar10 --augment --epochs 60
  fastcnn train lenet --data mnist --batch-size 128 --until 0.99 --json time.json
"""

# A weight decay of d in the mean loss over n images is a normal prior of precision d * n on the weights:
# one prior means less decay the more images there are. 0.01, the best on the 1,433 digits, costs a percent
# on MNIST; few images stay with it, as more lets weights die.
PRIOR = 15.0
MOST_DECAY = 0.01


class Recipe(NamedTuple):
    """What is not asked for, by the number of training images; `lr` is SGD's."""

    epochs: int
    batch_size: int
    lr: float
    schedule: str


MANY = 10_000  # training images
FOR_FEW, FOR_MANY = Recipe(40, 16, 0.01, "cosine"), Recipe(4, 64, 0.05, "onecycle")
BY_SIZE = f"for fewer than {MANY:,} training images, else"

# Learning rates of the others. Adam's and RMSprop's steps are as long as the rate, whatever the gradients.
RATES = {"adam": 0.001, "adamw": 0.001, "rmsprop": 0.001, "adagrad": 0.01}

# The share of an image that shifts may reach: 4 of CIFAR-10's 32 pixels (He, Zhang, Ren, Sun 2016).
REACH = 8

# Data sets whose classes stay what they are in a mirror; digits do not.
MIRRORED = ("fashion", "cifar10")

HEADER = "epoch        loss  accuracy  test loss  test accuracy   images/s"


@click.command(epilog=EXAMPLES)
@click.argument("model", type=ModelName())
@data_options(
    "digits",
    "digits (in the package), mnist, fashion, cifar10, or a folder: images in train/CLASS and "
    "test/CLASS, IDX files, CIFAR-10 binaries.",
)
@click.option("--epochs", type=click.IntRange(min=1), help=f"[default: {FOR_FEW.epochs} {BY_SIZE} {FOR_MANY.epochs}]")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="The last batch of an epoch holds what remains; batch normalization of single pixels takes no single image.  "
    f"[default: {FOR_FEW.batch_size} {BY_SIZE} {FOR_MANY.batch_size}]",
)
@click.option(
    "--lr",
    type=Number(min=0, min_open=True),
    help=f"Learning rate.  [default: of sgd, {FOR_FEW.lr} {BY_SIZE} {FOR_MANY.lr}; 0.01 for adagrad, 0.001 for the "
    "others]",
)
@click.option("--optimizer", type=click.Choice(["sgd", *RATES]), default="sgd", show_default=True)
@click.option("--momentum", type=Number(0, 1, max_open=True), help="Of sgd and rmsprop.  [default: 0.9, rmsprop 0]")
@click.option(
    "--weight-decay",
    type=Number(min=0),
    help=f"Pull of the weights towards 0.  [default: {PRIOR:g} / training images, at most {MOST_DECAY:g}, for sgd; "
    "0.01 for adamw, 0 for the others]",
)
@click.option(
    "--decay-bias/--no-decay-bias",
    default=True,
    show_default=True,
    help="Whether --weight-decay reaches biases and the scales and shifts of normalizations, too.",
)
@click.option(
    "--clip-norm",
    type=Number(min=0, min_open=True),
    help="Shrink the gradients of a step together, where their norm is above this.",
)
@click.option(
    "--schedule",
    type=click.Choice(list(SCHEDULES)),
    help="How the learning rate changes: warmup and onecycle from step to step, the others from epoch to epoch. "
    "onecycle moves the momentum too, from 0.95 to 0.85 and back, unless --momentum is given.  "
    f"[default: {FOR_FEW.schedule} {BY_SIZE} {FOR_MANY.schedule}]",
)
@click.option(
    "--until",
    type=Number(0, 1, min_open=True),
    metavar="ACCURACY",
    help="Stop after the first epoch whose test accuracy is at least this, such as 0.99; fail if none is. --json then "
    'holds "reached", the seconds of training until there, tests not counted.',
)
@click.option(
    "--augment",
    is_flag=True,
    help=f"Shift training images at random by up to 1/{REACH} of their size, with black behind them, and mirror "
    f"those of {' and '.join(MIRRORED)} left to right.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@device_options
@click.option("--out", type=OutputFile(), help="Save the network here (.safetensors).")
@json_option
@click.option("--quiet", is_flag=True, help="Print errors only.")
def train(
    model: str,
    data: str,
    data_dir: Path | None,
    device: str,
    threads: int | None,
    out: Path | None,
    json_file: Path | None,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train MODEL and report its accuracy on the test part of the data.

    MODEL is the name of a classifier such as lenet or resnet20.
    """
    import fastcnn as fc
    from fastcnn.threads import compilation_announced

    say = _say_nothing if quiet else click.echo
    if quiet:
        click.get_current_context().with_resource(compilation_announced(_say_nothing))
    start = time.perf_counter()
    place = f"{device}, {plural(use_threads(threads), 'thread')}" if device == "cpu" else device
    train_part, test_part, normalization = _load(data, data_dir, settings["remap_labels"])
    settings |= _unasked(settings, len(train_part))
    optimizer = _optimizer(settings, len(train_part))
    net = fc.models.get(model)(classes=len(train_part.classes), input_shape=train_part.image_shape)
    say(f"{model}: {plural(net.parameter_count, 'parameter')}, on {place}")
    say(_parts_line(train_part, test_part))
    trainer = fc.Trainer(
        net,
        fc.CrossEntropy(),
        optimizer,
        seed=settings["seed"],
        device=device,
        progress=False if quiet else None,
        schedule=_schedule(settings, optimizer),
        clip_norm=settings["clip_norm"],
        augment=_augmentations(data, train_part.image_shape, normalization) if settings["augment"] else None,
    )
    epochs = _fit(trainer, (train_part, test_part), settings, say)
    accuracy, seconds = epochs[-1]["val_accuracy"], time.perf_counter() - start
    say(f"test accuracy {accuracy:.2%}, {seconds:.1f} s in all")
    if out is not None:
        names = {"data": train_part.name, "classes": list(train_part.classes)}
        net.save(out, metadata=names | normalization.metadata())
        say(f"wrote {out}")
    content = {
        "epochs": epochs,
        "test_accuracy": accuracy,
        "parameters": net.parameter_count,
        "seconds": seconds,
    }
    goal = settings["until"]
    reached = None if goal is None or not _is_reached(goal, epochs[-1]) else sum(epoch["seconds"] for epoch in epochs)
    if goal is not None:
        content["reached"] = reached
    if reached is not None:
        say(f"{goal:.2%} reached after {reached:.1f} s of training")
    write_json(json_file, content, say)
    if goal is not None and reached is None:
        raise click.ClickException(_not_reached(goal, epochs))


def _say_nothing(line: str) -> None:
    """Print nothing, for --quiet."""


def _load(data: str, folder: Path | None, remap_labels: bool) -> "tuple[Dataset, Dataset, Normalization]":
    """Return both parts, normalized by the training part's statistics, and the statistics."""
    from fastcnn.data import Normalization, load

    parts = load(data, folder, remap_labels=remap_labels)
    normalization = Normalization.fit(parts[0].images)
    train_part, test_part = (replace(part, images=normalization.apply(part.images)) for part in parts)
    return train_part, test_part, normalization


def _unasked(settings: dict[str, Any], images: int) -> dict[str, Any]:
    """Return the settings that were not given, as they suit so many training images."""
    recipe = FOR_FEW if images < MANY else FOR_MANY
    usual = recipe._asdict() | {"lr": RATES.get(settings["optimizer"], recipe.lr)}
    return {name: value for name, value in usual.items() if settings[name] is None}


def _optimizer(settings: dict[str, Any], images: int) -> "Optimizer":
    import fastcnn as fc

    name, lr = settings["optimizer"], settings["lr"]
    given = {key: settings[key] for key in ("momentum", "weight_decay", "decay_bias") if settings[key] is not None}
    if name == "sgd":
        usual = {"momentum": 0.9, "weight_decay": min(PRIOR / images, MOST_DECAY)}
        return fc.SGD(lr, **(usual | given))
    if "momentum" in given and name != "rmsprop":
        raise click.BadParameter(f"{name} takes no momentum: leave it out.", param_hint="'--momentum'")
    kinds = {"adam": fc.Adam, "adamw": fc.AdamW, "rmsprop": fc.RMSprop, "adagrad": fc.Adagrad}
    return kinds[name](lr, **given)


def _schedule(settings: dict[str, Any], optimizer: "Optimizer") -> "Schedule":
    """Return the schedule; one cycle leaves a momentum alone that was asked for, or is not there."""
    if settings["schedule"] == "onecycle":
        return OneCycle(cycle_momentum=settings["momentum"] is None and bool(optimizer.momentum))
    return SCHEDULES[settings["schedule"]]()


def _augmentations(data: str, shape: tuple[int, int, int], normalization: "Normalization") -> "list[Augmentation]":
    """Return how images (H, W, C) of a data set may be moved, with the black of normalized images behind them."""
    import numpy as np

    from fastcnn.augment import RandomFlip, RandomShift

    black = normalization.apply(np.zeros((1, 1, 1, shape[2]), np.float32)).ravel()
    shift = RandomShift((shape[0] // REACH, shape[1] // REACH), fill=black)
    return [shift, RandomFlip()] if data in MIRRORED else [shift]


def _parts_line(train_part: "Dataset", test_part: "Dataset") -> str:
    return (
        f"{train_part.name}: {len(train_part):,} training and {len(test_part):,} test images "
        f"of {'x'.join(map(str, train_part.image_shape))}, {plural(len(train_part.classes), 'class', 'classes')}"
    )


def _fit(
    trainer: "Trainer",
    parts: "tuple[Dataset, Dataset]",
    settings: dict[str, Any],
    say: Callable[[str], object],
) -> "list[EpochRecord]":
    """Train, to the goal if there is one, say a line after every epoch, and return the epochs' records."""
    say(HEADER)
    count, goal = settings["epochs"], settings["until"]
    done: list[EpochRecord] = []

    def after_epoch(record: "EpochRecord") -> bool:
        done.append(record)
        say(_line(len(done), count, record))
        return goal is not None and _is_reached(goal, record)

    trainer.fit(parts[0], count, settings["batch_size"], parts[1], after_epoch)
    return done


def _is_reached(goal: float, record: "EpochRecord") -> bool:
    return (record["val_accuracy"] or 0.0) >= goal


def _not_reached(goal: float, epochs: "list[EpochRecord]") -> str:
    best = max(epoch["val_accuracy"] or 0.0 for epoch in epochs)
    return (
        f"The best test accuracy in {plural(len(epochs), 'epoch')} was {best:.2%}, below the {goal:.2%} of --until: "
        "train for more --epochs, or with another --lr."
    )


def _line(number: int, count: int, record: "EpochRecord") -> str:
    return (
        f"{f'{number}/{count}':<9}{record['loss']:>8.4f}{record['accuracy']:>10.2%}"
        f"{record['val_loss']:>11.4f}{record['val_accuracy']:>15.2%}{record['images_per_s']:>11,.0f}"
    )
