"""What is damaged keeps nothing else from being opened, and is refused by name."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import apsw
import numpy as np
import pytest

from house import House, open_house
from lookalike.backends.errors import DataLoss
from lookalike.backends.types import IndexSpec
from lookalike.server.domain import (
    CollectionConfig,
    Condition,
    Filter,
    NewItem,
    SearchOptions,
    Test,
    VectorQuery,
    View,
)
from lookalike.server.store import _damage

DIM = 8
COUNT = 60


def rows(name: str) -> np.ndarray:
    return np.random.default_rng(len(name)).normal(size=(COUNT, DIM)).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two collections, closed, without snapshots."""
    with open_house(tmp_path) as house:
        for name in ("bad", "good"):
            fields = ("word",) if name == "bad" else ()
            config = CollectionConfig(
                name, model="none", dimension=DIM, index=IndexSpec("exact"), indexed_fields=fields
            )
            house.library.create_collection(config, exist_ok=False)
            items = [
                NewItem(f"{name}-{i}", vector=row, metadata={"word": f"w{i}", "n": i})
                for i, row in enumerate(rows(name))
            ]
            house.put(items, name, bulk=True)
    for manifest in tmp_path.glob("indexes/*/manifest.json"):
        manifest.unlink()
    return tmp_path


def harm(data: Path, sql: str) -> None:
    db = sqlite3.connect(data / "store.db")
    db.execute(sql)
    db.commit()
    db.close()


def found(house: House, name: str, row: np.ndarray, where: Filter | None = None) -> list[str]:
    options = SearchOptions(limit=COUNT, filter=where or Filter())
    answer = house.searcher.search(name, VectorQuery(row), options, deadline=None)
    return [match.item.id for match in answer.matches]


HARMS = {
    "row": "UPDATE items SET digest = x'00' WHERE id = 'bad-7'",
    "row in an index": "UPDATE items SET metadata = '{\"word\":\"w8\"}' WHERE id = 'bad-7'",
    "metadata": "UPDATE items SET metadata = '{' WHERE id = 'bad-7'",
    "vector": "UPDATE vectors SET vector = zeroblob(32) WHERE key = 8",
    "no vector": "DELETE FROM vectors WHERE key = 8",
}


@pytest.mark.parametrize("harmed", HARMS)
def test_the_rest_of_a_collection_opens(data: Path, harmed: str) -> None:
    harm(data, HARMS[harmed])
    with open_house(data) as house:
        bad, good = house.library.collection("bad"), house.library.collection("good")
        assert (bad.info().item_count, bad.info().damaged_count) == (COUNT - 1, 1)
        assert (good.info().item_count, good.info().damaged_count) == (COUNT, 0)
        stats = bad.info().stats
        assert stats is not None
        assert stats.count == COUNT - 1
        for view in View:
            with pytest.raises(DataLoss, match="bad-7"):
                bad.get("bad-7", view)
        assert "bad-7" not in found(house, "bad", rows("bad")[7])
        assert len(found(house, "bad", rows("bad")[7])) == COUNT - 1
        assert len(found(house, "good", rows("good")[7])) == COUNT
        for word in ("w7", "w8"):
            where = Filter(all=(Condition("word", Test.EQ, word),))
            expected = [f"bad-{word[1:]}"] if word == "w8" else []
            assert found(house, "bad", rows("bad")[7], where) == expected
            assert bad.count(where) == len(expected)
        where = Filter(all=(Condition("n", Test.LT, 9.0),))
        assert bad.count(where) == 8
        assert bad.delete_where(where, dry_run=False) == 8
        with pytest.raises(DataLoss):
            bad.get("bad-7", View.ID)


@pytest.mark.parametrize("harmed", HARMS)
@pytest.mark.parametrize("how", ["delete", "upsert"])
def test_deleting_or_storing_it_anew_mends_it(data: Path, harmed: str, how: str) -> None:
    harm(data, HARMS[harmed])
    for _ in range(2):
        with open_house(data) as house:
            bad = house.library.collection("bad")
            if how == "delete":
                bad.delete(["bad-7"], dry_run=False)
            else:
                item = NewItem("bad-7", vector=rows("bad")[7], metadata={"word": "w7", "n": 7})
                house.put([item], "bad")
            left = COUNT - (how == "delete")
            assert (bad.info().item_count, bad.info().damaged_count) == (left, 0)
            assert len(found(house, "bad", rows("bad")[7])) == left
            assert ("bad-7" in found(house, "bad", rows("bad")[7])) == (how == "upsert")


@pytest.mark.parametrize("how", ["delete", "upsert"])
def test_an_item_that_lost_its_name_is_refused_by_it_and_mended_by_it(data: Path, how: str) -> None:
    """The row says another id than the index that SQLite keeps of them."""
    database = bytearray((data / "store.db").read_bytes())
    # Of the table, not of the index: metadata follows. There may be old copies on free pages.
    for place in list(re.finditer(rb'bad-17.{1,16}"n":17', bytes(database), re.DOTALL)):
        database[place.start()] = ord("x")
    (data / "store.db").write_bytes(database)
    with open_house(data) as house:
        bad = house.library.collection("bad")
        assert (bad.info().item_count, bad.info().damaged_count) == (COUNT - 1, 1)
        for name in ("bad-17", "xad-17"):
            with pytest.raises(DataLoss, match=name):
                bad.get(name, View.ID)
        if how == "delete":
            assert bad.delete(["bad-17"], dry_run=True) == 1
            assert bad.delete(["bad-17"], dry_run=False) == 1
        else:
            house.put([NewItem("bad-17", vector=rows("bad")[17])], "bad")
        left = COUNT - (how == "delete")
        assert (bad.info().item_count, bad.info().damaged_count) == (left, 0)
        assert len(found(house, "bad", rows("bad")[17])) == left


def test_a_collection_that_is_more_damage_than_items_says_so(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_damage, "MOST", 20)
    harm(data, "UPDATE items SET seq = seq + 1 WHERE id LIKE 'bad-%'")
    with open_house(data) as house:
        with pytest.raises(DataLoss, match=r"'bad' cannot be opened.*restore"):
            found(house, "bad", rows("bad")[0])
        assert len(found(house, "good", rows("good")[0])) == COUNT


def test_damage_that_is_found_by_a_search_is_left_out_at_once(data: Path) -> None:
    with open_house(data) as house:
        bad = house.library.collection("bad")
        db = apsw.Connection(str(data / "store.db"))
        db.set_busy_timeout(5000)
        db.execute("UPDATE items SET seq = seq + 1 WHERE id = 'bad-7'")
        db.close()
        ids = found(house, "bad", rows("bad")[7])
        assert sorted(ids) == sorted(f"bad-{i}" for i in range(COUNT) if i != 7)
        assert bad.info().damaged_count == 1
        stats = bad.info().stats
        assert stats is not None
        assert stats.count == COUNT - 1
