"""FAISS: graphs (HNSW), inverted lists (IVF) and compressed codes.

Two rules keep the answers right whatever FAISS proposes. Its rows are compared once
more with the vectors themselves, so scores are exact and ties come out by row. And
where it would answer badly (few live rows) or fell short, all live rows are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import faiss as typed_faiss
import numpy as np

from lookalike.backends.errors import IndexSpecInvalid
from lookalike.backends.index._compare import ExactSearch, rerank
from lookalike.backends.index._depth import (
    SURE_SHARE,
    UNSELECTED,
    Tuned,
    first_live,
    from_the_rear,
    knobs_for,
)
from lookalike.backends.index._file import append_facts, identity, read_facts, writing
from lookalike.backends.index._measure import (
    MOST_FACTOR,
    TOP,
    Sample,
    least_factor,
    raise_until_good,
)
from lookalike.backends.index._params import DEFAULT_EF_CONSTRUCTION, DEFAULT_EF_SEARCH
from lookalike.backends.index._plan import Kind, Plan, check, plan
from lookalike.backends.index.base import VectorIndex
from lookalike.backends.types import (
    Hits,
    HnswParams,
    IndexSpec,
    IvfParams,
    Mask,
    Metric,
    Progress,
    Rows,
    SearchParams,
    Vectors,
)

faiss: Any = typed_faiss
"""Its stubs know only the generated half of it, without what its Python half adds."""

MAX_EF = 1024
"""Measuring does not raise ef_search beyond this: 256 queries then cost a second."""
TRAINING_POINTS_PER_CENTRE = 64
"""FAISS's default of 256 makes k-means 4 times as long for no recall
(894 lists over 50k x 256: 1.9 s, nprobe 8 finds all)."""
QUICK_ROWS = 20_000
"""So many rows are quick to scan whatever the lists: 0.3 ms at 64 dimensions."""
OPQ_ROUNDS = 20
"""FAISS's default of 50 takes minutes."""
CHUNK = 2048
"""Vectors added between two reports: about a second of building a graph."""


class FaissIndex(VectorIndex):
    """An index by FAISS; see `_plan` for the kinds.

    Flat needs nothing of FAISS: comparing with the vectors in place is as quick for
    one query and 5 times as quick for 64 (FAISS 1.15.1, 100k x 256), and holds no copy.
    """

    backend: ClassVar[str] = "faiss"

    def __init__(
        self, spec: IndexSpec, vectors: Vectors, made: Plan, inner: Any, tuned: Tuned
    ) -> None:
        super().__init__(spec, vectors)
        self._plan = made
        self._inner = inner
        self._tuned = tuned
        self._compare = ExactSearch(spec.metric, vectors)
        self.exact = made.kind is Kind.FLAT

    # -- building ---------------------------------------------------------------

    @classmethod
    def check(cls, spec: IndexSpec, dim: int) -> None:
        """Check ranges, and a factory string by having FAISS make an empty index of it."""
        if made := check(spec, dim):
            _create(made, dim, spec.metric)

    @classmethod
    def build(
        cls,
        spec: IndexSpec,
        vectors: Vectors,
        *,
        threads: int = 1,
        progress: Progress | None = None,
    ) -> Self:
        cls.check(spec, vectors.shape[1])
        report = progress or (lambda phase, done, total: None)
        with _omp_threads(threads):
            return cls._build(spec, vectors, threads, report)

    @classmethod
    def _build(cls, spec: IndexSpec, vectors: Vectors, threads: int, report: Progress) -> Self:
        count, dim = vectors.shape
        index = cls(spec, vectors, plan(spec, count, dim), None, Tuned())
        if why := index._compare.unfit:
            index._plan = Plan(Kind.FLAT, because=why)
            index.exact = True
        if index.exact:
            report("adding", count, count)
            return index
        inner = _create(index._plan, dim, spec.metric)
        _configure(inner, index._plan, spec)
        report("training", 0, count)
        with _omp_threads(1 if "PQ" in index._plan.factory else threads):
            _train(inner, _training_part(vectors, index._plan), spec.metric)
        for start in range(0, count, CHUNK):
            report("adding", start, count)
            inner.add(np.ascontiguousarray(vectors[start : start + CHUNK], dtype=np.float32))
        report("measuring", 0, count)
        index._inner = inner
        index._tuned = index._tune()
        report("measuring", count, count)
        return index

    def _tune(self) -> Tuned:
        """Find the parameters by which the index finds its own vectors' neighbours."""
        asked = self.spec.algorithm
        sample = Sample(self._compare)
        depth = (sample.top + 1) * (MOST_FACTOR if self._plan.lossy else 1)
        depth = min(depth, self.count)

        def ask(**knobs: int) -> Rows:
            return self._ask(sample.queries, depth, None, Tuned(**knobs))

        tuned = Tuned(factor=MOST_FACTOR if self._plan.lossy else 1)
        if self._plan.kind is Kind.HNSW:
            fixed = asked.ef_search if isinstance(asked, HnswParams) else 0
            first = fixed or DEFAULT_EF_SEARCH
            most = first if fixed or not sample.top else MAX_EF
            tuned.ef_search, tuned.recall = self._settle(
                sample, lambda ef: ask(ef_search=ef), first, most
            )
        elif self._plan.kind is Kind.IVF:
            fixed = asked.nprobe if isinstance(asked, IvfParams) else 0
            nlist = self._plan.nlist
            tuned.nprobe, tuned.recall = self._settle(
                sample, lambda nprobe: ask(nprobe=nprobe), fixed or 1, fixed or nlist
            )
            if not fixed and (8 * tuned.nprobe <= nlist or self.count <= QUICK_ROWS):
                # for queries that lie less well than the vectors do
                tuned.nprobe = min(2 * tuned.nprobe, nlist)
        if self._plan.lossy and sample.top:
            last = ask(ef_search=tuned.ef_search, nprobe=tuned.nprobe)
            factor, tuned.recall = least_factor(sample, last)
            tuned.factor = 2 * factor if factor <= 8 else factor  # likewise
        return tuned

    def _settle(
        self, sample: Sample, ask: Callable[[int], Rows], first: int, most: int
    ) -> tuple[int, float | None]:
        if not sample.top:
            return first, None
        return raise_until_good(sample, ask, first, max(first, most))

    # -- files ------------------------------------------------------------------

    def save(self, path: Path) -> None:
        if self._inner is not None:
            # a graph's file need not hold the vectors, `load` gets them anyway
            skip = faiss.IO_FLAG_SKIP_STORAGE if _is_plain_graph(self._inner) else 0
            with writing():
                faiss.write_index(self._inner, str(path), skip)
        facts = {"tuned": asdict(self._tuned), "because": self._plan.because}
        append_facts(path, self._identity(), facts)

    @classmethod
    def load(cls, spec: IndexSpec, path: Path, vectors: Vectors) -> Self:
        facts = read_facts(path, identity(spec, vectors))
        made = plan(spec, *vectors.shape)
        if why := facts["because"]:
            made = Plan(Kind.FLAT, because=str(why))
        inner = None
        if made.kind is not Kind.FLAT:
            inner = _read(path, vectors, spec.metric)
        return cls(spec, vectors, made, inner, Tuned(**facts["tuned"]))

    def _identity(self) -> dict[str, object]:
        return identity(self.spec, self.vectors)

    # -- for people -------------------------------------------------------------

    @property
    def memory_bytes(self) -> int:
        held = self._compare.memory_bytes
        if self._inner is None:
            return held
        code = _code_bytes(self._inner)
        links = 8 * self._plan.m + 16 if self._plan.kind is Kind.HNSW else 8
        return held + self.count * (code + links) + self._plan.nlist * self.dim * 4

    @property
    def settings(self) -> dict[str, object]:
        made, tuned = self._plan, self._tuned
        shown: dict[str, object] = {"kind": made.kind.value}
        if made.because:
            shown["because"] = made.because
        if made.kind is Kind.FLAT:
            return shown
        shown["factory"] = made.factory
        if made.kind is Kind.HNSW:
            shown |= {"ef_search": tuned.ef_search}
        if made.kind is Kind.IVF:
            shown |= {"nlist": made.nlist, "nprobe": tuned.nprobe}
        if made.lossy:
            shown["refine_factor"] = tuned.factor
        if tuned.recall is not None:
            shown["measured_recall"] = round(tuned.recall, 4)
        return shown

    # -- searching --------------------------------------------------------------

    def _search(self, queries: Vectors, k: int, live: Mask | None, params: SearchParams) -> Hits:
        alive = self.count if live is None else int(np.count_nonzero(live))
        want = min(k, alive)
        knobs = None
        if want and not params.exact:
            sizes = {"want": want, "alive": alive, "count": self.count}
            knobs = knobs_for(self._plan, self._tuned, params, self.spec.metric, **sizes)
        if knobs is None or not self._compare.fits_float32(queries):
            return self._compare.search(queries, k, live)
        faiss.omp_set_num_threads(1)
        fetch = want if knobs.factor == 1 else max(want, TOP) * knobs.factor
        rows, poor = self._propose(queries, fetch, live, alive, knobs)
        hits = rerank(self.spec.metric, queries, self.vectors, rows, k)
        poor |= hits.ids[:, want - 1] < 0
        if live is not None and alive < SURE_SHARE * self.count:
            poor |= self._unsure(queries, hits, rows, live, knobs)
        if poor.any():
            all_of_them = self._compare.search(queries[poor], k, live)
            hits.ids[poor], hits.scores[poor] = all_of_them.ids, all_of_them.scores
        return hits

    def _propose(
        self, queries: Vectors, fetch: int, live: Mask | None, alive: int, knobs: Tuned
    ) -> tuple[Rows, Mask]:
        """Have FAISS propose live rows; also tell the queries that need another way."""
        if live is None or self._plan.selects:
            return self._ask(queries, fetch, live, knobs), np.zeros(len(queries), dtype=np.bool_)
        deep = knobs.ef_search or math.ceil(UNSELECTED * fetch * self.count / alive)
        return first_live(self._ask(queries, deep, None, knobs), live, fetch)

    def _unsure(self, queries: Vectors, hits: Hits, rows: Rows, live: Mask, knobs: Tuned) -> Mask:
        """Tell the queries whose live rows may lie elsewhere than where was looked.

        A filter may leave out just what is near. Codes cannot tell far vectors apart:
        then hits come from the rear of the proposals, too. Lists: then more of them
        hold better rows.
        """
        if self._plan.lossy:
            return from_the_rear(hits.ids, rows)
        if knobs.nprobe in (0, self._plan.nlist):
            return np.zeros(len(queries), dtype=np.bool_)
        deeper = Tuned(nprobe=min(2 * knobs.nprobe, self._plan.nlist))
        rows = self._ask(queries, hits.ids.shape[1], live, deeper)
        other = rerank(self.spec.metric, queries, self.vectors, rows, hits.ids.shape[1])
        differs: Mask = (other.ids != hits.ids).any(axis=1)
        return differs

    def _ask(self, queries: Vectors, fetch: int, live: Mask | None, knobs: Tuned) -> Rows:
        """Have FAISS propose rows, (queries, fetch), the likely best first, -1 = none."""
        chosen: dict[str, Any] = {}
        if live is not None:
            bits = np.packbits(live, bitorder="little")
            chosen["sel"] = faiss.IDSelectorBitmap(bits)
        match self._plan.kind:
            case Kind.HNSW:
                params = faiss.SearchParametersHNSW(efSearch=knobs.ef_search)
            case Kind.IVF:
                params = faiss.SearchParametersIVF(nprobe=knobs.nprobe, **chosen)
            case _:
                params = faiss.SearchParameters(**chosen) if chosen else None
        _, rows = self._inner.search(queries, min(fetch, self.count), params=params)
        found: Rows = rows
        return found


@contextmanager
def _omp_threads(threads: int) -> Iterator[None]:
    """Let FAISS use so many threads; this counts for the calling thread only.

    Product quantizers are trained with one: their matrices are so small that a second
    one costs more than it gives (PQ16x4fs over 10k: 0.4 against 12 s on busy cores).
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _create(made: Plan, dim: int, metric: Metric) -> Any:
    """Make an empty index; raise IndexSpecInvalid with FAISS's own reason."""
    code = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    try:
        return faiss.index_factory(dim, made.factory or "Flat", code)
    except (RuntimeError, MemoryError) as error:
        reason = str(error).rsplit("Error: ", 1)[-1].rsplit(" failed: ", 1)[-1].strip()
        raise IndexSpecInvalid(
            f"The factory string {made.factory!r} cannot be used for {dim} dimensions: {reason[:160]}",
            field="index.options",
        ) from error


def _core(inner: Any) -> Any:
    """Return the index behind a rotation, or the index itself."""
    if isinstance(inner, faiss.IndexPreTransform):
        return faiss.downcast_index(inner.index)
    return inner


def _code_bytes(inner: Any) -> int:
    core = _core(inner)
    if isinstance(core, faiss.IndexHNSW):
        core = core.storage
    return int(core.code_size if isinstance(core, faiss.IndexIVF) else core.sa_code_size())


def _configure(inner: Any, made: Plan, spec: IndexSpec) -> None:
    """Set what a factory string leaves to defaults, before training."""
    core = _core(inner)
    if core is not inner:
        rotation = faiss.downcast_VectorTransform(inner.chain.at(0))
        if isinstance(rotation, faiss.OPQMatrix):
            rotation.niter = OPQ_ROUNDS
    if isinstance(core, faiss.IndexHNSW):
        asked = spec.algorithm.ef_construction if isinstance(spec.algorithm, HnswParams) else 0
        core.hnsw.efConstruction = asked or max(DEFAULT_EF_CONSTRUCTION, made.m)
    if isinstance(core, faiss.IndexIVF):
        core.cp.max_points_per_centroid = TRAINING_POINTS_PER_CENTRE
    if isinstance(core, faiss.IndexPQ):
        core.do_polysemous_training = False  # takes half a minute, for a search we do not use


def _train(inner: Any, part: Vectors, metric: Metric) -> None:
    rotation = faiss.downcast_VectorTransform(inner.chain.at(0)) if inner is not _core(inner) else 0
    if isinstance(rotation, faiss.PCAMatrix) and metric is not Metric.L2:
        # PCA moves the mean to 0, which changes products, by another amount for each row
        rotation.train(part)
        rotation.have_bias = False
    inner.train(part)


def _training_part(vectors: Vectors, made: Plan) -> Vectors:
    """Pick at most as many vectors as training looks at, by a fixed seed."""
    most = max(made.nlist * TRAINING_POINTS_PER_CENTRE, 2**16)
    if len(vectors) <= most:
        return vectors
    rows = np.random.default_rng(0).choice(len(vectors), most, replace=False)
    return np.ascontiguousarray(vectors[np.sort(rows)])


def _is_plain_graph(inner: Any) -> bool:
    return isinstance(inner, faiss.IndexHNSWFlat)


def _read(path: Path, vectors: Vectors, metric: Metric) -> Any:
    try:
        inner = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise ValueError("FAISS cannot read the index file") from error
    count, dim = vectors.shape
    wanted = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    if (inner.ntotal, inner.d, inner.metric_type) != (count, dim, wanted):
        raise ValueError("the index file is of other vectors")
    if _is_plain_graph(inner):
        if inner.hnsw.levels.size() != count:
            raise ValueError("the index file is of other vectors")
        storage = faiss.IndexFlat(dim, wanted)
        for start in range(0, count, CHUNK * 16):
            storage.add(np.ascontiguousarray(vectors[start : start + CHUNK * 16]))
        inner.storage = storage
        inner.own_fields = True
        storage.this.disown()
    return inner
