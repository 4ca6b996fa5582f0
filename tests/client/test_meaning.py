from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.client import Hit, Tier
from lookalike.client.meaning import (
    RULE_OF_THUMB,
    chance_of,
    meaning_of_duplicate,
    meaning_of_hit,
    meaning_of_tier,
)


def test_words_come_from_the_tier_where_there_is_one() -> None:
    judged = Hit("a", score=0.95, tier=Tier.WEAK)
    assert meaning_of_hit(judged, is_cosine=True).startswith("weak")
    assert meaning_of_hit(judged, is_cosine=False).startswith("weak")
    raw = Hit("a", score=0.95)
    assert meaning_of_hit(raw, is_cosine=True) == "nearly the same picture"
    assert meaning_of_hit(raw, is_cosine=False) == ""


def test_the_bands_are_said_to_be_a_rule_of_thumb_for_clip() -> None:
    assert "rule of thumb" in RULE_OF_THUMB
    assert "CLIP" in RULE_OF_THUMB


@pytest.mark.parametrize("tier", Tier)
def test_every_tier_has_words(tier: Tier) -> None:
    assert bool(meaning_of_tier(tier)) == bool(tier)
    assert "_" not in meaning_of_tier(tier)


@pytest.mark.parametrize("kind", ["", "exact", "same_picture", "near", "unknown"])
def test_every_kind_of_duplicate_has_words(kind: str) -> None:
    assert meaning_of_duplicate(kind)
    assert "_" not in meaning_of_duplicate(kind)


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (None, ""), (1.0, "nearly all"), (0.5, "1 in 2"), (0.4, "1 in 2"), (0.1, "1 in 10"),
        (0.01, "1 in 100"), (1 / 777, "1 in 780"), (1 / 12_345, "1 in 12,000"),
        (1 / 1_949_000, "1 in 1,900,000"), (0.0, "below 1 in a billion"),
    ],
)  # fmt: skip
def test_a_chance_is_said_as_people_say_it(rate: float | None, said: str) -> None:
    assert chance_of(rate) == said


@given(st.floats(1e-9, 2 / 3))
def test_a_chance_is_off_by_a_tenth_at_most_below_one_in_ten(rate: float) -> None:
    said = int(chance_of(rate).removeprefix("1 in ").replace(",", ""))
    assert said == pytest.approx(1 / rate, rel=0.06 if rate < 0.1 else 0.34)
