"""`fastcnn doctor`: what fastcnn finds on this machine, and whether its kernels work here."""

import importlib.util
import os
import platform
from collections.abc import Callable
from importlib import metadata

import click

from fastcnn.cli.output import plural

EXAMPLES = """
\b
Examples:
  fastcnn doctor
  fastcnn doctor && fastcnn train lenet
"""

REQUIRED = ("numpy", "numba", "llvmlite", "click", "rich", "safetensors", "pillow", "pooch")
OPTIONAL = {"torch": "bench --against torch", "matplotlib": "bench --plot"}
MEBIBYTE = 1 << 20
SHOWN = 3  # names of damaged files


@click.command(epilog=EXAMPLES)
def doctor() -> None:
    """Report on this machine and check that the kernels work.

    The exit status is 1 if something is broken.
    """
    checks: dict[str, Callable[[], str]] = {
        "python": _python,
        "packages": _packages,
        "optional": _optional,
        "cpu": _cpu,
        "threads": _threads,
        "cache": _cache,
        "kernels": _kernels,
        "ceilings": _ceilings,
    }
    broken = [name for name, check in checks.items() if not _report(name, check)]
    if broken:
        raise click.ClickException(f"Broken here: {', '.join(broken)}.")
    click.echo("All is well.")


def _report(name: str, check: Callable[[], str]) -> bool:
    """Print what a check finds; a check that raises is what the doctor is there to find."""
    try:
        finding, healthy = check(), True
    except Exception as error:
        finding, healthy = f"BROKEN: {type(error).__name__}: {error}", False
    click.echo(f"{name:<10}{finding}")
    return healthy


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _packages() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("fastcnn", *REQUIRED))


def _optional() -> str:
    return ", ".join(
        f"{name} {metadata.version(name)}" if importlib.util.find_spec(name) else f"no {name} (needed by {use})"
        for name, use in OPTIONAL.items()
    )


def _cpu() -> str:
    from fastcnn.bench import machine
    from fastcnn.threads import vector_bits

    caches = "".join(f", {name} {size}" for name, size in machine.cache_sizes().items())
    return f"{machine.cpu_name()}, {vector_bits()}-bit vectors{caches}"


def _threads() -> str:
    from fastcnn.threads import available_cores, thread_count, threading_layer

    return (
        f"{thread_count()} of {plural(os.cpu_count() or 1, 'core')} "
        f"({available_cores()} by affinity and quota), layer {threading_layer()}"
    )


def _cache() -> str:
    from fastcnn.threads import cache_contents, cache_folder, cache_folders

    folder = cache_folder()
    files, _, damaged = cache_contents()
    if damaged:
        names = ", ".join(path.name for path in damaged[:SHOWN]) + (", ..." if len(damaged) > SHOWN else "")
        raise OSError(
            f"{plural(len(damaged), 'file')} in {damaged[0].parent} cannot be used, being damaged or open to others "
            f"({names}): run `fastcnn warmup`, which compiles them anew."
        )
    size = sum(file.stat().st_size for file in folder.parent.glob("kernels-*/*"))
    kept = plural(files, "compiled kernel") if files else "nothing compiled yet"
    others = "".join(f", read from {place} too" for place in cache_folders() if place != folder)
    return f"{folder}: {kept}, {size / MEBIBYTE:.1f} MiB with older ones{others}"


def _kernels() -> str:
    import numpy as np

    import fastcnn as fc

    generator = np.random.default_rng(0)
    x = generator.integers(-4, 5, (2, 9, 7, 5)).astype(np.float32)
    weight = generator.integers(-4, 5, (3, 3, 5, 19)).astype(np.float32)
    results = []
    for device in ("cpu", "reference"):
        layer = fc.Conv2d(5, 19, 3, stride=2, padding=1, device=device)
        layer.params["weight"] = weight
        y = layer.forward(x)
        results.append((y, layer.backward(y), layer.grads["weight"].copy()))
    if not all(np.array_equal(ours, right) for ours, right in zip(*results, strict=True)):
        raise ArithmeticError("the cpu kernels of convolution differ from the reference.")
    return "convolution agrees with the reference, forward and backward"


def _ceilings() -> str:
    from fastcnn.bench import machine
    from fastcnn.threads import thread_count

    threads = thread_count()
    found, is_kept = machine.kept_ceilings(threads)
    return (
        f"{found.peak_gflops:.0f} GFLOP/s in float32, {found.bandwidth_gbytes_per_s:.0f} GB/s from memory on "
        f"{plural(threads, 'thread')}, {'the highest measured so far' if is_kept else 'measured now'}"
    )
