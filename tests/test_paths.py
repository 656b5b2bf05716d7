"""Every file that README, CONTRIBUTING, docs and docstrings name in backticks exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = [ROOT / "kernels" / room for room in ("cpu", "reference")]
NAMED = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|toml|yml|sh)|(?:[\w.-]+/)+)`")
PLACEHOLDERS = re.compile(r"\bNAME\b")  # stands for any file or folder
TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(ROOT / "docs").rglob("*.md"),
    *(path for folder in ("fastcnn", "kernels", "bench", "cli", "tests") for path in (ROOT / folder).rglob("*.py")),
]


def exists(name, text):
    """Tell whether a name is a path from a folder above the text or from a room, or a lone file of its top folder."""
    above = [folder for folder in text.parents if folder.is_relative_to(ROOT)]
    if any((folder / name).exists() for folder in [*above, *ROOMS, ROOT / "fastcnn"]):
        return True
    top = above[-2] if len(above) > 1 else ROOT / "fastcnn"
    return "/" not in name and any(top.rglob(name))


def missing(text):
    """Return the names of files in a text that are none."""
    return [
        name
        for name in NAMED.findall(text.read_text(encoding="utf-8"))
        if not PLACEHOLDERS.search(name) and not exists(name, text)
    ]


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(text):
    assert missing(text) == []


def test_a_file_that_does_not_exist_is_found():
    text = Path(__file__).resolve()
    assert not exists("no_such_file.py", text)
    assert not exists("kernels/cpu/no_such_file.py", text)
    assert exists("kernels/cpu/activation.py", text)
