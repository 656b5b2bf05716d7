"""Options and arguments that several commands share, and the checks of their values."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fastcnn.backend import DEVICES
from fastcnn.data import catalog
from fastcnn.errors import FastcnnError

Command = TypeVar("Command", bound=Callable[..., Any])

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class OutputFile(click.ParamType):
    """A file that can be written when the run ends: its folder exists now, and takes files."""

    name = "file"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path, or fail before anything runs."""
        path = Path(value)
        if path.is_dir():
            self.fail(f"{path} is a folder; give the name of a file.", param, ctx)
        if path.exists() and not path.is_file():
            return path  # a pipe or a device, which is written to as it is
        folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
        if not folder.is_dir():
            self.fail(f"the folder {folder} of {path.name} does not exist; make it.", param, ctx)
        if not os.access(folder, os.W_OK):
            self.fail(f"the folder {folder} cannot be written; choose another.", param, ctx)
        return path


class Number(click.FloatRange):
    """A finite number in a range: neither NaN, which no comparison refuses, nor an infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail before anything runs."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            name = param.name if param else "number"
            self.fail(f"{name}={value} was given: it must be a finite number.", param, ctx)
        return number


class DataSource(click.ParamType):
    """The name of a data set, or a folder."""

    name = "name|dir"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value, or fail with the nearest name."""
        if not value or (value not in catalog.names() and not Path(value).is_dir()):
            self.fail(catalog.unknown_name(value), param, ctx)
        return value


class ModelName(click.ParamType):
    """The name of a model in `fastcnn.models`: of a classifier, or of any."""

    name = "model"
    only_classifiers = True

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or fail with the nearest ones."""
        from fastcnn import models

        try:
            models.get(value)
        except FastcnnError as error:
            self.fail(str(error), param, ctx)
        if self.only_classifiers and value not in models.CLASSIFIERS:
            self.fail(f"{value!r} gives no scores of an image's classes: use it from Python.", param, ctx)
        return value


def data_options(default: str | None, help: str) -> Callable[[Command], Command]:
    """Add --data, with this default and help text, --data-dir and --remap-labels."""

    def add(command: Command) -> Command:
        command = click.option(
            "--remap-labels",
            is_flag=True,
            help="Number the classes of IDX files anew, where labels do not count from 0 or skip numbers.",
        )(command)
        command = click.option(
            "--data-dir",
            type=FOLDER,
            help="Folder with the files of --data. Missing ones are downloaded into it.",
        )(command)
        return click.option("--data", type=DataSource(), default=default, show_default=bool(default), help=help)(
            command
        )

    return add


def device_options(command: Command) -> Command:
    """Add --device and --threads."""
    command = click.option("--threads", type=click.IntRange(min=1), help="Threads to use.  [default: all cores]")(
        command
    )
    return click.option(
        "--device",
        type=click.Choice(DEVICES),
        default="cpu",
        show_default=True,
        help="Room of kernels: cpu is fast, reference is plain NumPy.",
    )(command)


def json_option(command: Command) -> Command:
    """Add --json FILE."""
    return click.option("--json", "json_file", type=OutputFile(), help="Write the results here as JSON.")(command)


def require_kernels() -> None:
    """Refuse an environment in which the cpu room cannot compile, before anything that stands on it is imported."""
    from fastcnn.backend import import_kernels

    import_kernels("cpu", "runtime.compiler")


def use_threads(threads: int | None) -> int:
    """Set the thread count of the kernels, if one is given, and return the one in use."""
    from fastcnn.threads import set_thread_count, thread_count

    if threads is not None:
        try:
            set_thread_count(threads)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="'--threads'") from None
    return thread_count()
