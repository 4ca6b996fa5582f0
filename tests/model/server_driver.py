"""A walk over gRPC: a server process, its client, and real SIGKILLs."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from lookalike.backends.types import HnswParams, IvfParams, Metric
from lookalike.client import Client, NewItem, Query
from lookalike.client import _results as results
from lookalike.client.errors import ItemNotFound, LookalikeError
from lookalike.client.local_server import LocalServer
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


def spec_of(name: str) -> results.IndexSpec:
    """Return a spec as a client writes it."""
    spec = SPECS[name]
    algorithm: results.Flat | results.Hnsw | results.Ivf | None = None
    match spec.algorithm:
        case HnswParams():
            algorithm = results.Hnsw()
        case IvfParams():
            algorithm = results.Ivf()
        case None:
            pass
        case _:
            algorithm = results.Flat()
    return results.IndexSpec(spec.backend, algorithm, spec.options)


class ServerDriver:
    """One data folder, and one process after the other that serves it.

    Several walks share it: `begin` makes it forget what the last one stored.
    """

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._older = folder / "older"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "lookalike.toml"
        config.write_text(f"[engine]\noptions = {{ delta_limit = {DELTA_LIMIT} }}\n")
        self._flags = ("--config", str(config))
        self._start()

    def begin(self) -> None:
        for collection in self.client.collections():
            self.client.delete_collection(collection.name)
        shutil.rmtree(self._older, ignore_errors=True)

    def _start(self) -> None:
        self.server = LocalServer(self._data, *self._flags)
        self.server.start()
        self.client = Client(self.server.address, timeout_s=60.0)

    def create(self, name: str, metric: Metric, dim: int, spec: str) -> None:
        self._call(
            lambda: self.client.create_collection(
                name, model="none", metric=metric.value, dimension=dim, index=spec_of(spec)
            )
        )

    def drop(self, name: str) -> int:
        return self._call(lambda: self.client.delete_collection(name or "default"))

    def put(self, name: str, puts: Sequence[Put], mode: str) -> Sequence[str]:
        items = [
            NewItem(p.id, None if p.picture is None else album(p.picture), p.vector, p.metadata)
            for p in puts
        ]
        written = self._call(
            lambda: self.client.upsert(items, collection=name, mode=mode)  # type: ignore[arg-type]
        )
        assert [w.id for w in written] == [p.id for p in puts]
        return [w.error.reason if w.error else w.outcome.value for w in written]

    def get(self, name: str, item_id: str) -> Got | None:
        try:
            return _got(self.client.get(item_id, view="full", collection=name))
        except ItemNotFound:
            return None
        except LookalikeError as error:
            raise Refused(error.reason) from error

    def listed(self, name: str, where: int) -> Sequence[Got]:
        found = self.client.list(
            where=FILTERS[where][1], view="full", page_size=700, collection=name
        )
        return self._call(lambda: [_got(item) for item in found])

    def count(self, name: str, where: int) -> int:
        return self._call(lambda: self.client.count(where=FILTERS[where][1], collection=name))

    def update(self, name: str, item_id: str, new: Metadata, replaced: bool) -> Metadata | None:
        try:
            return self.client.update_metadata(
                item_id, new, replace=replaced, collection=name
            ).metadata
        except ItemNotFound:
            return None
        except LookalikeError as error:
            raise Refused(error.reason) from error

    def delete(self, name: str, ids: Sequence[str], dry_run: bool) -> int:
        return self._call(lambda: self.client.delete(ids, dry_run=dry_run, collection=name))

    def delete_where(self, name: str, where: int, dry_run: bool) -> int:
        condition = FILTERS[where][1]
        return self._call(
            lambda: self.client.delete(where=condition, dry_run=dry_run, collection=name)
        )

    def search(self, name: str, asked: Sequence[Asked]) -> Sequence[Shown | None]:
        queries = [
            Query(
                vector=a.vector,
                image=None if a.picture is None else album(a.picture),
                like=a.like or None,
                where=FILTERS[a.where][1],
                k=a.k,
                min_score=a.min_score,
                view="id",
                exact=a.exact,
            )
            for a in asked
        ]
        answers = self._call(lambda: self.client.search_batch(queries, collection=name))
        shown: list[Shown | None] = []
        for answer in answers:
            if isinstance(answer, ItemNotFound):
                shown.append(None)
            elif isinstance(answer, LookalikeError):
                raise Refused(answer.reason)
            else:
                shown.append(([(hit.id, hit.score) for hit in answer], answer.info.exact))
        return shown

    def rebuild(self, name: str, spec: str) -> None:
        job = self._call(lambda: self.client.rebuild_index(name, index=spec_of(spec)))
        *_, last = self.client.watch_job(job.id)
        assert last.state == "succeeded", last

    def embed(self, picture: int) -> Vector:
        return np.asarray(self.client.embed(images=[album(picture)]).vectors[0], np.float32)

    def settle(self, name: str) -> None:
        def is_still() -> bool:
            status = self.client.collection(name or "default").index_status
            return status is not None and not status.building

        wait_until(is_still)

    def snapshot(self, name: str) -> None:
        """Remember the derived files as they are; a server writes them when it likes."""
        shutil.rmtree(self._older, ignore_errors=True)
        copied(self._data / "indexes", self._older)

    def restart(self) -> None:
        self.client.close()
        self.server.stop()
        self._start()

    def crash(self, kind: str, salt: int) -> None:
        os.kill(self.server.pid, signal.SIGKILL)
        self.client.close()
        self.server.stop()
        print("damage:", damaged(kind, salt, self._older, self._data))
        self._start()

    def close(self) -> None:
        self.client.close()
        self.server.stop()

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except LookalikeError as error:
            raise Refused(error.reason) from error


def _got(item: results.Item) -> Got:
    return Got(item.id, item.metadata, item.image is not None, item.vector)
