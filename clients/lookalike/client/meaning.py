"""What a match means, in words: by the server's judgement, or roughly by its cosine."""

from __future__ import annotations

from typing import Protocol

_TIERS = {
    "same_picture": "the same picture",
    "same_scene": "the same scene or thing",
    "similar": "similar",
    "weak": "weak, others score as high",
}
_DUPLICATES = {
    "": "worth keeping",
    "exact": "the same file",
    "same_picture": "the same picture",
    "near": "nearly the same",
}
_BANDS = (
    (0.999, "the same picture"),
    (0.9, "nearly the same picture"),
    (0.7, "very similar"),
    (0.5, "similar"),
    (0.3, "somewhat alike"),
    (-1.0, "hardly alike"),
)
_RAREST = 1e-9
"""Rarer chances than this are all told alike: they are extrapolated."""
RULE_OF_THUMB = (
    "Scores are cosines, 1 = equal. The words are a rule of thumb for raw cosines of CLIP: how "
    "high unrelated pictures score depends on the embedder and on the collection. A judged "
    "search measures it."
)
JUDGED = (
    "The words are the server's judgement. “By chance” is the share of unrelated pictures of "
    "this collection that score as high; for the same picture the pixels were compared."
)


class Judged(Protocol):
    """A hit, as far as this module looks at it."""

    @property
    def score(self) -> float: ...
    @property
    def tier(self) -> str: ...


def meaning_of(score: float) -> str:
    """Return the band of a cosine score between two pictures, in words.

    The bands (0.9, 0.7, 0.5) are the usual rule of thumb for raw cosines of CLIP's
    embeddings of pictures. They hold neither for a text against a picture nor for
    metrics other than cosine, and for other embedders hardly.
    """
    return next((words for least, words in _BANDS if score >= least), _BANDS[-1][1])


def meaning_of_tier(tier: str) -> str:
    """Return what the server found a match to be worth; "" if it did not judge it."""
    return _TIERS.get(tier, tier)


def meaning_of_hit(hit: Judged, *, is_cosine: bool) -> str:
    """Return what a hit means: by its tier if it has one, else by its cosine's band."""
    if hit.tier:
        return meaning_of_tier(hit.tier)
    return meaning_of(hit.score) if is_cosine else ""


def meaning_of_duplicate(kind: str) -> str:
    """Return what a member of a group of duplicates is to the first of it."""
    return _DUPLICATES.get(kind, kind)


def chance_of(rate: float | None) -> str:
    """Return a false-match rate as people say it: "1 in 12,000"; "" for None."""
    if rate is None:
        return ""
    if rate < _RAREST:
        return "below 1 in a billion"
    if rate > 2 / 3:
        return "nearly all"
    ratio = 1 / rate
    digits = len(str(int(ratio))) - 2  # all but the first two are rounded
    return f"1 in {round(ratio, -digits if digits > 0 else 0):,.0f}"
