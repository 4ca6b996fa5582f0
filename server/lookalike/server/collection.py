"""One collection: its items in the store, its vectors in an engine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeAlias, TypeVar

import numpy as np

from lookalike.backends.crashpoints import reach
from lookalike.backends.engine.base import Engine
from lookalike.backends.errors import (
    CollectionLoading,
    DataLoss,
    FailedPrecondition,
    ImageNotRetained,
    ItemNotFound,
    LookalikeError,
    ModelMismatch,
    ModelNotFound,
)
from lookalike.backends.types import (
    Changes,
    Hits,
    IndexSpec,
    Keys,
    Progress,
    SearchParams,
    Vectors,
)
from lookalike.server.digest import with_metadata
from lookalike.server.domain import (
    NO_MODEL,
    CollectionInfo,
    CollectionRecord,
    CollectionState,
    Filter,
    Item,
    Json,
    ReadyItem,
    StoredImage,
    Vector,
    View,
    WriteMode,
    WriteResult,
)
from lookalike.server.models import LoadedModel, Models
from lookalike.server.names import Names
from lookalike.server.recent import RecentQueries
from lookalike.server.store import Store, Transaction, ValueCounts
from lookalike.server.vectors import all_as_kept, as_kept

_log = logging.getLogger(__name__)

T = TypeVar("T")
Items: TypeAlias = list[Item]
Results: TypeAlias = list[WriteResult]


class Collection:
    """A collection that can be read, written and searched. Any thread.

    `open_engine` makes an engine level with the store; it is called by `open`,
    and again if the engine fails or the vectors change their space.
    """

    def __init__(
        self,
        record: CollectionRecord,
        store: Store,
        models: Models,
        open_engine: Callable[[CollectionRecord], Engine],
    ) -> None:
        self.record = record
        self._store = store
        self._models = models
        self._open_engine = open_engine
        self._engine: Engine | None = None
        self._engine_dim = 0
        self.recent = RecentQueries()
        self._dropping: Future[None] | None = None
        self._failure = ""  # why there is no engine, for people
        self._names = Names(lambda keys: store.fetch(keys, View.ID, self.number))
        self._level = threading.Event()
        """Set while the engine holds what the store holds."""

    @property
    def name(self) -> str:
        return self.record.config.name

    @property
    def number(self) -> int:
        return self.record.number

    def open(self, *, look: bool = False) -> None:
        """Open the engine, level with the store, in place of the one that was there.

        With `look`, every row is read first, and damaged ones left out.
        """
        self._level.clear()
        if self._engine is not None:
            self._engine.close()  # two must not share a folder; the old one may still answer
        try:
            if look:
                self._store.look_for_damage(self.number)
            self._engine = self._open_engine(self.record)
        except DataLoss as error:
            self._failure = f"The collection {self.name!r} cannot be opened. {error.message}"
            raise
        self._failure = ""
        self._engine_dim = self.record.config.dimension
        self._engine.learn_from(self.recent)
        self._level.set()

    def close(self, *, snapshot: bool) -> None:
        """Release the engine; with `snapshot`, write down what it would cost to rebuild."""
        engine, self._engine = self._engine, None
        self._level.clear()
        if engine is None:
            return
        if snapshot:
            try:
                engine.snapshot()
            except Exception:  # a snapshot only saves time
                _log.exception("snapshot failed collection=%s", self.name)
        engine.close()

    @property
    def engine(self) -> Engine:
        """The engine; raises CollectionLoading while there is none, or why there will be none."""
        if (engine := self._engine) is None:
            if self._failure:
                raise DataLoss(self._failure, collection=self.name)
            raise CollectionLoading(
                f"The collection {self.name!r} is being loaded; try again.",
                retry_after_s=0.5,
                collection=self.name,
            )
        return engine

    def model(self) -> LoadedModel:
        """Return the model that made the vectors.

        Raises ModelMismatch if the server has it no more or in another version,
        FailedPrecondition for a collection of brought vectors.
        """
        name = self.record.config.model
        if name == NO_MODEL:
            raise FailedPrecondition(
                f"The collection {self.name!r} has no model: all vectors are brought along. "
                "Send a vector.",
                field="vector",
            )
        try:
            model = self._models.get(name)
        except ModelNotFound:
            raise ModelMismatch(
                f"The collection {self.name!r} was made with the model {name!r}, which this "
                "server does not have. Configure it, or search by vector or item.",
                model=name,
                fingerprint=self.record.space,
            ) from None
        if not model.fits(self.record.space):
            raise ModelMismatch(
                f"The collection {self.name!r} was made with {self.record.space}, but the model "
                f"{name!r} is now {model.space}. Bring the old model back, or run RebuildIndex "
                "with `reembed`.",
                expected=self.record.space,
                actual=model.space,
            )
        return model

    def state(self) -> CollectionState:
        """Say whether the collection can be used."""
        if self._engine is None:
            return CollectionState.LOADING
        name = self.record.config.model
        if name != NO_MODEL:
            known = {model.name: model for model in self._models.list()}
            model = known.get(name)
            if model is None or (model.loaded and self.record.space not in model.spaces):
                return CollectionState.MODEL_MISMATCH
        stats = self._engine.stats()
        if stats.recovered and stats.building:
            return CollectionState.RECOVERING
        return CollectionState.READY

    def info(self) -> CollectionInfo:
        """Describe the collection as it is now."""
        engine = self._engine
        return CollectionInfo(
            record=self.record,
            state=self.state(),
            item_count=self._store.count(self.number, Filter()),
            damaged_count=len(self._store.damaged.keys(self.number)),
            stats=engine.stats() if engine else None,
        )

    def accept(self, vector: Vector) -> Vector:
        """Return a brought (dim,) vector as the collection keeps it: length 1 if cosine.

        Raises DimensionMismatch, VectorNotFinite, VectorZero.
        """
        return as_kept(vector, self.record.config)

    def accept_all(self, vectors: Sequence[Vector]) -> Sequence[Vector | LookalikeError]:
        """Do for many vectors what `accept` does; return what is wrong instead of raising."""
        return all_as_kept(vectors, self.record.config)

    # ------------------------------------------------------------------ items

    def get(self, item_id: str, view: View) -> Item:
        """Return one item. Raises ItemNotFound."""
        if (item := self._store.get(self.number, item_id, view)) is None:
            raise self._no_item(item_id)
        return item

    def list(self, where: Filter, after_id: str, count: int, view: View) -> Items:
        """Return at most `count` items by id, behind `after_id`."""
        return self._store.list(self.number, where, after_id, count, view)

    def count(self, where: Filter) -> int:
        """Count the items that pass."""
        return self._store.count(self.number, where)

    def count_values(self, where: Filter, field: str, count: int) -> ValueCounts:
        """Count the values of a metadata field over the items that pass."""
        return self._store.count_values(self.number, where, field, count)

    def digest(self, item_id: str) -> bytes | None:
        """Return the digest of a stored item; None if there is none."""
        return self._store.digest(self.number, item_id)

    def put(self, items: Sequence[ReadyItem], mode: WriteMode) -> Future[Results]:
        """Store items; the Future is done when they are durable and findable."""
        number = self.number
        self.engine  # noqa: B018 - refuses writes that no engine would see
        # Rows that have lost these names: an item that is stored anew is mended.
        lost = self._store.damaged.keys_named(number, {item.id for item in items})

        def put(transaction: Transaction) -> Results:
            results = transaction.put(number, items, mode)
            if lost:
                transaction.delete(number, (), lost)
            return results

        return self._store.write(put)

    def update_metadata(self, item_id: str, metadata: Json, replace: bool) -> Item:
        """Merge (RFC 7396) or replace an item's metadata. Raises ItemNotFound."""

        def update(transaction: Transaction) -> Item:
            return transaction.update_metadata(
                self.number, item_id, metadata, with_metadata, replace
            )

        return self._store.write(update).result()

    def delete(self, ids: Sequence[str], *, dry_run: bool) -> int:
        """Delete items by id; return how many were there."""
        if dry_run:
            return sum(self._is_there(item_id) for item_id in set(ids))
        lost = self._store.damaged.keys_named(self.number, set(ids))
        return self._store.write(lambda t: t.delete(self.number, ids, lost)).result()

    def _is_there(self, item_id: str) -> bool:
        try:
            return self._store.get(self.number, item_id, View.ID) is not None
        except DataLoss:
            return True

    def delete_where(self, where: Filter, *, dry_run: bool) -> int:
        """Delete the items that pass; return how many there were. Damaged ones stay."""
        if dry_run:
            return self.count(where)
        but = self._store.damaged.but(self.number)
        return self._store.write(lambda t: t.delete_where(self.number, where, but)).result()

    def image(self, item_id: str, original: bool) -> StoredImage:
        """Return a stored picture. Raises ItemNotFound, ImageNotRetained."""
        item = self.get(item_id, View.ID)
        if (image := self._store.image(item.key, original)) is None:
            kind = "original file" if original else "thumbnail"
            raise ImageNotRetained(
                f"No {kind} of {item_id!r} is kept; the collection keeps "
                f"{self.record.config.retention.value}.",
                id=item_id,
            )
        return image

    def _no_item(self, item_id: str) -> ItemNotFound:
        return ItemNotFound(
            f"There is no item {item_id!r} in the collection {self.name!r}.",
            field="id",
            id=item_id,
            collection=self.name,
        )

    # ----------------------------------------------------------------- engine

    def apply(self, changes: Changes) -> None:
        """Bring the engine level with a commit. Writer thread only.

        An engine that fails is opened anew from the store, for what was committed
        will be acknowledged as findable.
        """
        if self._engine is None:
            return
        try:
            if self._engine_dim != self.record.config.dimension:
                self.open()  # its vectors were all replaced by those of another model
            else:
                self._engine.apply(changes)
        except Exception:
            _log.exception("engine failed, opened anew collection=%s", self.name)
            self.open()

    def drop(self, keys: Sequence[int]) -> None:
        """Have items taken out of the engine that the store cannot vouch for. Any thread."""
        removed = np.array(sorted(keys), np.int64)

        def drop(_: Transaction) -> None:  # on the one thread that may change an engine
            if (engine := self._engine) is not None:
                none = np.zeros((0, self._engine_dim), np.float32)
                engine.apply(Changes(engine.applied_seq, removed, removed[:0], none))

        self._dropping = self._store.write(drop)

    def rebuild(self, spec: IndexSpec, progress: Progress) -> None:
        """Build the index anew as `spec` says; the old one answers meanwhile. Job thread."""
        self.engine.rebuild(spec, progress)
        reach("collection.rebuild.built")
        self.record = self._store.write(
            lambda t: t.update_collection(self.number, index=spec)
        ).result()

    def replace_vectors(self, keys: Keys, vectors: Vectors, space: str) -> bool:
        """Give all items new vectors of another space in one commit. Job thread.

        Returns False, and changes nothing, if the collection has items that are
        not among `keys`; keys that are gone are passed over.
        """

        but = self._store.damaged.but(self.number)

        def swap(transaction: Transaction) -> bool:
            record = transaction.replace_vectors(self.number, keys, vectors, space, but)
            if record is None:
                return False
            self.record = record
            self.recent.forget()
            return True

        before = self.record
        try:
            return self._store.write(swap).result()
        except BaseException:
            self.record = before
            raise

    def search(self, vectors: Vectors, k: int, allowed: Keys | None, params: SearchParams) -> Hits:
        """Answer somebody's queries: the k nearest keys of (q, dim) vectors, of `allowed` only."""
        hits = self.engine.search(vectors, k, allowed=allowed, params=params)
        self.recent.add(vectors)
        return hits

    def select(self, where: Filter) -> Keys:
        """Return the keys of the items that pass, rising."""
        return self._store.select_keys(self.number, where)

    def fetch(self, keys: Sequence[int], view: View) -> dict[int, Item]:
        """Return items by key; those that are gone are missing.

        With the view ID, an item that has just gone may be there still.
        """
        if view is View.ID:
            return self._names.fetch(keys)
        return self._store.fetch(keys, view, self.number)

    def vectors(self, keys: Keys) -> Vectors:
        """Return (len(keys), dim) float32 in their order. Raises KeyError if one is gone."""
        return self._store.vectors(self.number, keys)

    def between_commits(self, read: Callable[[], T]) -> T:
        """Return what `read` returns while nothing is committed: engine and store agree then.

        Writes wait for it, so it is for reads that failed otherwise. Raises what `read`
        raises, and what keeps the store from writing.
        """
        return self._store.write(lambda transaction: read()).result()

    def wait_level(self, timeout_s: float) -> None:
        """Wait until the engine holds what the store holds."""
        self._level.wait(timeout=timeout_s)
        if (dropping := self._dropping) is not None:
            wait([dropping], timeout_s)
