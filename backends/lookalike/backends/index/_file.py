"""What every index file ends with: a few facts, so that a wrong file is refused early.

    engine library's bytes | JSON | length of the JSON, 8 bytes | MAGIC, 8 bytes

Facts stand at the end because the engine libraries write and read their own part
from the start of a file. This tells one file from another; whether the bytes are
whole is for the caller's checksum to say.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lookalike.backends.types import IndexSpec, Vectors

MAGIC = b"LkIndex\x01"
_TAIL = struct.Struct("<Q8s")
_MOST = 2**20
"""More facts than this are none of ours."""


def identity(spec: IndexSpec, vectors: Vectors) -> dict[str, object]:
    """Collect what a file and those who load it must agree on."""
    count, dim = vectors.shape
    algorithm = spec.algorithm
    facts = {
        "backend": spec.backend,
        "algorithm": None if algorithm is None else [type(algorithm).__name__, asdict(algorithm)],
        "options": dict(spec.options),
        "metric": str(spec.metric),
        "count": count,
        "dim": dim,
    }
    if spec.target_recall:  # files from before there were any are of none
        facts["target_recall"] = spec.target_recall
    plain: dict[str, object] = json.loads(json.dumps(facts))
    return plain


def append_facts(path: Path, identity: Mapping[str, object], facts: Mapping[str, object]) -> None:
    """Append identity and facts (JSON values) to the file, which may not exist yet."""
    text = json.dumps({"identity": identity, "facts": facts}).encode()
    with path.open("ab") as file:
        file.write(text + _TAIL.pack(len(text), MAGIC))


def read_facts(path: Path, identity: Mapping[str, object]) -> dict[str, Any]:
    """Return the facts; raise ValueError unless the file is whole and of this identity."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < _TAIL.size:
            raise ValueError("the file is too short to be an index")
        file.seek(size - _TAIL.size)
        length, magic = _TAIL.unpack(file.read(_TAIL.size))
        if magic != MAGIC or length > min(size - _TAIL.size, _MOST):
            raise ValueError("the file is not an index, or it is cut off")
        file.seek(size - _TAIL.size - length)
        text = file.read(length)
    try:
        whole = json.loads(text)
        found, facts = dict(whole["identity"]), dict(whole["facts"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("the facts at the end of the index file are damaged") from error
    for name, value in identity.items():
        if found.get(name) != value:
            raise ValueError(f"the index file is of another {name}")
    return facts


@contextmanager
def writing() -> Iterator[None]:
    """Turn an engine library's RuntimeError while writing into an OSError without paths."""
    try:
        yield
    except RuntimeError as error:
        full = "No space left" in str(error)
        raise OSError(
            errno.ENOSPC if full else errno.EIO, "the index file cannot be written"
        ) from error
