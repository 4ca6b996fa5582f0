"""What walks draw at random: names, ids, vectors, metadata, kinds of index."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from lookalike.backends.registry import indexes
from model.drivers import SPECS
from model.oracle import Metadata, Vector

DIM = 6
PICTURES = 8
CROWDS = [20, 90, 400, 1300, 2700]
"""Items at once; from about 1000 on lists are searched, from about 2400 graphs."""


def point(number: int) -> Vector:
    """Return one of many vectors, of which the first lie on a lattice and are often equal."""
    rng = np.random.default_rng(number)
    if number < 30:
        vector = rng.integers(-2, 3, DIM).astype(np.float32)
        return vector if vector.any() else np.ones(DIM, np.float32)
    return rng.standard_normal(DIM).astype(np.float32)


names = st.sampled_from(["a", "", "b", "a"])
ids = st.sampled_from([*(f"item-{i}" for i in range(9)), "ä", "z/1", "Z"])
somebody = st.one_of(st.integers(0, 10**6), st.integers(0, 10**6), ids)
"""An id, or a number that stands for one of those that are there."""
points = st.integers(0, 60).map(point)
faults = st.sampled_from([np.zeros(DIM, np.float32), np.ones(DIM + 1, np.float32)])
metadata: st.SearchStrategy[Metadata] = st.fixed_dictionaries(
    {},
    optional={
        "colour": st.sampled_from(["red", "green", "blue"]),
        "n": st.integers(0, 4).map(float),
        "deep": st.fixed_dictionaries({}, optional={"n": st.integers(0, 3).map(float)}),
    },
)
patches = st.fixed_dictionaries(
    {},
    optional={
        "colour": st.sampled_from(["red", "blue", None]),
        "n": st.one_of(st.none(), st.integers(0, 4).map(float)),
        "deep": st.one_of(st.none(), st.fixed_dictionaries({"n": st.sampled_from([None, 1.0])})),
    },
)
modes = st.sampled_from(["upsert", "upsert", "skip_existing", "create_only"])
lists = st.lists(
    st.tuples(
        ids,
        st.one_of(st.none(), points, points, faults),
        st.one_of(st.none(), st.integers(0, PICTURES - 1)),
        metadata,
    ),
    min_size=1,
    max_size=7,
)
specs = st.sampled_from([s for s in SPECS if s != "hnswlib" or "hnswlib" in indexes.available()])
