"""A model that is not what made a collection is refused by name; embedding anew carries over."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from house import House, open_house
from lookalike.backends.errors import (
    Cancelled,
    DimensionMismatch,
    DiskFull,
    ModelMismatch,
)
from lookalike.backends.registry import embedders
from lookalike.server import models
from lookalike.server.carried import Carried
from lookalike.server.domain import (
    CollectionConfig,
    CollectionState,
    ImageQuery,
    ItemQuery,
    JobState,
    NewItem,
    Query,
    Retention,
    SearchOptions,
    TextQuery,
    VectorQuery,
    View,
)
from lookalike.server.reembed import Reembed
from model.budget import folder
from model.changing import SPACE, ChangingEmbedder
from model.drivers import album

COUNT = 150
NAME = "pictures"
Become = Callable[[str], None]


@pytest.fixture
def data() -> Iterator[Path]:
    place = folder("mismatch-")
    yield place
    shutil.rmtree(place)


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Become:
    """Return a function that gives the model of the next server another space."""
    monkeypatch.setattr(embedders, "resolve", lambda name: ChangingEmbedder)
    monkeypatch.setenv(SPACE, "old")

    def set_space(space: str) -> None:
        if space.startswith("decode/"):
            monkeypatch.setattr(models, "DECODER", space)
        else:
            monkeypatch.setenv(SPACE, space)

    return set_space


def fill(data: Path, count: int = COUNT) -> None:
    with open_house(data) as house:
        config = CollectionConfig(NAME, retention=Retention.ORIGINAL)
        house.library.create_collection(config, exist_ok=False)
        if count:
            house.put([NewItem(f"p-{n}", album(n)) for n in range(count)], NAME)


def top(house: House, query: Query) -> str:
    answer = house.searcher.search(NAME, query, SearchOptions(limit=1), deadline=None)
    return answer.matches[0].item.id


def all_find_themselves(house: House, count: int = COUNT) -> None:
    house.models.get("")
    for n in range(0, count, 7):
        assert top(house, ImageQuery(album(n))) == f"p-{n}"


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("space", ["other weights", "wide weights", "decode/99"])
def test_a_changed_model_is_refused_with_both_fingerprints(
    space: str, count: int, data: Path, become: Become
) -> None:
    fill(data, count)
    become(space)
    with open_house(data) as house:
        collection = house.library.collection(NAME)
        old, new = collection.record.space, house.models.get("").space
        assert old != new
        for query in (ImageQuery(album(0)), TextQuery("a cat")):
            with pytest.raises(ModelMismatch) as refused:
                house.searcher.search(NAME, query, SearchOptions(), deadline=None)
            assert old in refused.value.message
            assert new in refused.value.message
            assert refused.value.metadata == {"expected": old, "actual": new}
        (result,) = house.put([NewItem("new", album(50))], NAME)
        assert isinstance(result.error, ModelMismatch)
        assert old in result.error.message
        assert collection.state() is CollectionState.MODEL_MISMATCH
        assert (collection.record.space, collection.record.config.dimension) == (old, 16)
        vector = np.ones(16, np.float32)
        answer = house.searcher.search(NAME, VectorQuery(vector), SearchOptions(), deadline=None)
        assert len(answer.matches) == count, "what is stored can be searched by vector"
        if count:
            answer = house.searcher.search(NAME, ItemQuery("p-0"), SearchOptions(), deadline=None)
            assert len(answer.matches) == count - 1
        with pytest.raises(DimensionMismatch):
            collection.accept(np.ones(24, np.float32))


def test_a_model_that_has_gone_is_refused_with_the_fingerprint(data: Path, become: Become) -> None:
    fill(data, 1)
    with open_house(data) as house:
        collection = house.library.collection(NAME)
        number, space = collection.number, collection.record.space
        gone = house.store.write(lambda t: t.update_collection(number, space=space)).result()
        assert gone.space == space
        collection._models = models.Models({}, "", max_waiting=1)
        with pytest.raises(ModelMismatch) as refused:
            collection.model()
        assert space in refused.value.message + str(refused.value.metadata)


# ------------------------------------------------------------------ carried over


def cut_off(house: House, chunks: int) -> None:
    left = [chunks]

    def progress(phase: str, done: int, total: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        reembed_of(house).run(house.library.collection(NAME), progress)


def reembed_of(house: House) -> Reembed:
    return house.jobs._reembed


def embedded(house: House) -> int:
    """Return how many pictures the model has computed in this house."""
    model = house.models.get("")
    assert isinstance(model._embedder, ChangingEmbedder)
    return sum(model._embedder.batches)


def finish(house: House) -> None:
    job = house.jobs.rebuild(NAME, None, True)
    *_, last = house.jobs.watch(job.id)
    assert last.state is JobState.SUCCEEDED, last


def files(data: Path) -> list[Path]:
    return sorted((data / "reembed").glob("*")) if (data / "reembed").exists() else []


@pytest.mark.parametrize("space", ["other weights", "wide weights"])
def test_embedding_anew_goes_on_where_it_was_cut_off(
    space: str, data: Path, become: Become
) -> None:
    fill(data)
    become(space)
    with open_house(data) as house:
        cut_off(house, 2)
        assert embedded(house) == 128
        assert house.library.collection(NAME).record.config.dimension == 16
        assert top(house, ItemQuery("p-0")), "the old vectors answer"
        assert house.library.collection(NAME).state() is CollectionState.MODEL_MISMATCH
    with open_house(data) as house:
        finish(house)
        assert embedded(house) == COUNT - 128
        all_find_themselves(house)
        assert files(data) == [], "nothing is left behind"
        assert house.library.collection(NAME).state() is CollectionState.READY


def test_what_changed_since_is_embedded_and_what_went_is_not(data: Path, become: Become) -> None:
    fill(data)
    with open_house(data) as house:  # a picture and the vector it brings: the key may stay
        vector = house.library.collection(NAME).get("p-5", View.FULL).vector
        house.put([NewItem("p-5", album(5), vector)], NAME)
    become("other weights")
    with open_house(data) as house:
        cut_off(house, 2)
        key = house.library.collection(NAME).get("p-5", View.ID).key
        house.put([NewItem("p-5", album(305), vector)], NAME)
        assert house.library.collection(NAME).get("p-5", View.ID).key == key
        house.library.collection(NAME).delete(["p-6", "p-149"], dry_run=False)
    with open_house(data) as house:
        finish(house)
        assert embedded(house) == COUNT - 128 - 1 + 1
        assert top(house, ImageQuery(album(305))) == "p-5"
        assert top(house, ImageQuery(album(7))) == "p-7"


def test_items_deleted_while_their_pictures_are_read_are_passed_over(
    data: Path, become: Become
) -> None:
    fill(data)
    become("other weights")
    with open_house(data) as house:
        collection = house.library.collection(NAME)

        def progress(phase: str, done: int, total: int) -> None:
            collection.delete([f"p-{done}", f"p-{done + 3}"], dry_run=False)

        marks = Reembed._marks

        def late(self: Reembed, keys: np.ndarray) -> dict[int, int]:
            found = marks(self, keys)
            if len(keys) <= 64:
                collection.delete(["p-1", "p-100"], dry_run=False)  # after it was listed
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reembed, "_marks", late)
            reembed_of(house).run(collection, progress)
        all_find_themselves(house, 0)
        assert top(house, ImageQuery(album(8))) == "p-8"


@pytest.mark.parametrize("damage", ["torn", "flipped", "header", "rubbish"])
def test_a_damaged_file_costs_time_only(damage: str, data: Path, become: Become) -> None:
    fill(data)
    become("other weights")
    with open_house(data) as house:
        cut_off(house, 2)
    (path,) = files(data)
    bytes_ = bytearray(path.read_bytes())
    size = (len(bytes_) - 64) // 128
    match damage:
        case "torn":
            del bytes_[64 + 100 * size + 5 :]
        case "flipped":
            bytes_[64 + 100 * size + 30] ^= 1
        case "header":
            bytes_[20] ^= 1
        case "rubbish":
            bytes_ += os.urandom(1000)
    path.write_bytes(bytes_)
    with open_house(data) as house:
        finish(house)
        kept = {"torn": 100, "flipped": 100, "header": 0, "rubbish": 128}[damage]
        assert embedded(house) == COUNT - kept
        all_find_themselves(house)


def test_files_that_nothing_goes_on_with_are_swept(data: Path, become: Become) -> None:
    fill(data)
    become("other weights")
    with open_house(data) as house:
        cut_off(house, 1)
    (first,) = files(data)
    become("third weights")
    with open_house(data) as house:
        cut_off(house, 1)
    (second,) = files(data)
    assert first != second, "the file of another space"
    (data / "reembed" / "77-0123456789abcdef.vectors").write_bytes(b"of a collection that went")
    (data / "reembed" / "stray").write_bytes(b"")
    copy = second.read_bytes()
    with open_house(data) as house:
        assert files(data) == [second]
        finish(house)
    second.write_bytes(copy)  # a kill between the swap and the removal
    with open_house(data):
        assert files(data) == []


def test_a_full_disk_is_called_so_and_loses_nothing(
    data: Path, become: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(data)
    become("other weights")
    write, room = os.write, [10_000]

    def full(file: int, left: memoryview) -> int:
        room[0] -= len(left)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "full")
        return write(file, left)

    with open_house(data) as house:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(DiskFull, match="kept"):
                reembed_of(house).run(house.library.collection(NAME), lambda *_: None)
        before = embedded(house)
        finish(house)
        assert embedded(house) - before == COUNT - 64
        all_find_themselves(house)


def test_an_empty_collection_is_carried_over_too(data: Path, become: Become) -> None:
    fill(data, 0)
    become("wide weights")
    with open_house(data) as house:
        finish(house)
        house.put([NewItem("p-0", album(0))], NAME)
        assert top(house, ImageQuery(album(0))) == "p-0"
        assert house.library.collection(NAME).record.config.dimension == 24


def test_a_file_gives_back_what_was_added(tmp_path: Path) -> None:
    print("seed 9")
    rows = np.random.default_rng(9).standard_normal((10, 3)).astype(np.float32)
    one = Carried.open(tmp_path / "f", 4, "store/4/space", 3)
    one.add({key: key + 100 for key in range(5)}, rows[:5])
    one.add({2: 999, 7: 1}, rows[5:7])
    one.close()
    two = Carried.open(tmp_path / "f", 4, "store/4/space", 3)
    assert two.missing({0: 100, 1: 5, 2: 999, 3: 103, 8: 0}).tolist() == [1, 8]
    assert [int(k) for k in one.keys] == [0, 1, -1, 3, 4, 2, 7]
    np.testing.assert_array_equal(two.vectors(), rows[:7])
    two.close()
