"""Names to classes: built-in ones, and strangers' by entry points.

A class is imported when it is first asked for, so a missing extra harms only
those who name it. Entry-point groups: `lookalike.embedders`,
`lookalike.indexes`, `lookalike.engines`; an entry's name is the backend's name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

from lookalike.backends.embed.base import Embedder
from lookalike.backends.engine.base import Engine
from lookalike.backends.errors import BackendUnavailable, UnknownBackend
from lookalike.backends.index.base import VectorIndex

T = TypeVar("T")


class Builtin(NamedTuple):
    """Where a built-in class is, and what to install if its import fails."""

    module: str
    name: str
    extra: str = ""


class Registry(Generic[T]):
    """Resolves the names of one kind of plug-in. Any thread."""

    def __init__(
        self, kind: str, group: str, base: type[T], builtin: Mapping[str, Builtin]
    ) -> None:
        assert list(builtin) == sorted(builtin), "keep the table alphabetical"
        self.kind = kind
        self.group = group
        self.base = base
        self.builtin = MappingProxyType(dict(builtin))

    def names(self) -> tuple[str, ...]:
        """Return all known names, sorted; built-in ones hide entry points of the same name."""
        return tuple(sorted({*self.builtin, *(e.name for e in entry_points(group=self.group))}))

    def available(self) -> tuple[str, ...]:
        """Return the names whose classes can be imported here."""
        return tuple(name for name in self.names() if self._importable(name))

    def resolve(self, name: str) -> type[T]:
        """Import the class of this name.

        Raises UnknownBackend (with the known names) or BackendUnavailable (with
        what to install).
        """
        if builtin := self.builtin.get(name):
            try:
                found = getattr(import_module(builtin.module), builtin.name)
            except ImportError as error:
                raise BackendUnavailable(
                    f"The {self.kind} {name!r} needs a library that is not installed "
                    f"({error.name}). Install it with: pip install 'lookalike[{builtin.extra}]'",
                    backend=name,
                    extra=builtin.extra,
                ) from error
        else:
            found = self._from_entry_point(name)
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise UnknownBackend(f"{name!r} is not a {self.kind}: it is no {self.base.__name__}.")
        return found

    def _from_entry_point(self, name: str) -> object:
        for entry in entry_points(group=self.group, name=name):
            try:
                return entry.load()
            except ImportError as error:
                raise BackendUnavailable(
                    f"The {self.kind} {name!r} cannot be imported ({error.name} is missing). "
                    "Install what its package needs.",
                    backend=name,
                ) from error
        known = self.names()
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownBackend(
            f"There is no {self.kind} {name!r}.{hint} Known: {', '.join(known)}.", backend=name
        )

    def _importable(self, name: str) -> bool:
        try:
            self.resolve(name)
        except (BackendUnavailable, UnknownBackend):
            return False
        return True


_ROOM = "lookalike.backends"

embedders: Registry[Embedder] = Registry(
    "embedder",
    "lookalike.embedders",
    Embedder,  # type: ignore[type-abstract]
    {
        "builtin": Builtin(f"{_ROOM}.embed._builtin", "BuiltinEmbedder", "server"),
        "clip": Builtin(f"{_ROOM}.embed._clip", "ClipEmbedder", "clip"),
    },
)
indexes: Registry[VectorIndex] = Registry(
    "index",
    "lookalike.indexes",
    VectorIndex,  # type: ignore[type-abstract]
    {
        "exact": Builtin(f"{_ROOM}.index._exact", "ExactIndex"),
        "faiss": Builtin(f"{_ROOM}.index._faiss", "FaissIndex", "server"),
        "hnswlib": Builtin(f"{_ROOM}.index._hnswlib", "HnswlibIndex", "hnswlib"),
    },
)
engines: Registry[Engine] = Registry(
    "engine",
    "lookalike.engines",
    Engine,  # type: ignore[type-abstract]
    {"local": Builtin(f"{_ROOM}.engine._local", "LocalEngine")},
)
