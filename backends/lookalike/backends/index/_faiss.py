"""FAISS: graphs (HNSW), inverted lists (IVF) and compressed codes.

Two rules keep the answers right whatever FAISS proposes. Its rows are compared once
more with the vectors themselves, so scores are exact and ties come out by row. And
where it would answer badly (few live rows) or fell short, all live rows are compared.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import faiss as typed_faiss
import numpy as np

from lookalike.backends.index._compare import ExactSearch, rerank
from lookalike.backends.index._depth import (
    SURE_SHARE,
    UNSELECTED,
    Tuned,
    first_live,
    from_the_rear,
    knobs_for,
)
from lookalike.backends.index._faiss_make import (
    CHUNK,
    code_bytes,
    configure,
    create,
    is_plain_graph,
    omp_threads,
    plain_graph_vectors,
    read,
    train,
    training_part,
)
from lookalike.backends.index._file import append_facts, identity, read_facts, writing
from lookalike.backends.index._measure import (
    LEAST_EF,
    MOST_EF,
    MOST_FACTOR,
    TOP,
    Sample,
    least_factor,
    more,
    raise_until_good,
    rising,
)
from lookalike.backends.index._pages import on_large_pages
from lookalike.backends.index._params import DEFAULT_EF_SEARCH
from lookalike.backends.index._plan import Kind, Plan, check, plan
from lookalike.backends.index._threads import in_parts
from lookalike.backends.index.base import VectorIndex
from lookalike.backends.types import (
    Hits,
    HnswParams,
    IndexSpec,
    IvfParams,
    Mask,
    Progress,
    Rows,
    SearchParams,
    Vectors,
)

faiss: Any = typed_faiss
"""Its stubs know only the generated half of it, without what its Python half adds."""

QUICK_ROWS = 20_000
"""So many rows are quick to scan whatever the lists: 0.3 ms at 64 dimensions."""


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
            create(made, dim, spec.metric)

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
        with omp_threads(threads):
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
        inner = create(index._plan, dim, spec.metric)
        configure(inner, index._plan, spec)
        report("training", 0, count)
        with omp_threads(1 if "PQ" in index._plan.factory else threads):
            train(inner, training_part(vectors, index._plan), spec.metric)
        for start in range(0, count, CHUNK):
            report("adding", start, count)
            inner.add(np.ascontiguousarray(vectors[start : start + CHUNK], dtype=np.float32))
        report("measuring", 0, count)
        index._inner = inner
        if is_plain_graph(inner):
            on_large_pages(plain_graph_vectors(inner))
        index._tuned = index._tune()
        report("measuring", count, count)
        return index

    def _tune(self) -> Tuned:
        """Find the parameters by which the index finds its own vectors' neighbours."""
        asked = self.spec.algorithm
        fixed = 0
        if isinstance(asked, HnswParams):
            fixed = asked.ef_search
        if isinstance(asked, IvfParams):
            fixed = asked.nprobe
        sample = Sample(self._compare)
        if not sample.top:
            return Tuned(ef_search=fixed or DEFAULT_EF_SEARCH, nprobe=fixed or 1)
        match self._plan.kind:
            case Kind.HNSW:
                return self._tune_graph(sample, fixed)
            case Kind.IVF:
                return self._tune_lists(sample, fixed)
        return self._tune_codes(sample, Tuned())

    def _tune_graph(self, sample: Sample, fixed: int) -> Tuned:
        def ask(ef: int) -> Rows:
            fetch = ef if self._plan.lossy else sample.top + 1
            return self._ask(sample.queries, fetch, None, Tuned(ef_search=ef))

        steps = rising(fixed or LEAST_EF, fixed or MOST_EF)
        ef, reading = raise_until_good(sample, ask, steps, self.spec.goal)
        return Tuned(ef_search=ef, recall=reading.recall)

    def _tune_lists(self, sample: Sample, fixed: int) -> Tuned:
        depth = (sample.top + 1) * (MOST_FACTOR if self._plan.lossy else 1)

        def ask(nprobe: int) -> Rows:
            return self._ask(sample.queries, depth, None, Tuned(nprobe=nprobe))

        nlist = self._plan.nlist
        steps = rising(fixed or 1, fixed or nlist)
        nprobe, reading = raise_until_good(sample, ask, steps, self.spec.goal)
        if not fixed and (8 * nprobe <= nlist or self.count <= QUICK_ROWS):
            nprobe = min(more(nprobe), nlist)  # for queries that lie less well than the vectors do
        tuned = Tuned(nprobe=nprobe, recall=reading.recall)
        return self._tune_codes(sample, tuned) if self._plan.lossy else tuned

    def _tune_codes(self, sample: Sample, tuned: Tuned) -> Tuned:
        """Find how many of the nearest codes have to be compared with the vectors."""
        rows = self._ask(sample.queries, (sample.top + 1) * MOST_FACTOR, None, tuned)
        factor, reading = least_factor(sample, rows, self.spec.goal)
        tuned.recall = reading.recall
        tuned.factor = more(factor)  # likewise
        return tuned

    # -- files ------------------------------------------------------------------

    def save(self, path: Path) -> None:
        if self._inner is not None:
            # a graph's file need not hold the vectors, `load` gets them anyway
            skip = faiss.IO_FLAG_SKIP_STORAGE if is_plain_graph(self._inner) else 0
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
            inner = read(path, vectors, spec.metric)
        return cls(spec, vectors, made, inner, Tuned(**facts["tuned"]))

    def _identity(self) -> dict[str, object]:
        return identity(self.spec, self.vectors)

    # -- for people -------------------------------------------------------------

    @property
    def memory_bytes(self) -> int:
        held = self._compare.memory_bytes
        if self._inner is None:
            return held
        code = code_bytes(self._inner)
        links = 8 * self._plan.m + 16 if self._plan.kind is Kind.HNSW else 8
        return held + self.count * (code + links) + self._plan.nlist * self.dim * 4

    @property
    def settings(self) -> dict[str, object]:
        made, tuned = self._plan, self._tuned
        shown: dict[str, object] = {"kind": made.kind.value}
        if because := made.because or self.spec.because:
            shown["because"] = because
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
        if self.exact or params.exact:
            return self._compare.search(queries, k, live)
        return in_parts(queries, lambda some: self._search_some(some, k, live, params))

    def _search_some(
        self, queries: Vectors, k: int, live: Mask | None, params: SearchParams
    ) -> Hits:
        alive = self.count if live is None else int(np.count_nonzero(live))
        want = min(k, alive)
        knobs = None
        if want:
            sizes = {"want": want, "alive": alive, "count": self.count}
            knobs = knobs_for(self._plan, self._tuned, params, self.spec.metric, **sizes)
        if knobs is None or not self._compare.fits_float32(queries):
            return self._compare.search(queries, k, live)
        if len(queries) > 1 or self._plan.kind is not Kind.HNSW:  # these never divide one query
            faiss.omp_set_num_threads(1)
        fetch = want if knobs.factor == 1 else max(want, TOP) * knobs.factor
        if self._plan.kind is Kind.HNSW and self._plan.lossy:
            fetch = knobs.ef_search  # all that was seen: comparing them is the least of the work
        rows, poor = self._propose(queries, fetch, live, alive, knobs)
        hits = rerank(self.spec.metric, queries, self.vectors, rows, k)
        if live is None and hits.filled:
            return hits
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
                params = _graph_parameters(knobs.ef_search)
            case Kind.IVF:
                params = faiss.SearchParametersIVF(nprobe=knobs.nprobe, **chosen)
            case _:
                params = faiss.SearchParameters(**chosen) if chosen else None
        _, rows = self._inner.search(queries, min(fetch, self.count), params=params)
        found: Rows = rows
        return found


@functools.lru_cache(maxsize=256)
def _graph_parameters(ef_search: int) -> Any:
    """Return FAISS's own, which it only reads: making them takes 3 us, of 140 for a search."""
    return faiss.SearchParametersHNSW(efSearch=ef_search)
