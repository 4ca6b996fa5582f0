"""What to upload: folders, files, bytes and items, one after the other."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lookalike.client._calls import NewItem
from lookalike.client.errors import FileUnreadable, InvalidArgument, LookalikeError

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
)
"""Files in folders that are taken for pictures, in lower case."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file, and the id that it gets. `error`: why it cannot be read, if so."""

    path: Path
    id: str
    error: FileUnreadable | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to upload. With `error` it has failed already."""

    item: NewItem
    source: str = ""
    error: LookalikeError | None = None


def find_files(path: Path, *, all_files: bool = False) -> Iterator[FoundFile]:
    """List the pictures in a folder and below, sorted; or the file itself.

    Hidden files and folders are left out, links are followed unless they lead back into
    a folder that they are in, and what is not a regular file is skipped. An id is the
    path relative to the folder, with "/"; for a file that is named itself, the path as
    written.
    """
    try:
        is_folder = path.is_dir()
    except OSError as error:
        is_folder = False
        yield FoundFile(path, path_id(path), _unreadable(path, error))
        return
    if is_folder:
        yield from _walk(path, "", all_files, ())
    elif path.exists():
        yield FoundFile(path, path_id(path))
    else:
        yield FoundFile(path, path_id(path), FileUnreadable(f"{path} is not there."))


def path_id(path: Path) -> str:
    """Return a path as an id; bytes that are no UTF-8 become \\xNN."""
    return _text(path.as_posix())


def path_metadata(item_id: str) -> dict[str, str]:
    """Return `name` and `folder` of a path that `path_id` or `find_files` made an id of.

    The folder has no "/" at its end, and is "." for what is in no other.
    """
    folder, name = posixpath.split(item_id)
    return {"name": name, "folder": posixpath.normpath(folder)}


def _walk(
    folder: Path, prefix: str, all_files: bool, above: tuple[tuple[int, int], ...]
) -> Iterator[FoundFile]:
    try:
        stat = folder.stat()
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield FoundFile(folder, prefix.rstrip("/") or path_id(folder), _unreadable(folder, error))
        return
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        return
    for entry in found:
        if entry.name.startswith("."):
            continue
        path, item_id = folder / entry.name, prefix + _text(entry.name)
        is_picture = all_files or path.suffix.lower() in SUFFIXES
        if _is(entry.is_dir):
            yield from _walk(path, item_id + "/", all_files, (*above, here))
        elif is_picture and _is(entry.is_file):
            yield FoundFile(path, item_id)
        elif is_picture and entry.is_symlink() and not path.exists():
            gone = FileUnreadable(f"{path} is a link to a file that is not there.")
            yield FoundFile(path, item_id, gone)


def _is(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link in a circle of links
        return False


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _unreadable(path: Path, error: OSError) -> FileUnreadable:
    return FileUnreadable(f"{path} cannot be read: {error.strerror or type(error).__name__}.")


@dataclass(frozen=True, slots=True)
class Upload:
    """The entries of a source, as `Client.upload` takes it."""

    source: str | os.PathLike[str] | Iterable[Any]
    all_files: bool = False
    id_prefix: str = ""
    metadata: Callable[[Any], Mapping[str, Any] | None] | None = None
    attach_path: bool = False
    """Whether files bring `path_metadata`, unless item or `metadata` know better."""

    def __iter__(self) -> Iterator[Entry]:
        if isinstance(self.source, (bytes, NewItem)):
            raise TypeError("upload takes a path or an iterable; put a single item in a list.")
        if isinstance(self.source, (str, os.PathLike)):
            yield from self._files(Path(self.source))
            return
        for element in self.source:
            if type(element) is NewItem and element.image is None:
                yield Entry(self._described(element, element))
            else:
                yield from self._entries(element)

    def _entries(self, element: Any) -> Iterator[Entry]:
        match element:
            case FoundFile():
                yield self._entry(element)
            case str() | os.PathLike():
                yield from self._files(Path(element))
            case NewItem(image=str() | os.PathLike() as image):
                file = Path(image)
                yield Entry(self._described(element, element, path_id(file)), str(file))
            case NewItem():
                yield Entry(self._described(element, element))
            case bytes() | bytearray() | memoryview():
                yield Entry(self._described(NewItem(image=bytes(element)), element))
            case _:
                kind = type(element).__name__
                error = InvalidArgument(
                    f"A {kind} cannot be uploaded; use paths, bytes or NewItem(...)."
                )
                yield Entry(NewItem(), f"<{kind}>", error)

    def _files(self, path: Path) -> Iterator[Entry]:
        return map(self._entry, find_files(path, all_files=self.all_files))

    def _entry(self, file: FoundFile) -> Entry:
        item = NewItem(id=self.id_prefix + file.id, image=file.path)
        if file.error is not None:
            return Entry(item, str(file.path), file.error)
        return Entry(self._described(item, file.path, file.id), str(file.path))

    def _described(self, item: NewItem, about: Any, path: str = "") -> NewItem:
        attached = path_metadata(path) if path and self.attach_path else {}
        extra = self.metadata(about) if self.metadata is not None else None
        if not attached and not extra:
            return item
        return replace(item, metadata={**attached, **item.metadata, **(extra or {})})
