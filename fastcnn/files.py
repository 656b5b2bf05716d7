"""Files written in one step: a reader finds the old file or the new one whole, never a part."""

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Put data into the file at path, or raise OSError and leave what was there."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
