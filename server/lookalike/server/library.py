"""All collections of one server, and the way from a commit to their engines."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lookalike.backends import registry
from lookalike.backends.crashpoints import reach
from lookalike.backends.engine.base import Engine, EngineConfig
from lookalike.backends.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidArgument,
    ReadOnly,
)
from lookalike.backends.files import Files
from lookalike.backends.index import auto
from lookalike.backends.types import Changes, IndexSpec, Keys, Vectors
from lookalike.server.collection import Collection
from lookalike.server.domain import (
    DEFAULT_COLLECTION,
    NO_MODEL,
    CollectionConfig,
    CollectionInfo,
    CollectionRecord,
)
from lookalike.server.limits import Limits
from lookalike.server.models import Models
from lookalike.server.store import Store

_log = logging.getLogger(__name__)


class StoreTruth:
    """The store's side of one collection, as an engine wants it."""

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._number = number

    def seq(self) -> int:
        return self._store.seq()

    def keys(self) -> Keys:
        return self._store.keys(self._number)

    def vectors(self, keys: Keys) -> Vectors:
        return self._store.vectors(self._number, keys)


class Library:
    """The collections by name. Any thread, but `start` and `close` by their owner.

    Holds the one listener of the store: what a commit changed is applied to the
    engines before anyone is told that it was done.
    """

    def __init__(
        self,
        store: Store,
        models: Models,
        *,
        data: Path,
        default_index: IndexSpec,
        engine: str,
        engine_options: Mapping[str, object],
        limits: Limits,
        files: Files | None = None,
    ) -> None:
        self._store = store
        self._models = models
        self._indexes = data / "indexes"
        self._default_index = default_index
        self._engine_class = registry.engines.resolve(engine)
        self._engine_options = dict(engine_options)
        self._limits = limits
        self._files = files or Files()
        self._by_name: dict[str, Collection] = {}
        self._by_number: dict[int, Collection] = {}
        self._naming = threading.Lock()
        """Held while the set of collections changes."""
        self._opener: threading.Thread | None = None
        self._opened = threading.Event()

    @property
    def ready(self) -> bool:
        """True once every collection has been opened."""
        return self._opened.is_set()

    def start(self) -> None:
        """Take over the store's commits and open the collections, in the background."""
        for record in self._store.collections():
            self._add(self._new(record))
        self._store.listener = self._apply
        self._store.damaged.found = self._drop
        self._sweep()
        self._opener = threading.Thread(target=self._open_all, name="opener", daemon=True)
        self._opener.start()

    def wait_ready(self, timeout_s: float | None = None) -> bool:
        """Wait until every collection has been opened; return whether it was so in time."""
        return self._opened.wait(timeout_s)

    def settle(self, *, last: bool) -> None:
        """Write snapshots; the `last` time, also have no engine change its files any more.

        Searches go on. Nothing may be stored from the last time on.
        """
        if self._opener is not None:
            self._opener.join()
        for collection in list(self._by_number.values()):
            try:
                engine = collection.engine
                engine.snapshot()
                if last:
                    engine.close()
            except Exception:  # one that is not open; a snapshot only saves time
                _log.warning("snapshot failed collection=%s", collection.name, exc_info=True)

    def close(self) -> None:
        """Write snapshots and release all engines."""
        if self._opener is not None:
            self._opener.join()
        for collection in self._by_number.values():
            collection.close(snapshot=True)

    # ------------------------------------------------------------ collections

    def check_writable(self) -> None:
        """Raise ReadOnly if nothing can be stored."""
        if self._store.read_only:
            raise ReadOnly("This server only reads; nothing was changed. Ask one that may write.")

    def collection(self, name: str, *, create: bool = False) -> Collection:
        """Return the collection `name` ("" = default). Raises CollectionNotFound.

        With `create`, the default collection makes itself if it is not there.
        """
        name = name or DEFAULT_COLLECTION
        if (found := self._by_name.get(name)) is not None:
            return found
        if create and name == DEFAULT_COLLECTION:
            self.create_collection(CollectionConfig(name), exist_ok=True)
            return self._by_name[name]
        raise CollectionNotFound(
            f"There is no collection {name!r}. Create it first, or store something in "
            f"{DEFAULT_COLLECTION!r}, which makes itself.",
            field="collection",
            collection=name,
        )

    def describe(self, name: str) -> CollectionInfo:
        """Describe a collection. Raises CollectionNotFound."""
        return self.collection(name).info()

    def list_collections(self, after: str, count: int) -> list[CollectionInfo]:
        """Describe at most `count` collections by name, behind the name `after`."""
        names = sorted(name for name in list(self._by_name) if name > after)[:count]
        found = [self._by_name.get(name) for name in names]
        return [collection.info() for collection in found if collection is not None]

    def create_collection(self, config: CollectionConfig, exist_ok: bool) -> CollectionInfo:
        """Make an empty collection, with defaults for what is not said.

        Raises CollectionExists (unless `exist_ok` and the settings are the same),
        ModelNotFound, IndexSpecInvalid, UnknownBackend, InvalidArgument.
        """
        config, space = self._completed(config)
        with self._naming:
            if (found := self._by_name.get(config.name)) is not None:
                if exist_ok and (
                    config.name == DEFAULT_COLLECTION or _same(found.record.config, config)
                ):
                    return found.info()
                raise CollectionExists(
                    f"There is a collection {config.name!r} already"
                    + (", with other settings." if exist_ok else ".")
                    + " Choose another name, or delete it first.",
                    field="collection.name",
                    collection=config.name,
                )
            record = self._store.write(lambda t: t.create_collection(config, space)).result()
            reach("library.create.stored")
            collection = self._new(record)
            collection.open()
            self._add(collection)
        return collection.info()

    def delete_collection(self, name: str, missing_ok: bool) -> int:
        """Delete a collection with its items and index; return how many items it had."""
        with self._naming:
            if (found := self._by_name.get(name)) is None:
                if missing_ok:
                    return 0
                raise CollectionNotFound(
                    f"There is no collection {name!r}.", field="name", collection=name
                )
            # The store first: where it cannot, the collection stays as it is.
            count = self._store.write(lambda t: t.delete_collection(found.number)).result()
            reach("library.delete.stored")
            del self._by_name[name], self._by_number[found.number]
        found.close(snapshot=False)
        self._files.remove_tree(self._folder(found.number))
        return count

    # --------------------------------------------------------------- insides

    def _completed(self, config: CollectionConfig) -> tuple[CollectionConfig, str]:
        """Fill in every default; return also the space of the model."""
        space, dimension = "", config.dimension
        name = config.model or self._models.default
        if name == NO_MODEL:
            if not 1 <= dimension <= self._limits.max_dimension:
                raise InvalidArgument(
                    f"A collection without a model needs a dimension of 1 to "
                    f"{self._limits.max_dimension}, not {dimension}.",
                    field="collection.dimension",
                )
        else:
            model = self._models.get(name)
            if dimension not in (0, model.dim):
                raise InvalidArgument(
                    f"The model {name!r} makes {model.dim} numbers, not {dimension}. "
                    "Leave the dimension out.",
                    field="collection.dimension",
                )
            space, dimension = model.space, model.dim
        index = replace(config.index or self._default_index, metric=config.metric)
        auto.check(index, dimension)
        return replace(config, model=name, dimension=dimension, index=index), space

    def _new(self, record: CollectionRecord) -> Collection:
        return Collection(record, self._store, self._models, self._open_engine)

    def _add(self, collection: Collection) -> None:
        self._by_number[collection.number] = collection
        self._by_name[collection.name] = collection

    def _open_engine(self, record: CollectionRecord) -> Engine:
        config = record.config
        assert config.index is not None
        return self._engine_class.open(
            EngineConfig(
                owner=f"{self._store.uuid}/{record.number}/{record.space}",
                directory=self._folder(record.number),
                dim=config.dimension,
                metric=config.metric,
                index=config.index,
                options=self._engine_options,
                files=self._files,
            ),
            StoreTruth(self._store, record.number),
        )

    def _open_all(self) -> None:
        for collection in list(self._by_number.values()):
            try:
                collection.open(look=True)
            except Exception:
                _log.exception("collection cannot be opened name=%s", collection.name)
        reach("library.opened")
        self._opened.set()

    def _apply(self, seq: int, changes: Mapping[int, Changes]) -> None:
        """Bring the engines level with a commit. The store's writer thread."""
        for number, change in changes.items():
            if (collection := self._by_number.get(number)) is not None:
                collection.apply(change)

    def _drop(self, number: int, keys: Sequence[int]) -> None:
        """Take items that were found to be damaged out of their collection's engine."""
        if (collection := self._by_number.get(number)) is not None:
            collection.drop(keys)

    def _folder(self, number: int) -> Path:
        return self._indexes / str(number)

    def _sweep(self) -> None:
        """Remove the indexes of collections that are gone."""
        known = {str(number) for number in self._by_number}
        if self._indexes.is_dir():
            for folder in self._indexes.iterdir():
                if folder.name not in known:
                    reach("library.sweep.before")
                    self._files.remove_tree(folder)


def _same(old: CollectionConfig, new: CollectionConfig) -> bool:
    return replace(old, description="") == replace(new, description="")
