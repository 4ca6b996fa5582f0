"""The files that the paths on the command line mean."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lookalike.client._files import FoundFile, find_files
from lookalike.client.cli._exit import UsageError


def found_files(
    paths: Sequence[str], *, all_files: bool, id_prefix: str = "", zeros: bool = False
) -> list[FoundFile]:
    """List the files of all paths; "-" stands for paths on stdin, by lines or by NULs.

    Two files with one id would replace each other without a word, so that is refused.
    The ids are those without `id_prefix`.
    """
    files = [
        file for path in _expanded(paths, zeros) for file in find_files(path, all_files=all_files)
    ]
    seen: dict[str, Path] = {}
    for file in files:
        other = seen.setdefault(file.id, file.path)
        if other is not file.path and not _same(other, file.path):
            raise UsageError(
                f"{other} and {file.path} would both get the id {id_prefix + file.id!r}; "
                "give one folder at a time, each with its own --id-prefix"
            )
    return files


def _expanded(paths: Sequence[str], zeros: bool) -> Iterator[Path]:
    for path in paths:
        if path != "-":
            yield Path(path)
            continue
        data = sys.stdin.buffer.read()
        for name in data.split(b"\0" if zeros else b"\n"):
            if name:
                yield Path(os.fsdecode(name))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one == other
