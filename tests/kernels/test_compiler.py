"""Machine code on disk: edits are noticed, unedited code is found, two fillers do not clash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import selected

from fastcnn import kernels
from fastcnn.kernels.cpu.runtime.cache import unsealed

HELPER = '''"""A helper."""

from fastcnn.kernels.cpu.runtime.compiler import jit


@jit
def scaled(v):
    """Return a multiple of v."""
    return v * {factor}
'''

KERNEL = '''"""A kernel whose helper stands in another file."""

from fastcnn.kernels.cpu.runtime.compiler import jit
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
from fastcnn.kernels.cpu import activation
from fastcnn.kernels.cpu.elementwise import map as loops
x, y = np.arange(-50_000, 50_000, dtype=np.float32), np.empty(100_000, np.float32)
activation.relu_forward(x, y)
print(y.sum(dtype=float), sum(loops.apply_blocks.stats.cache_hits.values()))
"""

PROGRAM = """
import numpy as np
from fastcnn.kernels.cpu import activation, program
x, y = np.arange(-50_000, 50_000, dtype=np.float32), np.empty(100_000, np.float32)
repeated = program.Program([(activation.relu_forward, (x, y))])
for _ in range(3):
    repeated.run()
print(y.sum(dtype=float))
"""

SOFTMAX = """
import numpy as np
from fastcnn.kernels.cpu import activation
x = np.random.default_rng(0).normal(0, 4, (2, 5000)).astype(np.float32)
y = np.empty_like(x)
activation.log_softmax_forward(x, y)
print(*y.view(np.int32).sum(axis=1, dtype=float))
"""

WITHOUT_HOME = """
import os, pwd
def unknown(user):
    raise KeyError(user)
for name in ("HOME", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
pwd.getpwuid = unknown
"""

SMALL_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
"""

READ_ONLY = """
import os, tempfile
right = tempfile.TemporaryFile
def refuse(dir, **keywords):
    if str(dir).startswith(os.environ["FASTCNN_CACHE_DIR"]):
        raise OSError(30, "Read-only file system")
    return right(dir=dir, **keywords)
tempfile.TemporaryFile = refuse
"""


def build(folder):
    """Copy the kernels, and return the package that subprocesses import in place of the real one."""
    package = folder / "house" / "fastcnn"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(kernels.__path__[0]), package / "kernels", ignore=ignored)
    (package / "__init__.py").write_text("")
    (package / "kernels/cpu/helper.py").write_text(HELPER.format(factor=2))
    (package / "kernels/cpu/kernel.py").write_text(KERNEL)
    return package


@pytest.fixture
def house(tmp_path):
    """A copy of the kernels, to be edited, whose cache is empty."""
    return build(tmp_path)


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """Kernels like those of `house` with the machine code of PROGRAM, compiled once, and what it prints."""
    house = build(tmp_path_factory.mktemp("filled"))
    return house, finish(start(house, PROGRAM))


@pytest.fixture
def program_house(house, filled):
    """A house whose cache holds what PROGRAM needs, and what it prints: the same kernels have the same folder."""
    shutil.copytree(filled[0].parent / "cache", house.parent / "cache")
    return house, filled[1]


def start(house, script):
    """Start a process that runs the script on the copied kernels with a cache of its own."""
    environment = os.environ | {
        "PYTHONPATH": str(house.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "FASTCNN_CACHE_DIR": str(house.parent / "cache"),
        "XDG_CACHE_HOME": str(house.parent / "home"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        cwd=house.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, warning=None):
    """Return the numbers that the process printed; it gives this one warning, or none."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors.count("Warning") == (warning is not None), errors
    assert (warning or "") in errors
    return [float(word) for word in output.split()]


def kept(house):
    """Return the files of the cache."""
    return sorted(path for path in (house.parent / "cache").rglob("*") if path.is_file())


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


def test_inner_functions_from_the_cache_give_the_same_bits(house):
    """What stands in a kernel is kept by itself, too: the next kernel that calls it takes it from there."""
    right = finish(start(house, SOFTMAX))
    kernels = [path for path in kept(house) if ".softmax_blocks." in path.name]
    assert kernels
    for path in kernels:
        path.unlink()
    assert finish(start(house, SOFTMAX)) == right


def emptied(content):
    return b""


def halved(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", selected([emptied, halved, flipped], halved))
def test_damaged_cache_files_of_every_kind_are_compiled_again(program_house, damage):
    house, total = program_house
    files = kept(house)
    assert {path.suffix for path in files} == {".nbc", ".o"}
    for path in files:
        path.write_bytes(damage(path.read_bytes()))
    assert finish(start(house, PROGRAM)) == total
    assert kept(house) == files
    assert all(unsealed(path) for path in files)


def test_a_damaged_cache_file_is_compiled_again_once(house):
    assert finish(start(house, SCALE)) == [2, 0, 1]
    for path in kept(house):
        path.write_bytes(halved(path.read_bytes()))
    assert finish(start(house, SCALE)) == [2, 0, 1]
    assert finish(start(house, SCALE)) == [2, 1, 0]


def test_a_cache_that_cannot_be_written_does_not_matter(house):
    (house.parent / "cache").write_text("a file where the folder should be")
    assert finish(start(house, SCALE), "cannot be made")[0] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="the list of users and the limit are those of Unix")
class TestOnUnix:
    def test_a_user_without_a_home_keeps_kernels_where_he_says(self, house):
        assert finish(start(house, WITHOUT_HOME + SCALE)) == [2, 0, 1]
        assert finish(start(house, WITHOUT_HOME + SCALE)) == [2, 1, 0]

    def test_a_folder_for_one_process_is_gone_with_it(self, house):
        trap = f"import tempfile\ntempfile.tempdir = {str(house.parent)!r}\ndel os.environ['FASTCNN_CACHE_DIR']\n"
        (house.parent / f"fastcnn-{os.geteuid()}").write_text("in the way")
        before = set(house.parent.iterdir())
        assert finish(start(house, WITHOUT_HOME + trap + SCALE), "no home folder and ")[0] == 2
        assert set(house.parent.iterdir()) == before

    def test_a_disk_that_is_full_is_told_once_and_keeps_no_part_of_a_file(self, house, filled):
        assert finish(start(house, SMALL_FILES + PROGRAM), "cannot be kept") == filled[1]
        assert finish(start(house, SCALE)) == [2, 0, 1]  # nothing is in the way of what is kept next
        assert kept(house)
        assert all(unsealed(path) for path in kept(house))


def test_a_cache_that_was_filled_and_is_read_only_is_read(house):
    assert finish(start(house, SCALE)) == [2, 0, 1]
    files = kept(house)
    assert finish(start(house, READ_ONLY + SCALE)) == [2, 1, 0]
    assert kept(house) == files
    finish(start(house, READ_ONLY + PROGRAM), "Kernels are kept in")  # others than those that are there
    assert kept(house) == files
    assert list((house.parent / "home").rglob("*.o"))
