"""A verification finds every kind of damage by name, while the library is in use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import numpy as np
import pytest

from house import House, open_house
from lookalike.backends.engine._local import LocalEngine
from lookalike.backends.errors import CollectionNotFound, DataLoss, Overloaded
from lookalike.backends.types import Changes, IndexSpec
from lookalike.server.domain import CollectionConfig, NewItem, Retention, View
from lookalike.server.store._rows import image_crc
from lookalike.server.verifying import Event, Finding, Progress, Severity, Summary, Verifier
from made_pictures import jpeg

DIM = 16
COUNT = 400


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    seed = 7
    print("seed", seed)
    rng = np.random.default_rng(seed)
    with open_house(tmp_path, delta_limit=64) as made:
        for name in ("one", "two"):
            config = CollectionConfig(name, model="none", dimension=DIM, index=IndexSpec("faiss"))
            made.library.create_collection(config, exist_ok=False)
            rows = rng.normal(size=(COUNT, DIM)).astype(np.float32)
            items = [NewItem(f"{name}-{i}", vector=row) for i, row in enumerate(rows)]
            made.put(items, name, bulk=True)
        pictures = CollectionConfig("pictures", retention=Retention.ORIGINAL)
        made.library.create_collection(pictures, exist_ok=False)
        made.put([NewItem(f"p-{i}", jpeg(i)) for i in range(6)], "pictures")
        yield made


def verify(house: House, collection: str = "", probes: int = -1) -> tuple[list[Finding], Summary]:
    events = list(Verifier(house.library, house.store).verify(collection, probes))
    *rest, summary = events
    assert isinstance(summary, Summary)
    findings = [event for event in rest if isinstance(event, Finding)]
    assert all(isinstance(event, Finding | Progress) for event in rest)
    assert summary.findings == len(findings)
    return findings, summary


def harm(house: House, sql: str) -> None:
    """Change the database behind the store's back, by a connection of the same library."""
    db = apsw.Connection(str(house.store.directory / "store.db"))
    db.set_busy_timeout(5000)
    db.execute(sql)
    db.close()


def test_a_sound_library_has_no_findings(house: House) -> None:
    findings, summary = verify(house)
    assert findings == []
    assert (summary.collections, summary.items) == (3, 2 * COUNT + 6)
    assert summary.probed == summary.items
    assert summary.reached >= 0.999 * summary.probed
    assert summary.seq == house.store.seq()


def test_only_some_are_searched_for_and_only_one_collection_read(house: House) -> None:
    findings, summary = verify(house, "two", 50)
    assert (findings, summary.collections, summary.items, summary.probed) == ([], 1, COUNT, 50)
    with pytest.raises(CollectionNotFound):
        verify(house, "three")


KEY = "(SELECT key FROM items WHERE id = '{}')"
LOST = [
    ("UPDATE items SET metadata = '{{\"a\":1}}' WHERE key = " + KEY, "item", "one-7", "row"),
    ("UPDATE vectors SET vector = zeroblob(64) WHERE key = " + KEY, "vector", "two-9", "vector"),
    ("DELETE FROM vectors WHERE key = " + KEY, "vector", "two-9", "gone"),
    ("UPDATE thumbnails SET data = x'00' WHERE first_key = " + KEY, "image", "p-3", "thumbnail"),
    ("DELETE FROM originals WHERE first_key = " + KEY, "image", "p-3", "original file"),
    ("UPDATE originals SET crc = 1 WHERE first_key = " + KEY, "image", "p-4", "original file"),
]


@pytest.mark.parametrize(("sql", "check", "item_id", "words"), LOST)
def test_what_is_lost_is_named(
    house: House, sql: str, check: str, item_id: str, words: str
) -> None:
    harm(house, sql.format(item_id))
    findings, _ = verify(house)
    [found] = findings
    assert (found.severity, found.check, found.item_id) == (Severity.LOST, check, item_id)
    assert found.collection == {"o": "one", "t": "two", "p": "pictures"}[item_id[0]]
    assert words in found.message
    assert "Store it again, or delete it" in found.message


def test_a_swapped_original_is_found_by_its_hash(house: House) -> None:
    """The picture's own checksum fits; only the item knows which file was stored."""
    rows = "SELECT first_key FROM items WHERE id = 'p-2'"
    db = apsw.Connection(str(house.store.directory / "store.db"))
    key = db.execute(rows).get
    crc = image_crc(key, b"image/jpeg", b"other")
    db.execute("UPDATE originals SET data = ?, crc = ? WHERE first_key = ?", (b"other", crc, key))
    db.close()
    [found], _ = verify(house, "pictures")
    assert (found.check, found.item_id) == ("image", "p-2")
    assert "another file" in found.message


def test_damage_of_the_database_itself_is_found(house: House) -> None:
    harm(house, "PRAGMA foreign_keys = 0; UPDATE items SET collection = 77 WHERE id = 'one-3'")
    findings, _ = verify(house)
    assert [found.check for found in findings] == ["database", "index_keys"]
    assert "restore" in findings[0].message


def engine(house: House, name: str) -> LocalEngine:
    found = house.library.collection(name).engine
    assert isinstance(found, LocalEngine)
    return found


def sealed(house: House, name: str) -> None:
    job = house.jobs.rebuild(name, None, False)
    *_, last = house.jobs.watch(job.id)
    assert last.state.value == "succeeded"


def test_keys_that_store_and_index_do_not_share_are_found(house: House) -> None:
    keys = house.store.keys(house.library.collection("one").number)
    house.library.collection("one").drop(keys[:2].tolist())
    [first, second, third], summary = verify(house, "one")
    assert third.check == "reachability"
    assert summary.reached == COUNT - 2
    assert (first.check, second.check) == ("index_keys", "index_keys")
    assert {first.item_id, second.item_id} == {"one-0", "one-1"}
    assert first.severity is Severity.REPAIRABLE
    assert "indexes/" in first.message

    with_stranger = np.array([10**9])
    engine(house, "two").apply(
        Changes(
            engine(house, "two").applied_seq,
            np.zeros(0, np.int64),
            with_stranger,
            np.ones((1, DIM), np.float32),
        )
    )
    findings, _ = verify(house, "two")
    assert [found.check for found in findings] == ["index_keys"]
    assert "no item has" in findings[0].message


def test_another_vector_in_the_index_is_found(house: House) -> None:
    sealed(house, "one")
    [part] = engine(house, "one")._view.parts
    folder = house.store.directory / "indexes" / str(house.library.collection("one").number)
    [rows] = folder.glob("segment-*/rows.bin")
    data = bytearray(rows.read_bytes())
    data[-3] ^= 1  # the last number of the last vector, mapped into the server
    with rows.open("r+b") as file:
        file.write(data)
    findings, _ = verify(house, "one")
    assert [found.check for found in findings] == ["index_files", "index_vectors"]
    assert findings[1].item_id == f"one-{COUNT - 1}"
    assert len(part.segment.keys) == COUNT


@pytest.mark.parametrize("name", ["manifest.json", "segment-*/rows.bin", "segment-*/index.bin"])
def test_damaged_files_of_an_index_are_found(house: House, name: str) -> None:
    sealed(house, "two")
    folder = house.store.directory / "indexes" / str(house.library.collection("two").number)
    [file] = folder.glob(name)
    file.rename(file.with_suffix(".gone"))
    findings, _ = verify(house, "two")
    assert [found.check for found in findings] == ["index_files"]


def test_items_that_do_not_find_themselves_are_counted(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = house.library.collection("one").engine
    search = engine.search

    def lame(*args: object) -> object:
        hits = search(*args)  # type: ignore[arg-type]
        hits.ids[0, 0] = hits.ids[0, 1]
        return hits

    monkeypatch.setattr(engine, "search", lame)
    [found], summary = verify(house, "one")
    assert found.check == "reachability"
    assert "lookalike rebuild one" in found.message
    assert summary.probed - summary.reached == -(-COUNT // 32)


def test_searches_and_writes_go_on_and_make_no_findings(house: House) -> None:
    stop = threading.Event()
    failed: list[Exception] = []

    def churn() -> None:
        rng = np.random.default_rng(1)
        try:
            for n in range(10_000):
                if stop.is_set():
                    return
                i = int(rng.integers(COUNT))
                house.put(
                    [NewItem(f"one-{i}", vector=rng.normal(size=DIM).astype(np.float32))], "one"
                )
                if n % 3 == 0:
                    house.library.collection("one").delete(
                        [f"one-{(i + 1) % COUNT}"], dry_run=False
                    )
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(3):
            findings, _ = verify(house, "one")
            assert findings == []
    finally:
        stop.set()
        thread.join()
    assert not failed


def test_one_check_runs_at_a_time_and_ends_when_its_caller_goes(house: House) -> None:
    verifier = Verifier(house.library, house.store)
    harm(house, "UPDATE items SET seq = seq + 1 WHERE id = 'one-1'")
    first = verifier.verify("", -1)
    events: list[Event] = [next(first)]
    with pytest.raises(Overloaded):
        next(verifier.verify("", -1))
    first.close()
    events += verifier.verify("", 0)
    assert isinstance(events[-1], Summary)


def test_a_damaged_item_is_left_out_and_mended_by_storing_it_anew(house: House) -> None:
    harm(house, "UPDATE items SET metadata = '{\"a\":1}' WHERE id = 'one-7'")
    collection = house.library.collection("one")
    with pytest.raises(DataLoss, match="one-7"):
        collection.get("one-7", View.BASIC)
    collection.wait_level(5)
    assert collection.info().damaged_count == 1
    assert collection.info().item_count == COUNT - 1
    assert engine(house, "one").stats().count == COUNT - 1
    vector = np.ones(DIM, np.float32)
    house.put([NewItem("one-7", vector=vector)], "one")
    assert collection.info().damaged_count == 0
    assert collection.info().item_count == COUNT
    assert verify(house, "one")[0] == []
