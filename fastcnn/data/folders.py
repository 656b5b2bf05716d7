"""What stands in a folder of data, without what systems and programs leave beside it.

Hidden names start with a dot: ".git", ".ipynb_checkpoints", ".DS_Store", and the "._0.png" that macOS writes beside
"0.png" on disks of others. The names below are left by file managers, network storage, archivers and file systems.
"""

import re
from pathlib import Path

from fastcnn.errors import DataError

SIDE_NAMES = frozenset(
    {
        # macOS
        "__macosx", "icon\r", "network trash folder", "temporary items",
        # Windows
        "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler", "recycled",
        "system volume information",
        # Linux, Android, Python, and version control
        "lost+found", "lost.dir", "__pycache__", "cvs",
        # network storage
        "@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "@__thumb", "#recycle", "#snapshot",
        "~snapshot",
    }
)  # fmt: skip
"""Names in small letters, as some systems write them in capitals and some do not."""

NUMBERED = re.compile(r"found\.\d{3}")  # what Windows recovers of damaged disks


def is_side_name(name: str) -> bool:
    """Tell whether a file or folder of this name is hidden, or known to be no data.

    >>> [is_side_name(name) for name in ("cat", ".git", "._0.png", "Thumbs.db", "@eaDir", "@")]
    [False, True, True, True, True, False]
    """
    return name.startswith(".") or name.lower() in SIDE_NAMES or bool(NUMBERED.fullmatch(name.lower()))


def entries(folder: Path) -> list[Path]:
    """Return the files and folders in a folder that may be data, in the order of their names.

    Raises
    ------
    DataError
        If the folder cannot be read.
    """
    try:
        return sorted(place for place in folder.iterdir() if not is_side_name(place.name))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}.") from None
