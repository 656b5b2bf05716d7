"""The installed package: complete, no foreign global names, and quick to import."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = PROJECT["tool"]["setuptools"]["package-dir"]


def run_python(code: str) -> str:
    """Run code in a new process outside of the source tree, and return what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd="/", env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return result.stdout.strip()


def test_every_folder_with_code_is_in_the_wheel():
    found = set()
    for package, folder in MAPPED.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).parts[:-1]
            if folder != "fastcnn" or not parts or parts[0] not in MAPPED.values():
                found.add(".".join((package, *parts)))
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("folder", ["kernels", "cli", "bench"])
def test_links_lead_to_the_folders(folder):
    assert (ROOT / "fastcnn" / folder).resolve() == ROOT / folder
    assert not os.path.isabs(os.readlink(ROOT / "fastcnn" / folder))


def test_data_files_of_the_package_exist():
    for package, names in PROJECT["tool"]["setuptools"]["package-data"].items():
        for name in names:
            assert (ROOT / Path(*package.split(".")) / name).is_file()


def test_versions_agree():
    import fastcnn

    assert fastcnn.__version__ == PROJECT["project"]["version"]


def test_global_names_stay_free():
    code = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    assert run_python(code.format(("kernels", "cli", "bench", "tests"))) == "[]"


def test_import_loads_no_compiler_and_no_tool():
    heavy = ("numba", "llvmlite", "rich", "PIL", "pooch", "safetensors", "click", "torch")
    code = f"import sys, fastcnn; print([n for n in {heavy} if n in sys.modules])"
    assert run_python(code) == "[]"


def test_reference_room_needs_no_compiler():
    code = (
        "import sys, numpy, fastcnn as fc; "
        "net = fc.models.lenet5().to('reference'); net.forward(numpy.zeros((1, 28, 28, 1))); "
        "print('numba' in sys.modules)"
    )
    assert run_python(code) == "False"
