"""What a cosine score of pictures means, roughly, in words."""

from __future__ import annotations

_BANDS = (
    (0.999, "the same picture"),
    (0.9, "nearly the same picture"),
    (0.7, "very similar"),
    (0.5, "similar"),
    (0.3, "somewhat alike"),
    (-1.0, "hardly alike"),
)
RULE_OF_THUMB = (
    "Scores are cosines, 1 = equal. The words are a rule of thumb: how high unrelated pictures "
    "score depends on the embedder and on the collection."
)


def meaning_of(score: float) -> str:
    """Return the band of a cosine score between two pictures, in words.

    The bands (0.9, 0.7, 0.5) are the usual rule of thumb for embeddings of pictures.
    They hold neither for a text against a picture nor for metrics other than cosine.
    """
    return next((words for least, words in _BANDS if score >= least), _BANDS[-1][1])
