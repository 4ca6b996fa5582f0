"""The contract of an engine: a moving set of vectors that is derived from the store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from lookalike.backends.files import Files
from lookalike.backends.recall import Recall
from lookalike.backends.types import (
    Changes,
    Hits,
    IndexSpec,
    Keys,
    Metric,
    Progress,
    SearchParams,
    Vectors,
)

NO_SNAPSHOT = "there is no snapshot"
"""What `EngineStats.recovered` says where nothing is wrong: nothing was saved yet."""


class Truth(Protocol):
    """The store's side of one collection: what the engine must hold. Any thread."""

    def seq(self) -> int:
        """Return the sequence number of the last commit."""

    def keys(self) -> Keys:
        """Return the keys of all live items, rising."""

    def vectors(self, keys: Keys) -> Vectors:
        """Return (len(keys), dim) float32, verified against their checksums.

        Raises KeyError if a key is not live any more, DataLoss on damage.
        """


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine is opened with."""

    owner: str
    """Names store, collection and vector space; a snapshot of another owner is not used."""
    directory: Path
    """The engine's own folder for derived files; may be missing or hold rubbish."""
    dim: int
    metric: Metric
    index: IndexSpec
    options: dict[str, object] = field(default_factory=dict)
    """Settings that only this engine knows, JSON values."""
    files: Files = field(default_factory=Files)
    """How it changes its files."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A reading of an engine, for people and tests."""

    count: int
    """Live vectors."""
    indexed: int
    """Of these, in a built index; the others are compared exactly."""
    segments: list[dict[str, object]]
    """One entry a sealed segment: backend, algorithm, count, live, settings."""
    building: bool
    """True while an index is built or merged in the background."""
    recovered: str = ""
    """Why the snapshot was not used when the engine was opened; empty if it was."""
    memory_bytes: int = 0
    recall: Recall | None = None
    """What the engine found out about its own answers; None if it has nothing to say."""


class Asked(Protocol):
    """What was searched for lately. Any thread."""

    @property
    def count(self) -> int:
        """How many queries there were, those that are forgotten included."""

    def vectors(self) -> Vectors:
        """Return some of the latest, (n, dim) float32."""


class Holding(Protocol):
    """One state of an engine, to be compared with the store. One thread."""

    def keys(self) -> Keys:
        """Return the keys of all live vectors, rising."""

    def blocks(self, rows: int) -> Iterator[tuple[Keys, Vectors]]:
        """Yield all live keys with their vectors as they are searched, some rows at a time."""

    def faults(self) -> Iterator[str]:
        """Read every derived file; say for people, without paths, what is wrong with each."""


class Engine(ABC):
    """Searches a set of vectors that changes under it.

    The store is the truth, an engine only a cache of it: on `open` it brings
    itself level with `Truth` (drops keys that are gone, takes in those it lacks)
    and throws away whatever of its files is doubtful. `search` and `stats` run
    on any thread; `apply` on one thread, in the order of `seq`; `rebuild` on a
    job's thread, one at a time.
    """

    applied_seq: int

    @classmethod
    @abstractmethod
    def open(cls, config: EngineConfig, truth: Truth) -> Self:
        """Load the snapshot if it is sound, then reconcile with `truth`."""

    @abstractmethod
    def apply(self, changes: Changes) -> None:
        """Take in one commit; every search that starts later sees it. Idempotent."""

    @abstractmethod
    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        allowed: Keys | None = None,
        params: SearchParams | None = None,
    ) -> Hits:
        """Find the k best keys of each of (q, dim) queries.

        `allowed` (rising keys; unknown ones are ignored) restricts the answer as if
        the others did not exist. Raises DimensionMismatch, VectorNotFinite,
        InvalidArgument, Unavailable (remote engine away).
        """

    @abstractmethod
    def rebuild(self, spec: IndexSpec, progress: Progress) -> None:
        """Build one index of `spec` over everything, then swap; the old one answers meanwhile.

        If `progress` raises, nothing has changed. Raises IndexSpecInvalid.
        """

    @abstractmethod
    def snapshot(self) -> int:
        """Write what is derived to `config.directory`, durably; return the seq it holds."""

    @abstractmethod
    def stats(self) -> EngineStats:
        """Read the engine's state."""

    def learn_from(self, asked: Asked) -> None:  # noqa: B027 - not every engine checks
        """Check recall with these queries, too. An engine that checks nothing takes no notice."""

    def holding(self) -> Holding | None:
        """Return what is held now, to be verified; None if this engine cannot tell."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Stop background work and release everything; does not snapshot."""
