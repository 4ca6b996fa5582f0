"""What embedders keep between two starts: records and converted models, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_ABANDONED_S = 86_400.0


class Kept:
    """A folder of small records and of folders of files. Any thread, any process.

    Everything in it can be made again: what is damaged is as if it were not there.
    Names are the embedder's own, of letters, digits, "-", "." and "_". Without a
    folder, or where it cannot be written, nothing is kept.
    """

    def __init__(self, folder: Path | None, *, may_write: bool = True) -> None:
        self._folder = folder
        self._may_write = may_write and folder is not None

    def record(self, name: str) -> Mapping[str, Any] | None:
        """Return a record as it was kept, None if there is none or it is damaged."""
        if self._folder is None:
            return None
        try:
            found = json.loads((self._folder / f"{name}.json").read_bytes())
            if found["sha256"] == _digest(found["record"]) and isinstance(found["record"], dict):
                return dict(found["record"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            pass
        _log.warning("a kept record is damaged and made again: name=%s", name)
        return None

    def keep_record(self, name: str, record: Mapping[str, Any]) -> bool:
        """Keep a JSON object in place of an earlier one; return whether it is kept."""
        if not self._may_write or self._folder is None:
            return False
        text = json.dumps({"record": record, "sha256": _digest(record)}, indent=1)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(prefix=f".{name}-", dir=self._folder)
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self._folder / f"{name}.json")
        except OSError as error:
            _log.warning("a record cannot be kept: name=%s error=%s", name, error.strerror)
            return False
        return True

    def folder(self, name: str) -> Path | None:
        """Return the folder of this name if each of its files is as it was kept, else None."""
        if self._folder is None:
            return None
        folder = self._folder / name
        try:
            manifest = json.loads((folder / _MANIFEST).read_bytes())
            if manifest["files"] and all(
                _file_digest(folder / Path(part).name) == digest
                for part, digest in manifest["files"].items()
            ):
                return folder
        except FileNotFoundError:
            if not folder.exists():
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        _log.warning("a kept model is damaged and made again: name=%s", name)
        return None

    def keep_folder(self, name: str, fill: Callable[[Path], None]) -> Path | None:
        """Have `fill` write files into a new folder, then put it in place of an earlier one.

        Returns the folder, or None where it cannot be kept. What `fill` raises
        other than OSError is passed on.
        """
        if not self._may_write or self._folder is None:
            return None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _sweep(self._folder)
            draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self._folder))
            try:
                fill(draft)
                _seal(draft)
                return _put_in_place(draft, self._folder / name)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        except OSError as error:
            _log.warning("a converted model cannot be kept: name=%s error=%s", name, error.strerror)
            return None


def _sweep(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote."""
    for draft in folder.glob(".*"):
        if time.time() - draft.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def _seal(folder: Path) -> None:
    """Write the manifest after all the rest is on the disk."""
    digests = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        digests[path.name] = _file_digest(path)
    with (folder / _MANIFEST).open("w") as file:
        json.dump({"files": digests}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(draft: Path, place: Path) -> Path:
    """Rename; one that is there is damaged, or another process has just made the same."""
    if place.exists():
        old = Path(tempfile.mkdtemp(prefix=".old-", dir=place.parent))
        os.rename(place, old / "model")
        shutil.rmtree(old, ignore_errors=True)
    os.rename(draft, place)
    return place


def _digest(record: object) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
