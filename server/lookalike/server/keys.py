"""API keys: made here, kept as hashes in a file, checked against what callers present.

A key is `lk_<id>_<secret>`: an id of 48 bits, which logs and lists show, and a secret of
256 bits from the system's own generator, which is shown once and kept nowhere. The file
has one JSON object a line, with the SHA-256 of each whole key. A fast hash without salt
is enough for it: salts and slow hashes (scrypt, argon2) make it dear to guess what
people choose, and nobody guesses one of 2**256 equally likely secrets. It matters that
it is fast, for every call pays it: a check takes 3 us.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lookalike.backends.errors import (
    FailedPrecondition,
    InvalidArgument,
    KeyExpired,
    KeyInvalid,
    NotFound,
)

_KEY = re.compile(r"lk_([0-9a-f]{12})_[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{12}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COLLECTION = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_NOBODY = "0" * 64
"""What a key of an unknown id is compared with, so that it takes as long as any other."""
_MOST_BYTES = 4 * 2**20
_MOST_NOTE = 200
_WRITABLE_BY_OTHERS = 0o022


class Scope(enum.IntEnum):
    """What a caller may do; each includes those before it. As in access.proto."""

    NONE = 1
    READ = 2
    WRITE = 3
    ADMIN = 4


SCOPES: Mapping[str, Scope] = {"read": Scope.READ, "write": Scope.WRITE, "admin": Scope.ADMIN}
"""The scopes that a key can have, by their names in files and on the command line."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What the file knows of a key. Times in seconds since the epoch; 0: never."""

    id: str
    digest: str
    """SHA-256 of the whole key, in hex."""
    scope: Scope
    collections: tuple[str, ...] = ()
    """The only collections that it is for; empty: all."""
    created: float = 0.0
    expires: float = 0.0
    revoked: float = 0.0
    note: str = ""

    def state(self, now: float) -> str:
        """Return "valid", "expired" or "revoked"."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and now >= self.expires else "valid"


def make_key(
    scope: Scope,
    *,
    now: float,
    collections: Iterable[str] = (),
    expires: float = 0.0,
    note: str = "",
) -> tuple[str, ApiKey]:
    """Return a new key, and what to keep of it. Raises InvalidArgument."""
    names = tuple(dict.fromkeys(collections))
    for name in names:
        if not _COLLECTION.fullmatch(name):
            raise InvalidArgument(f"{name[:80]!r} cannot be the name of a collection.")
    if len(note) > _MOST_NOTE or not note.isprintable():
        raise InvalidArgument(f"A note has at most {_MOST_NOTE} characters, on one line.")
    key_id = secrets.token_hex(6)
    text = f"lk_{key_id}_{secrets.token_hex(32)}"
    return text, ApiKey(key_id, _digest(text), scope, names, now, expires, 0.0, note)


class KeyRing:
    """The keys of a file, as they were when it was last read. Any thread."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.id: key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def check(self, presented: str, now: float) -> ApiKey:
        """Return the key that was presented. Raises KeyInvalid, KeyExpired.

        The whole key is hashed and compared, in a time that does not depend on it, before
        anything about it is told: who has only the id does not learn that it is revoked.
        """
        match = _KEY.fullmatch(presented)
        known = self._keys.get(match[1]) if match is not None else None
        expected = known.digest if known is not None else _NOBODY
        is_same = hmac.compare_digest(_digest(presented), expected)
        if known is None or not is_same or known.revoked:
            raise KeyInvalid(
                "This is no key of this server, or it was revoked. Send the whole key, "
                '"lk_..._...", or ask the operator for another.'
            )
        _check_time(known, now)
        return known

    def confirm(self, key: ApiKey, now: float) -> None:
        """Raise KeyInvalid or KeyExpired unless a key that was checked holds unchanged."""
        if self._keys.get(key.id) != key:
            raise KeyInvalid("The key was revoked or changed meanwhile; call again.", key=key.id)
        _check_time(key, now)

    def id_of(self, presented: str) -> str:
        """Return the id of what was presented if the file has it; otherwise nothing."""
        match = _KEY.fullmatch(presented)
        return match[1] if match is not None and match[1] in self._keys else ""


def _check_time(key: ApiKey, now: float) -> None:
    if key.expires and now >= key.expires:
        raise KeyExpired("The key has expired; ask the operator for another.", key=key.id)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


# ---------------------------------------------------------------------- the file


def read_keys(path: Path) -> list[ApiKey]:
    """Read a keys file; what it says of itself goes to the operator, so it names the path.

    Raises:
        FailedPrecondition: it is not there, others may write to it, or a line of it is not
            a key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise FailedPrecondition(
            f"{path}: {error.strerror}. Make keys with: lookalike keys create --keys {path}"
        ) from None
    if mode & _WRITABLE_BY_OTHERS:
        raise FailedPrecondition(f"{path}: others may write to it; run: chmod 600 {path}")
    if len(data) > _MOST_BYTES:
        raise FailedPrecondition(f"{path}: is larger than {_MOST_BYTES} bytes.")
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key = _read_line(line)
        if key is None or key.id in keys:
            what = "is not a key" if key is None else "has an id that is there already"
            raise FailedPrecondition(f"{path}: line {number} {what}.")
        keys[key.id] = key
    return list(keys.values())


def _read_line(line: str) -> ApiKey | None:
    """Return the key of a line; None if it has not exactly the values that one has."""
    try:
        values: dict[str, Any] = json.loads(line)
        times = {name: float(values.pop(name, 0)) for name in ("created", "expires", "revoked")}
        names = values.pop("collections", None)
        key = ApiKey(
            id=values.pop("id"),
            digest=values.pop("digest"),
            scope=SCOPES[values.pop("scope")],
            collections=tuple(names or ()),
            **times,
            note=values.pop("note", ""),
        )
        is_sound = (
            _ID.fullmatch(key.id)
            and _DIGEST.fullmatch(key.digest)
            # an empty list would mean all of them to us and none to who wrote it
            and (names is None or (isinstance(names, list) and names))
            and all(_COLLECTION.fullmatch(name) for name in key.collections)
            and all(0 <= time < math.inf for time in times.values())
            and isinstance(key.note, str)
            and not values
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return key if is_sound else None


def add_key(path: Path, key: ApiKey) -> None:
    """Add a key to a file, which is made if it is not there. Raises FailedPrecondition."""
    with _Locked(path):
        keys = read_keys(path) if path.exists() else []
        _write(path, [*keys, key])


def revoke_key(path: Path, key_id: str, now: float) -> ApiKey:
    """Mark a key as revoked and return it. Raises NotFound, FailedPrecondition."""
    with _Locked(path):
        keys = {key.id: key for key in read_keys(path)}
        if key_id not in keys:
            raise NotFound(f"{path}: has no key {key_id!r}; lookalike keys list shows them.")
        keys[key_id] = replace(keys[key_id], revoked=keys[key_id].revoked or now)
        _write(path, keys.values())
        return keys[key_id]


class _Locked:
    """Keeps out others who change the same file, as long as the `with` lasts."""

    def __init__(self, path: Path) -> None:
        self._folder = path.resolve().parent

    def __enter__(self) -> None:
        import fcntl

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise FailedPrecondition(f"{self._folder}: {error.strerror}.") from None
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _write(path: Path, keys: Iterable[ApiKey]) -> None:
    """Put a whole new file in the place of the old one, readable by its owner alone."""
    path = path.resolve()  # a link stays a link
    lines = [json.dumps(_line(key), ensure_ascii=False) + "\n" for key in keys]
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise FailedPrecondition(f"{path}: {error.strerror}.") from None


def _line(key: ApiKey) -> dict[str, Any]:
    """Return the values of a key's line; what says nothing is left out."""
    values = asdict(key) | {"scope": key.scope.name.lower()}
    return {name: value for name, value in values.items() if value}
