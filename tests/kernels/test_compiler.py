"""Machine code on disk: edits are noticed, unedited code is found, two fillers do not clash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastcnn import kernels

HELPER = '''"""A helper."""

from fastcnn.kernels.cpu.compiler import jit


@jit
def scaled(v):
    """Return a multiple of v."""
    return v * {factor}
'''

KERNEL = '''"""A kernel whose helper stands in another file."""

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.helper import scaled


@jit
def scale(x, y):
    """Fill y with a multiple of x."""
    for i in range(x.size):
        y[i] = scaled(x[i])
'''

SCALE = """
import numpy as np
from fastcnn.kernels.cpu.kernel import scale
y = np.empty(1)
scale(np.ones(1), y)
print(y[0], sum(scale.stats.cache_hits.values()), sum(scale.stats.cache_misses.values()))
"""

RELU = """
import numpy as np
from fastcnn.kernels.cpu import activation, elementwise
x, y = np.arange(-50_000, 50_000, dtype=np.float32), np.empty(100_000, np.float32)
activation.relu_forward(x, y)
print(y.sum(dtype=float), sum(elementwise.apply_blocks.stats.cache_hits.values()))
"""


@pytest.fixture
def house(tmp_path):
    """A copy of the kernels, to be edited, that subprocesses import in place of the real ones."""
    package = tmp_path / "house" / "fastcnn"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(kernels.__path__[0]), package / "kernels", ignore=ignored)
    (package / "__init__.py").write_text("")
    (package / "kernels/cpu/helper.py").write_text(HELPER.format(factor=2))
    (package / "kernels/cpu/kernel.py").write_text(KERNEL)
    return package


def start(house, script):
    """Start a process that runs the script on the copied kernels with a cache of its own."""
    environment = os.environ | {
        "PYTHONPATH": str(house.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "FASTCNN_CACHE_DIR": str(house.parent / "cache"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        cwd=house.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Return the numbers that the process printed."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return [float(word) for word in output.split()]


def test_an_edited_helper_in_another_file_is_noticed(house):
    assert finish(start(house, SCALE)) == [2, 0, 1]
    assert finish(start(house, SCALE)) == [2, 1, 0], "the second process compiled again"
    (house / "kernels/cpu/helper.py").write_text(HELPER.format(factor=3))
    assert finish(start(house, SCALE)) == [3, 0, 1]
    (house / "kernels/cpu/helper.py").write_text(HELPER.format(factor=2))
    assert finish(start(house, SCALE)) == [2, 1, 0], "the first version's code was lost"


def test_two_processes_fill_one_cache_at_once(house):
    first, second = start(house, RELU), start(house, RELU)
    one, two, three = finish(first), finish(second), finish(start(house, RELU))
    assert one[0] == two[0] == three[0] == 50_000 * 49_999 / 2
    assert three[1] == 1, "the third process compiled again"


def test_a_damaged_cache_file_is_compiled_again(house):
    assert finish(start(house, SCALE)) == [2, 0, 1]
    files = list((house.parent / "cache").rglob("*.nbc"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert finish(start(house, SCALE)) == [2, 0, 1]
    assert finish(start(house, SCALE)) == [2, 1, 0]


def test_a_cache_that_cannot_be_written_does_not_matter(house):
    (house.parent / "cache").write_text("a file where the folder should be")
    assert finish(start(house, SCALE))[0] == 2
