"""An upload whose client has gone: what has not begun never does, and nothing is half stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from house import House, open_house
from lookalike.backends.types import Prepared, Vectors
from lookalike.server.domain import Filter, SearchOptions, VectorQuery, View
from lookalike.server.images import Decoded, decode
from lookalike.server.ingest import Ingest
from lookalike.server.known_vectors import KnownVectors
from lookalike.server.limits import Limits
from lookalike.server.pictures import Pictures
from lookalike.server.rpc.upload import Uploads
from lookalike.v1 import index_service_pb2 as pb
from lookalike.v1 import types_pb2
from made_pictures import jpeg

PATIENCE_S = 30.0
PICTURES = 60
READERS = 2
MOST_BATCH = 32


class Gone:
    """The context of a call, whose client may go."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []

    def add_callback(self, call: Callable[[], None]) -> bool:
        self._calls.append(call)
        return True

    def go(self) -> None:
        for call in self._calls:
            call()


class Held:
    """A piece of work that counts how often it is begun, and waits each time to be let go."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work
        self.begun = 0
        self.may_go = threading.Event()
        self._changed = threading.Condition()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._changed:
            self.begun += 1
            self._changed.notify_all()
        assert self.may_go.wait(PATIENCE_S)
        return self._work(*args, **kwargs)

    def await_begun(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.begun >= count, PATIENCE_S)


class Stage:
    """An upload of pictures into a real house, with gates before the decoder and the model."""

    def __init__(self, house: House) -> None:
        self.house = house
        model = house.models.get("builtin")
        embedder: Any = model._embedder
        self.decoding = Held(self._decode)
        self.embedding = Held(embedder.embed_prepared)
        self.embedded = 0
        embedder.embed_prepared = self._embed
        self.pictures = Pictures(Limits(), threads=READERS, decode=self.decoding)
        self.ingest = Ingest(house.library, self.pictures, KnownVectors(None, Limits()))
        self.client = Gone()

    def _decode(self, data: bytes, *, max_pixels: int, side: int = 0) -> Decoded:
        return decode(data, max_pixels=max_pixels, side=side)

    def _embed(self, batch: Sequence[Prepared]) -> Vectors:
        self.embedded += len(batch)
        vectors: Vectors = self.embedding(batch)
        return vectors

    def begin(self, items: Sequence[pb.ItemInput]) -> None:
        self.may_end = threading.Event()
        uploads = Uploads(self.house.library, self.ingest, Limits())
        context: Any = self.client
        self._answers = threading.Thread(
            target=lambda: list(uploads.run(self._messages(items), context)), daemon=True
        )
        self._answers.start()

    def _messages(self, items: Sequence[pb.ItemInput]) -> Iterator[pb.UploadItemsRequest]:
        yield pb.UploadItemsRequest(start=pb.UploadStart())
        batch = [pb.UploadItem(seq=i + 1, item=item) for i, item in enumerate(items)]
        yield pb.UploadItemsRequest(batch=pb.UploadBatch(items=batch))
        assert self.may_end.wait(PATIENCE_S)

    def finish(self) -> None:
        """Let the client end its upload, and wait for the end."""
        self.may_end.set()
        self._answers.join(PATIENCE_S)
        assert not self._answers.is_alive()

    def give_up(self) -> None:
        """Let the client go, and then the work in hand go on."""
        self.client.go()
        self.decoding.may_go.set()
        self.embedding.may_go.set()
        end = time.monotonic() + PATIENCE_S
        while self.ingest.under_way:
            assert time.monotonic() < end, self.ingest.under_way
            time.sleep(0.005)
        self.finish()

    def stored(self) -> list[str]:
        """Return the ids of what is stored, each of it whole."""
        collection = self.house.library.collection("default", create=True)
        items = collection.list(Filter(), "", 1000, View.FULL)
        for item in items:
            assert item.vector is not None
            assert np.isclose(np.linalg.norm(item.vector), 1.0, atol=1e-4)
            assert item.image is not None
            assert item.image.has_thumbnail
            assert collection.image(item.id, original=False).data
            found = self.house.searcher.search(
                "default", VectorQuery(item.vector), SearchOptions(limit=1), deadline=None
            )
            assert [match.item.id for match in found.matches] == [item.id]
        return [item.id for item in items]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with open_house(tmp_path) as house:
        stage = Stage(house)
        yield stage
        stage.decoding.may_go.set()
        stage.embedding.may_go.set()
        stage.pictures.close()


def pictures(count: int) -> list[pb.ItemInput]:
    return [pb.ItemInput(id=f"{i}", image=types_pb2.Image(data=jpeg(i))) for i in range(count)]


def test_pictures_that_nobody_reads_yet_never_are_when_the_client_has_gone(stage: Stage) -> None:
    stage.begin(pictures(PICTURES))
    stage.decoding.await_begun(READERS)
    stage.give_up()
    assert stage.decoding.begun == READERS, "those in hand, and no more"
    assert stage.embedded == 0
    assert stage.stored() == []


def test_pictures_that_wait_for_the_model_are_dropped_when_the_client_has_gone(
    stage: Stage,
) -> None:
    stage.decoding.may_go.set()
    stage.begin(pictures(PICTURES))
    stage.decoding.await_begun(PICTURES)
    stage.embedding.await_begun(1)
    stage.give_up()
    assert stage.embedding.begun == 1, "the batch in hand, and no more"
    assert len(stage.stored()) == stage.embedded <= MOST_BATCH


def test_vectors_that_wait_for_their_turn_are_not_stored_when_the_client_has_gone(
    stage: Stage,
) -> None:
    """The second item of an id waits for the first, a picture that is being read."""
    first = pictures(1)[0]
    second = pb.ItemInput(id=first.id, vector=types_pb2.Vector(values=[1.0] * 384))
    stage.begin([first, second])
    stage.decoding.await_begun(1)
    stage.give_up()
    assert stage.stored() == []


def test_a_client_that_stays_gets_all_of_the_same_pictures_stored(stage: Stage) -> None:
    """Though another one leaves, who sent the very same files."""
    leaver, stays = Stage.__new__(Stage), stage
    leaver.__dict__.update(stage.__dict__, client=Gone())
    leaver.begin(pictures(PICTURES))
    stage.decoding.await_begun(READERS)
    stays.begin([pb.ItemInput(id=f"my {item.id}", image=item.image) for item in pictures(20)])
    leaver.client.go()
    stays.decoding.may_go.set()
    stays.embedding.may_go.set()
    stays.finish()
    leaver.give_up()
    assert sorted(stage.stored()) == sorted(f"my {i}" for i in range(20))
