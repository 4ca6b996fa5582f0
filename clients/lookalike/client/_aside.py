"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lookalike.client.errors import FileExists


@contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to, which gets its name when all is written and durable.

    For its owner's eyes only (mode 0600). Nothing is ever replaced, and nothing is left
    where writing fails.

    Raises:
        FileExists: there is a file of this name already.
    """
    if path.exists() or path.is_symlink():
        raise _exists(path)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _rename(part, path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _rename(part: Path, path: Path) -> None:
    """Rename without replacing, where the file system can; `rename` itself would replace."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # no hard links there
        if path.exists():
            raise _exists(path) from None
        part.rename(path)


def _exists(path: Path) -> FileExists:
    return FileExists(f"{path} is there already, and nothing is overwritten; choose another name.")
