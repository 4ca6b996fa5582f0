"""A picture is embedded once, whatever its id and its collection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from house import House, open_house
from lookalike.backends.types import normalize
from lookalike.server.domain import (
    CollectionConfig,
    ExifMode,
    ImageQuery,
    NewItem,
    Outcome,
    Retention,
    SearchOptions,
    View,
)
from made_pictures import jpeg


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as house:
        yield house


def embedded(house: House) -> int:
    return sum(stats.items for stats in house.models.stats().values())


def stored(house: House, collection: str, item_id: str) -> np.ndarray:
    where = house.library.collection(collection)
    return where.get(item_id, View.FULL).vector  # type: ignore[return-value]


def test_the_same_bytes_under_other_ids_cost_one_model_call(house: House) -> None:
    house.put([NewItem("first", jpeg(1))])
    before = embedded(house)
    results = house.put([NewItem(f"copy {i}", jpeg(1)) for i in range(5)], bulk=True)
    assert {r.outcome for r in results} == {Outcome.CREATED}
    assert embedded(house) == before
    assert house.vectors.reused == 5
    assert np.array_equal(stored(house, "", "first"), stored(house, "", "copy 3"))


def test_copies_that_come_at_the_same_time_are_embedded_once(house: House) -> None:
    items = [NewItem(f"{i} {copy}", jpeg(i)) for copy in range(8) for i in range(4)]
    results = house.put(items, bulk=True)
    assert {r.outcome for r in results} == {Outcome.CREATED}
    assert embedded(house) == 4


@pytest.mark.parametrize("retention", list(Retention), ids=lambda r: str(r.value))
def test_a_known_picture_is_stored_in_another_collection_as_a_new_one_is(
    house: House, retention: Retention
) -> None:
    for name in ("fresh", "known"):
        config = CollectionConfig(name, model="builtin", retention=retention)
        house.library.create_collection(config, exist_ok=False)
        house.put([NewItem("a", jpeg(7))], name, exif=ExifMode.BASIC)
    assert embedded(house) == 1
    fresh, known = (
        house.library.collection(name).get("a", View.FULL) for name in ("fresh", "known")
    )
    assert fresh.image == known.image
    assert fresh.metadata == known.metadata
    for original in (False, True):
        kept = [
            house.library.collection(name).image("a", original).data
            for name in ("fresh", "known")
            if retention is Retention.ORIGINAL or (retention is not Retention.NONE and not original)
        ]
        assert len(set(kept)) <= 1


def test_another_model_embeds_the_picture_itself(house: House, tmp_path: Path) -> None:
    house.put([NewItem("a", jpeg(1))])
    vectors = house.vectors
    loaded = house.models.get("builtin")
    sha256 = _sha256(jpeg(1))
    assert vectors.find(loaded, sha256) is not None
    loaded.space = "another/1"
    assert vectors.find(loaded, sha256) is None


def test_a_search_with_a_known_picture_needs_no_model(house: House) -> None:
    house.put([NewItem("a", jpeg(1)), NewItem("b", jpeg(2))])
    before = embedded(house)
    found = house.searcher.search("", ImageQuery(jpeg(2)), SearchOptions(limit=1), deadline=None)
    assert found.matches[0].item.id == "b"
    assert found.matches[0].score > 0.99999
    assert embedded(house) == before


def test_what_was_known_is_known_after_a_restart(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem("a", jpeg(1))])
        first = stored(house, "", "a")
    with open_house(tmp_path) as house:
        house.put([NewItem("b", jpeg(1))])
        assert embedded(house) == 0
        assert np.array_equal(stored(house, "", "b"), first)


def test_a_known_vector_is_brought_to_length_one_as_a_new_one_is(house: House) -> None:
    house.put([NewItem("a", jpeg(1))])
    house.put([NewItem("b", jpeg(1))])
    kept = stored(house, "", "b")
    assert np.allclose(kept, normalize(kept[np.newaxis])[0], atol=1e-6)


def test_a_picture_above_the_limit_of_today_is_not_let_in_as_known(house: House) -> None:
    house.put([NewItem("a", jpeg(1))])
    object.__setattr__(house.vectors, "_most_pixels", 10)
    assert house.vectors.find(house.models.get("builtin"), _sha256(jpeg(1))) is None


def test_a_picture_that_fails_is_not_known(house: House) -> None:
    broken = jpeg(1)[:200]
    for _ in range(2):
        assert house.put([NewItem("a", broken)])[0].outcome is Outcome.FAILED
    assert house.vectors.reused == 0


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
