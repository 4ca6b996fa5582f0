"""A walk on the server's  A crash is a copy of the folder that was never closed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from house import House, open_house
from lookalike.backends.errors import ItemNotFound, LookalikeError
from lookalike.backends.types import Metric, SearchParams
from lookalike.server import domain
from lookalike.server.collection import Collection
from lookalike.server.domain import CollectionConfig, Filter, JobState, View, WriteMode
from lookalike.server.images import decode
from model.drivers import (
    DELTA_LIMIT,
    FILTERS,
    SPECS,
    Asked,
    Got,
    Refused,
    Shown,
    album,
    copied,
    damaged,
    wait_until,
)
from model.oracle import Metadata, Put, Vector

T = TypeVar("T")


class HouseDriver:
    """The server's  A crash is a copy of the folder that was never closed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = 0
        self._open(folder / "data-0")

    def _open(self, data: Path) -> None:
        self._data = data
        self._stack = ExitStack()
        self.house: House = self._stack.enter_context(open_house(data, delta_limit=DELTA_LIMIT))

    def create(self, name: str, metric: Metric, dim: int, spec: str) -> None:
        config = CollectionConfig(
            name, model="none", metric=metric, dimension=dim, index=SPECS[spec]
        )
        self._call(lambda: self.house.library.create_collection(config, exist_ok=False))

    def drop(self, name: str) -> int:
        return self._call(
            lambda: self.house.library.delete_collection(name or "default", missing_ok=False)
        )

    def put(self, name: str, puts: Sequence[Put], mode: str) -> list[str]:
        items = [
            domain.NewItem(
                p.id, None if p.picture is None else album(p.picture), p.vector, p.metadata
            )
            for p in puts
        ]
        written = self._call(lambda: self.house.put(items, name, WriteMode(mode)))
        assert [w.id for w in written] == [p.id for p in puts]
        return [w.error.reason if w.error else w.outcome.value for w in written]

    def get(self, name: str, item_id: str) -> Got | None:
        collection = self._collection(name)
        try:
            return self._got(collection.get(item_id, View.FULL))
        except ItemNotFound:
            return None

    def listed(self, name: str, where: int) -> Sequence[Got]:
        collection = self._collection(name)
        found: list[domain.Item] = []
        while True:
            after = found[-1].id if found else ""
            page = collection.list(FILTERS[where][0], after, 700, View.FULL)
            found += page
            if not page:
                return [self._got(item) for item in found]

    def count(self, name: str, where: int) -> int:
        return self._collection(name).count(FILTERS[where][0])

    def update(self, name: str, item_id: str, new: Metadata, replaced: bool) -> Metadata | None:
        collection = self._collection(name)
        try:
            return dict(collection.update_metadata(item_id, new, replaced).metadata)
        except ItemNotFound:
            return None

    def delete(self, name: str, ids: Sequence[str], dry_run: bool) -> int:
        return self._collection(name).delete(ids, dry_run=dry_run)

    def delete_where(self, name: str, where: int, dry_run: bool) -> int:
        return self._collection(name).delete_where(FILTERS[where][0], dry_run=dry_run)

    def search(self, name: str, asked: Sequence[Asked]) -> Sequence[Shown | None]:
        requests = []
        for a in asked:
            query: domain.Query
            if a.vector is not None:
                query = domain.VectorQuery(a.vector)
            elif a.picture is not None:
                query = domain.ImageQuery(album(a.picture))
            else:
                query = domain.ItemQuery(a.like)
            options = domain.SearchOptions(
                limit=a.k,
                filter=FILTERS[a.where][0],
                min_score=a.min_score,
                view=View.ID,
                params=SearchParams(exact=a.exact),
            )
            requests.append((name, query, options))
        answers = self._call(lambda: self.house.searcher.search_batch(requests, deadline=None))
        shown: list[Shown | None] = []
        for answer in answers:
            if isinstance(answer, ItemNotFound):
                shown.append(None)
            elif isinstance(answer, LookalikeError):
                raise Refused(answer.reason)
            else:
                shown.append(([(m.item.id, m.score) for m in answer.matches], answer.exact))
        return shown

    def rebuild(self, name: str, spec: str) -> None:
        job = self._call(lambda: self.house.jobs.rebuild(name, SPECS[spec], False))
        *_, last = self.house.jobs.watch(job.id)
        assert last.state is JobState.SUCCEEDED, last

    def embed(self, picture: int) -> Vector:
        model = self.house.models.get("")
        read = decode(album(picture), max_pixels=10**6, side=model.decode_side)
        future = model.submit_image(model.prepare(read.image), deadline=None)
        return future.result(30).vector

    def settle(self, name: str) -> None:
        engine = self._collection(name).engine
        wait_until(lambda: not engine.stats().building)
        live = len(self._collection(name).list(Filter(), "", 10**6, View.ID))
        assert engine.stats().count == live, "the engine holds other items than the store"

    def snapshot(self, name: str) -> None:
        self._collection(name).engine.snapshot()
        shutil.rmtree(self._older, ignore_errors=True)
        copied(self._data / "indexes", self._older)

    def restart(self) -> None:
        self._stack.close()
        self._open(self._data)

    def crash(self, kind: str, salt: int) -> None:
        self._starts += 1
        copy = self._folder / f"data-{self._starts}"
        copied(self._data, copy)
        self._stack.close()
        shutil.rmtree(self._data)
        print("damage:", damaged(kind, salt, self._older, copy))
        self._open(copy)

    def close(self) -> None:
        self._stack.close()

    @property
    def _older(self) -> Path:
        return self._folder / "older"

    def _collection(self, name: str) -> Collection:
        return self._call(lambda: self.house.library.collection(name))

    def _got(self, item: domain.Item) -> Got:
        return Got(item.id, dict(item.metadata), item.image is not None, item.vector)

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except LookalikeError as error:
            raise Refused(error.reason) from error
