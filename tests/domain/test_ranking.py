from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.backends.types import Metric, Vectors, normalize
from lookalike.server.queries import Span, Work, shares_of
from lookalike.server.ranking import cap_groups, closeness, diversify, fold, group_key

seeds = st.integers(0, 2**32 - 1)
metrics = st.sampled_from(list(Metric))
diversities = st.floats(0, 1)


def candidates(seed: int, count: int, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Return scores, best first, and vectors: a few directions, many of them twice."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, count // 3), 4))
    around = centres[rng.integers(0, len(centres), count)] + rng.normal(0, 0.2, (count, 4))
    vectors: Vectors = around.astype(np.float32)
    if metric is Metric.COSINE:
        vectors = normalize(vectors)
    query = vectors[0] + rng.normal(0, 0.3, 4).astype(np.float32)
    scores = closeness(vectors, normalize(query[np.newaxis])[0], metric)
    order = np.argsort(-scores, kind="stable")
    return scores[order], vectors[order]


def definition(one: np.ndarray, other: np.ndarray, metric: Metric) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(-((a - b) ** 2).sum()) if metric is Metric.L2 else float(a @ b)


# ------------------------------------------------------------------- variety


@settings(max_examples=60, deadline=None, print_blob=True)
@given(seeds, st.integers(1, 25), st.integers(1, 30), metrics, diversities)
def test_each_choice_is_the_best_by_the_formula(
    seed: int, count: int, wanted: int, metric: Metric, diversity: float
) -> None:
    scores, vectors = candidates(seed, count, metric)
    chosen = diversify(scores, vectors, metric, diversity, wanted)
    assert len(chosen) == len(set(chosen)) == min(count, wanted)
    assert chosen[0] == 0

    def objective(position: int, before: list[int]) -> float:
        closest = max(definition(vectors[position], vectors[i], metric) for i in before)
        return (1 - diversity) * float(scores[position]) - diversity * closest

    for step in range(1, len(chosen)):
        before = chosen[:step]
        left = [i for i in range(count) if i not in before]
        best = max(objective(i, before) for i in left)
        assert objective(chosen[step], before) >= best - 1e-4


@settings(max_examples=60, deadline=None, print_blob=True)
@given(seeds, st.integers(1, 25), st.integers(1, 30), metrics)
def test_without_variety_the_order_is_by_score(
    seed: int, count: int, wanted: int, metric: Metric
) -> None:
    scores, vectors = candidates(seed, count, metric)
    plain = list(range(min(count, wanted)))
    assert diversify(scores, vectors, metric, 0.0, wanted) == plain


@settings(max_examples=40, deadline=None, print_blob=True)
@given(seeds, st.integers(2, 25), metrics, diversities)
def test_asking_for_one_more_adds_one_and_changes_none(
    seed: int, count: int, metric: Metric, diversity: float
) -> None:
    scores, vectors = candidates(seed, count, metric)
    whole = diversify(scores, vectors, metric, diversity, count)
    for wanted in range(1, count):
        assert diversify(scores, vectors, metric, diversity, wanted) == whole[:wanted]


@settings(max_examples=60, deadline=None, print_blob=True)
@given(seeds, st.integers(2, 25), metrics)
def test_more_variety_never_takes_a_second_one_closer_to_the_first(
    seed: int, count: int, metric: Metric
) -> None:
    scores, vectors = candidates(seed, count, metric)
    near = []
    for diversity in np.linspace(0, 1, 11):
        second = diversify(scores, vectors, metric, float(diversity), 2)[1]
        near.append(definition(vectors[second], vectors[0], metric))
    assert all(after <= before + 1e-4 for before, after in itertools.pairwise(near))


def test_full_variety_leaves_twins_for_last() -> None:
    vectors = normalize(np.array([[1, 0], [1, 0.001], [1, 0.002], [0.5, 1], [0, 1]], np.float32))
    scores = vectors @ np.array([1, 0], np.float32)
    assert diversify(scores, vectors, Metric.COSINE, 0.0, 3) == [0, 1, 2]
    assert diversify(scores, vectors, Metric.COSINE, 0.7, 2) == [0, 4]
    assert diversify(scores, vectors, Metric.COSINE, 1.0, 3) == [0, 4, 3]


# -------------------------------------------------------------------- groups


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=40), st.integers(1, 5))
def test_a_group_keeps_its_best_and_never_more_than_its_limit(
    keys: list[str | None], most: int
) -> None:
    kept = cap_groups(keys, most)
    assert kept == sorted(kept)
    for key in ("a", "b", "c"):
        members = [i for i, found in enumerate(keys) if found == key]
        assert [i for i in kept if keys[i] == key] == members[:most]
    loners = [i for i, found in enumerate(keys) if found is None]
    assert [i for i in kept if keys[i] is None] == loners


def test_values_are_the_same_only_if_their_types_are() -> None:
    values = [1.0, "1", "1.0", True, "true", "True", [1.0], {"a": 1.0}, False, 0.0, "", []]
    keys = [group_key({"f": value}, "f") for value in values]
    assert len(set(keys)) == len(values)
    assert None not in keys
    assert group_key({"f": -0.0}, "f") == group_key({"f": 0.0}, "f")


@pytest.mark.parametrize(
    ("metadata", "path", "there"),
    [
        ({"a": {"b": 1.0}}, "a.b", True),
        ({"a": {"b": 1.0}}, "a", True),
        ({"a": {"b": 1.0}}, "b", False),
        ({"a": "b"}, "a.b", False),
        ({"a": None}, "a", False),
        ({}, "a", False),
    ],
)
def test_a_field_is_found_as_conditions_find_it(
    metadata: dict[str, object], path: str, there: bool
) -> None:
    assert (group_key(metadata, path) is not None) is there


# ------------------------------------------------------------------- folding


@settings(max_examples=60, deadline=None, print_blob=True)
@given(seeds, st.integers(0, 40), st.floats(0.5, 0.999))
def test_folds_share_out_all_and_hold_only_what_is_near(seed: int, count: int, near: float) -> None:
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    vectors = normalize(rng.normal(size=(count, 3)).astype(np.float32))
    folds = fold(vectors, lambda _, __, cosines: cosines >= near, count)
    assert fold(vectors, lambda _, __, cosines: cosines >= near, 3) == folds[:3]
    assert sorted(i for one in folds for i in one) == list(range(count))
    assert all(one == sorted(one) for one in folds)
    firsts = [one[0] for one in folds]
    assert firsts == sorted(firsts)
    for first, *others in folds:
        assert all(vectors[i] @ vectors[first] >= near - 1e-6 for i in others)
        # what is near an earlier first was taken by it
        assert all(vectors[i] @ vectors[first] < near + 1e-6 for i in firsts if i > first)


def test_who_is_asked_about_likeness_gets_the_cosines_of_those_left() -> None:
    vectors = normalize(np.array([[1, 0], [0, 1], [1, 1]], np.float32))
    asked = []

    def same(first: int, others: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        asked.append((first, others.tolist(), [round(float(c), 3) for c in cosines]))
        return cosines > 0.7

    assert fold(vectors, same, 9) == [[0, 2], [1]]
    assert asked == [(0, [1, 2], [0.0, 0.707]), (1, [], [])]


# ---------------------------------------------------------------------- time


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(list(Work)), st.integers(0, 50), st.integers(0, 9)), max_size=9
    )
)
def test_no_moment_is_counted_twice(raw: list[tuple[Work, int, int]]) -> None:
    spans = [Span(work, first, first + length) for work, first, length in raw]
    seconds: dict[int, Work] = {}
    for span in spans:
        for second in range(int(span.began), int(span.ended)):
            seconds[second] = max(span.work, seconds.get(second, Work.FETCH))
    shares = shares_of(spans)
    for work in Work:
        assert shares[work] == pytest.approx(1e3 * list(seconds.values()).count(work))
