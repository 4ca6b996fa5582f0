from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from copied_pictures import CHANGES, altered, things
from house import House, open_house
from lookalike.backends.errors import CollectionNotFound
from lookalike.backends.types import normalize
from lookalike.server.collection import Collection
from lookalike.server.domain import (
    CollectionConfig,
    Condition,
    Filter,
    NewItem,
    Retention,
    Test,
)
from lookalike.server.duplicates import Found, Kind, Member
from lookalike.server.judging import look_at
from lookalike.server.looks import Look
from lookalike.server.pictures import Pictures
from made_pictures import encoded

EVERYTHING = Filter()
SAME = Kind.SAME_PICTURE


def picture(seed: int) -> bytes:
    return encoded(things(seed), quality=90)


def find(
    house: House, kind: Kind = SAME, where: Filter = EVERYTHING, collection: str = ""
) -> list[Found]:
    return list(house.duplicates.find(collection, kind, where))


def groups(found: list[Found]) -> list[tuple[Member, ...]]:
    return [one.members for one in found if one.members]


def ids(found: list[Found]) -> set[frozenset[str]]:
    return {frozenset(m.item.id for m in members) for members in groups(found)}


def spread(house: House, rows: np.ndarray, pictures: list[bytes | None], **config: object) -> None:
    """Store items 0, 1, 2, ... with vectors and pictures of the test's choice, in "v"."""
    made = CollectionConfig("v", model="none", dimension=rows.shape[1], **config)  # type: ignore[arg-type]
    house.library.create_collection(made, exist_ok=True)
    for i, (row, data) in enumerate(zip(rows, pictures, strict=True)):
        house.put([NewItem(f"{i}", image=data, vector=row)], "v")


def random_rows(count: int, seed: int, dim: int = 16) -> np.ndarray:
    print(f"seed {seed}")
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return normalize(rows.astype(np.float32))


def test_planted_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        items = [NewItem(f"{i}", image=picture(i)) for i in range(100)]
        # Without their colours these pictures, confetti all of them, are other confetti.
        changes = [name for name in CHANGES if name not in ("larger", "grey")]
        for i in range(40):
            copy = altered(things(i), changes[i % len(changes)], i)
            items.append(NewItem(f"copy of {i}", image=copy))
        house.put(items, bulk=True)
        found = find(house)
    wanted = {frozenset((f"{i}", f"copy of {i}")) for i in range(40)}
    assert not ids(found) - wanted
    assert len(wanted - ids(found)) <= 2
    for first, *others in groups(found):
        assert first.kind is None
        assert [m.kind for m in others] == [SAME]


def test_the_first_is_the_largest_picture_then_the_oldest_item(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem("first", image=altered(things(1), "smaller"))])
        house.put([NewItem("old", image=altered(things(1), "grey"))])
        house.put([NewItem("young", image=altered(things(1), "saved anew"))])
        house.put([NewItem("large", image=altered(things(1), "larger"))])
        [members] = groups(find(house))
        assert members[0].item.id == "large"
        house.library.collection("").delete(["large"], dry_run=False)
        [members] = groups(find(house))
        assert members[0].item.id == "old"


def test_each_kind_includes_those_before_it(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        rows = random_rows(80, 1)
        rows[1] = rows[2] = rows[3] = rows[0]
        pictures: list[bytes | None] = [picture(i) for i in range(80)]
        pictures[1] = pictures[0]
        pictures[2] = altered(things(0), "cropped")
        spread(house, rows, pictures)
        exact, same, near = (find(house, kind, collection="v") for kind in Kind)
    assert ids(exact) == {frozenset("01")}
    assert ids(same) == {frozenset("012")}
    assert ids(near) == {frozenset("0123")}
    [members] = groups(near)
    assert members[0].item.id == "0"
    kinds = {m.item.id: m.kind for m in members[1:]}
    assert kinds == {"1": Kind.EXACT, "2": SAME, "3": Kind.NEAR}
    assert all(m.score == pytest.approx(1.0, abs=1e-5) for m in members[1:])


def test_the_same_file_is_found_however_far_its_vectors_are(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        rows = random_rows(60, 2)
        rows[7] = -rows[3]
        pictures: list[bytes | None] = [None] * 60
        pictures[3] = pictures[7] = pictures[9] = picture(3)
        pictures[10] = pictures[11] = picture(4)
        spread(house, rows, pictures)
        [far, _] = groups(find(house, Kind.EXACT, collection="v"))
        scores = {int(m.item.id): m.score for m in far[1:]}
        assert scores == pytest.approx({7: -1.0, 9: float(rows[3] @ rows[9])}, abs=1e-5)
        for kind in Kind:
            assert {frozenset(("3", "7", "9")), frozenset(("10", "11"))} == ids(
                find(house, kind, collection="v")
            )


def test_copies_of_one_picture_are_one_group(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        items = [NewItem(f"{i}", image=picture(i)) for i in range(60)]
        for i, change in enumerate(CHANGES):
            items.append(NewItem(f"copy {i}", image=altered(things(5), change, i)))
        house.put(items, bulk=True)
        [members] = groups(find(house))
    assert {m.item.id for m in members} == {"5", *(f"copy {i}" for i in range(len(CHANGES)))}


def test_only_items_that_pass_the_filter_count(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        items = [NewItem(f"{i}", image=picture(i), metadata={"shelf": "a"}) for i in range(55)]
        items += [
            NewItem("darker", image=altered(things(1), "darker"), metadata={"shelf": "a"}),
            NewItem("b", image=altered(things(1), "cropped"), metadata={"shelf": "b"}),
            NewItem("b too", image=picture(2), metadata={"shelf": "b"}),
        ]
        house.put(items, bulk=True)
        where = Filter(all=(Condition("shelf", Test.EQ, "a"),))
        found = find(house, where=where)
        assert ids(found) == {frozenset(("1", "darker"))}
        assert {one.total for one in found} == {56}
        assert ids(find(house)) == {frozenset(("1", "darker", "b")), frozenset(("2", "b too"))}


def test_nearer_items_that_do_not_pass_stand_in_no_ones_way(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        rows = random_rows(70, 4)
        rows[1:7] = rows[0]
        rows[7] = normalize(np.float32(5) * rows[:1] + rows[8:9])[0]
        house.library.create_collection(
            CollectionConfig("v", model="none", dimension=rows.shape[1]), exist_ok=False
        )
        for i, row in enumerate(rows):
            data = altered(things(6), "grey") if i == 7 else picture(i)
            shelf = "other" if i < 6 else "mine"
            house.put([NewItem(f"{i}", image=data, vector=row, metadata={"shelf": shelf})], "v")
        where = Filter(all=(Condition("shelf", Test.EQ, "mine"),))
        assert ids(find(house, where=where, collection="v")) == {frozenset("67")}


def test_without_pictures_only_files_and_vectors_tell(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        rows = random_rows(70, 3)
        rows[5] = rows[4]
        pictures = [picture(i) for i in range(70)]
        pictures[9] = altered(things(8), "grey")
        rows[9] = rows[8]
        pictures[20] = pictures[21]
        spread(house, rows, [*pictures], retention=Retention.NONE)
        assert ids(find(house, collection="v")) == {frozenset(("20", "21"))}
        assert ids(find(house, Kind.NEAR, collection="v")) == {
            frozenset(("4", "5")),
            frozenset(("8", "9")),
            frozenset(("20", "21")),
        }


def test_empty_and_tiny_collections_have_answers(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.library.create_collection(CollectionConfig("e"), exist_ok=False)
        for kind in Kind:
            assert find(house, kind, collection="e")[-1] == Found(0, 0)
        house.put([NewItem("a", image=picture(1)), NewItem("b", image=altered(things(1), "grey"))])
        assert ids(find(house)) == {frozenset("ab")}
        with pytest.raises(CollectionNotFound):
            house.duplicates.find("nowhere", SAME, EVERYTHING)


def test_progress_rises_to_the_end_and_is_told_in_measure(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        items = [NewItem(f"{i}", image=picture(i // 2)) for i in range(300)]
        house.put(items, bulk=True)
        started = time.monotonic()
        found = find(house)
        seconds = time.monotonic() - started
    assert len(groups(found)) == 150
    told = [one for one in found if not one.members]
    assert [one.done for one in told] == sorted(one.done for one in told)
    assert (told[0].done, told[-1].done) == (0, 300)
    assert len(told) <= 2 + seconds / 0.25
    ends = [bool(one.members) for one in found]
    assert all(a <= b for a, b in itertools.pairwise(ends))


def test_each_picture_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    look, counting = look_at, threading.Lock()

    def watched(collection: Collection, item_id: str) -> Look | None:
        with counting:
            read.append(item_id)
        return look(collection, item_id)

    monkeypatch.setattr("lookalike.server.duplicates.look_at", watched)
    with open_house(tmp_path) as house:
        items = [NewItem(f"{i}", image=picture(i)) for i in range(30)]
        items += [NewItem(f"anew {i}", image=altered(things(i), "saved anew")) for i in range(30)]
        house.put(items, bulk=True)
        assert len(groups(find(house))) > 20
    assert len(read) == len(set(read)) > 30


def test_who_closes_it_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", image=picture(i)) for i in range(120)], bulk=True)
        monkeypatch.setattr("lookalike.server.duplicates._TOLD_S", 0.0)
        asked, submit, counting = 0, Pictures.submit, threading.Lock()

        def counted(self: Pictures, call: object, **options: object) -> object:
            nonlocal asked
            with counting:
                asked += 1
            return submit(self, call, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Pictures, "submit", counted)
        hunt = house.duplicates.find("", SAME, EVERYTHING)
        for _ in range(4):
            next(hunt)
        hunt.close()  # type: ignore[attr-defined]
        at_close = asked
        assert at_close < 60
        time.sleep(0.2)
        assert asked == at_close


def test_items_that_go_meanwhile_are_not_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", image=picture(i // 3)) for i in range(90)], bulk=True)
        monkeypatch.setattr("lookalike.server.duplicates._BATCH", 16)
        monkeypatch.setattr("lookalike.server.duplicates._TOLD_S", 0.0)
        hunt = house.duplicates.find("", SAME, EVERYTHING)
        next(hunt)
        gone = {"0", "50", "80", *(f"{i}" for i in range(30, 33)), "60", "61"}
        house.library.collection("").delete(sorted(gone), dry_run=False)
        found = list(hunt)
    members = {m.item.id for group in groups(found) for m in group}
    assert not members & gone
    assert frozenset(("1", "2")) in ids(found)
    assert frozenset(("3", "4", "5")) in ids(found)
    assert all(len(group) > 1 for group in groups(found))
