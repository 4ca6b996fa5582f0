"""The local engine: sealed segments, an exact delta, and live masks.

Searches read one attribute, the view, and never wait. Writers make a new view
and put it in its place: a search sees a commit wholly or not at all. One thread
of its own builds what has gathered in the delta into segments.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np

from lookalike.backends.crashpoints import reach
from lookalike.backends.engine._again import Again
from lookalike.backends.engine._build import (
    Abandoned,
    build_segment,
    outgrown,
    plan,
    stand_back,
)
from lookalike.backends.engine._effort import next_effort
from lookalike.backends.engine._holding import LocalHolding
from lookalike.backends.engine._incoming import incoming
from lookalike.backends.engine._options import Options
from lookalike.backends.engine._part import Part, Segment
from lookalike.backends.engine._probe import Probe
from lookalike.backends.engine._recover import load_segments, reconcile
from lookalike.backends.engine._scan import checked, merge
from lookalike.backends.engine._snapshot import Disk
from lookalike.backends.engine._view import Delta, View, first_room
from lookalike.backends.engine.base import Asked, Engine, EngineConfig, EngineStats, Truth
from lookalike.backends.errors import Unavailable
from lookalike.backends.index import auto
from lookalike.backends.types import (
    Changes,
    Hits,
    IndexSpec,
    Keys,
    Progress,
    SearchParams,
    Vectors,
)

log = logging.getLogger(__name__)

IDLE_ROWS = 256
"""Fewer are left where they are."""
RETRY_S = (5.0, 30.0, 300.0)
"""Pauses of the builder after its first, second, and each later failure in a row."""


class LocalEngine(Engine):
    """Holds the vectors in this process.

    Options: see `_options`. In the background rows get an index, and rows that an index
    has hidden are looked for: see `_probe`.
    """

    @classmethod
    def open(cls, config: EngineConfig, truth: Truth) -> Self:
        """Load the snapshot if it is sound, then reconcile with `truth`.

        Returns when everything can be found; what has no index yet is compared
        exactly and built in the background. Raises InvalidArgument (options),
        DataLoss (the store's).
        """
        engine = cls(config)
        engine._recover(truth)
        engine._builder.start()
        return engine

    @property
    def applied_seq(self) -> int:  # type: ignore[override]
        """The seq of the last commit that was taken in. Any thread."""
        return self._view.seq

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._spec = replace(config.index, metric=config.metric)
        self._options = Options.of(config.options)
        self._probe = Probe(config.metric, self._options.probe_percent)
        limit = self._options.delta_limit
        self._disk = Disk(config.directory, config.files)
        self._view = View.of((), Delta.empty(config.dim, first_room(limit)), 0, limit)
        self._recovered = ""
        # Order of locks: _builds, then _saves, then _state.
        self._builds = threading.Lock()
        """Held while a segment is built."""
        self._saves = threading.Lock()
        """Held while a state is taken and written to disk, so that none overtakes another."""
        self._state = threading.Condition()
        """Held for moments, to read and change everything below and to publish a view."""
        self._closing = False
        self._rebuilds = 0
        self._building = False
        self._failures = 0
        self._unsaved = Again(RETRY_S)
        self._changed = time.monotonic()
        """When rows were last added."""
        self._builder = threading.Thread(target=self._run, name="engine-builder", daemon=True)

    # -- searching ---------------------------------------------------------------

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        allowed: Keys | None = None,
        params: SearchParams | None = None,
    ) -> Hits:
        """Find the k best keys of each query. Any thread, never waits.

        Hits are min(k, live keys that are allowed) wide, and always that many.
        Raises InvalidArgument, DimensionMismatch, VectorNotFinite, VectorZero
        (cosine).
        """
        view = self._view
        queries = checked(queries, k, self._config.dim, self._config.metric)
        params = params or SearchParams()
        metric = self._config.metric
        found: list[Hits] = []
        total = 0
        exact = True
        for part in view.every:
            if part.count:
                boosted = self._probe.recall.boosted(part, params)
                hits, count = part.search(queries, k, metric, allowed, boosted)
                total += count
                exact = exact and hits.exact
                found.append(hits)
        ids, scores = merge(found, len(queries), min(k, total))
        return Hits(ids, scores, exact)

    # -- changing ----------------------------------------------------------------

    def apply(self, changes: Changes) -> None:
        """Take in one commit; every search that starts later sees it, whole.

        One thread, in the order of seq. Raises DimensionMismatch, VectorNotFinite,
        and has changed nothing then.
        """
        added, vectors = incoming(changes, self._config.dim)
        removed = np.unique(np.asarray(changes.removed, np.int64))
        with self._state:
            if changes.seq < self.applied_seq:
                return
            before = self._view.waiting
            self._view = self._view.changed(changes.seq, removed, added, vectors)
            if len(added):
                self._changed = time.monotonic()
            if (
                self._work_waits()
                or before < IDLE_ROWS <= self._view.waiting
                or (len(removed) and self._probe.pause_s(self._view, self._spec) == 0.0)
            ):
                self._state.notify_all()

    # -- building ----------------------------------------------------------------

    def rebuild(self, spec: IndexSpec, progress: Progress) -> None:
        """Build one index of `spec` over everything, then swap; the old one answers meanwhile.

        Later segments are of this spec too. If `progress` or the backend raises,
        answers and spec are what they were. Raises IndexSpecInvalid,
        BackendUnavailable, Unavailable (closed).
        """
        spec = replace(spec, metric=self._config.metric)
        auto.check(spec, self._config.dim)
        with self._state:
            self._rebuilds += 1
        try:
            with self._builds:
                with self._state:
                    self._stop_if_closing()
                    self._view = self._view.frozen()
                    inputs = self._view.parts
                self._build(inputs, spec, self._watched(progress), fall_back=False)
                self._save()
        finally:
            with self._state:
                self._rebuilds -= 1
                self._state.notify_all()

    def _watched(self, progress: Progress) -> Progress:
        def watched(phase: str, done: int, total: int) -> None:
            self._stop_if_closing()
            progress(phase, done, total)

        return watched

    def _stop_if_closing(self) -> None:
        if self._closing:
            raise Unavailable("The collection is being closed. Start the rebuild again later.")

    def _background(self, phase: str, done: int, total: int) -> None:
        """Progress of the builder: gives way to closing and to a rebuild, which takes it all."""
        if self._closing or self._rebuilds:
            raise Abandoned

    def _build(
        self,
        inputs: Sequence[Part],
        spec: IndexSpec,
        progress: Progress,
        *,
        effort: int = 0,
        fall_back: bool,
    ) -> None:
        """Build one segment out of the inputs and put it in their place."""
        built: Segment | None = None
        if any(part.count for part in inputs):
            built = build_segment(
                inputs,
                spec,
                self._config.dim,
                self._disk,
                whole=self._view.count,
                memory=self._options.memory_mb << 20,
                threads=self._options.build_threads,
                progress=progress,
                effort=effort,
                fall_back=fall_back,
            )
        reach("engine.build.done")
        with self._state:
            self._view = self._view.swapped(inputs, built)
            self._spec = spec
        reach("engine.segment.swapped")
        for part in inputs:  # those that the disk had no room for
            if part.segment.sealed:
                self._disk.abandon(part.segment.number)

    def _work_waits(self) -> bool:
        view = self._view
        return (
            view.overfull
            or bool(view.withered)
            or bool(outgrown(view, self._spec, self._config.dim))
            or self._probe.short(view) is not None
        )

    def _idle_in(self) -> float | None:
        """Return the seconds until the rows that wait are sealed for want of others."""
        if self._view.waiting < IDLE_ROWS:
            return None
        return max(0.0, self._changed + self._options.idle_s - time.monotonic())

    def _run(self) -> None:
        """Build and save whatever waits, and look at what is built, until the engine is closed."""
        stand_back()
        while True:
            with self._state:
                self._building = False
                while not self._closing and (self._rebuilds or not self._work_waits()):
                    pause_s = None if self._rebuilds else self._pause_s()
                    if pause_s == 0.0:
                        break
                    self._state.wait(pause_s)
                if self._closing:
                    return
                self._building = self._work_waits() or self._idle_in() == 0.0
            try:
                if self._building:
                    self._build_waiting()
                elif self._unsaved.pause_s() == 0.0:
                    self._save()
                else:
                    self._probe.look(self._view, self._spec)
                    if self._probe.recall.unsaved:
                        self._save()
                self._failures = 0
            except Abandoned:
                pass
            except Exception:
                log.exception("building in the background failed, trying again later")
                with self._state:
                    pause = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
                    self._failures += 1
                    self._state.wait_for(lambda: self._closing, pause)

    def _pause_s(self) -> float | None:
        """Return the seconds until the builder has something to do; None if nothing comes."""
        pauses = (
            self._idle_in(),
            self._probe.pause_s(self._view, self._spec),
            self._unsaved.pause_s(),
        )
        return min((pause for pause in pauses if pause is not None), default=None)

    def _build_waiting(self) -> None:
        with self._builds:
            with self._state:
                fresh = self._view.overfull or self._idle_in() == 0.0
                if fresh:
                    self._view = self._view.frozen()
                spec = self._spec
                short = None if fresh else self._probe.short(self._view)
                if short is None:
                    inputs = plan(self._view, spec, self._config.dim, fresh=fresh)
                    effort = max((part.segment.effort for part in inputs), default=0)
                else:
                    inputs, effort = [short], next_effort(short)
            if any(part.segment.sealed for part in inputs):
                reach("engine.merge.before")
            if inputs:
                self._build(inputs, spec, self._background, effort=effort, fall_back=True)
                self._save()

    # -- keeping -----------------------------------------------------------------

    def snapshot(self) -> int:
        """Write the sealed segments and where they stand, durably; return the seq on disk.

        A disk that is full or failing costs nothing but time at the next start: it
        is logged, and the seq of the last good snapshot returned.
        """
        self._save()
        return self._disk.seq

    def _save(self) -> None:
        if self._config.files.read_only:
            return
        with self._saves:
            with self._state:
                view, spec = self._view, self._spec
            segments = [part.segment for part in view.parts if part.segment.sealed]
            try:
                owner, dim = self._config.owner, self._config.dim
                self._probe.recall.unsaved = False
                self._disk.save(segments, view.seq, spec, owner, dim, self._probe.recall.boost)
                self._unsaved.done()
            except Exception as error:
                with self._state:
                    self._unsaved.failed()
                    self._state.notify_all()
                text = error.strerror if isinstance(error, OSError) else type(error).__name__
                log.warning("snapshot not written, trying again later: %s", text)

    def _recover(self, truth: Truth) -> None:
        seq = truth.seq()
        segments, self._recovered = load_segments(self._disk, self._config, seq)
        reach("engine.snapshot.loaded")
        limit = self._view.limit
        self._view = reconcile(segments, truth, seq, self._config.dim, limit)
        reach("engine.reconcile.done")

    # -- reading and closing -----------------------------------------------------

    def stats(self) -> EngineStats:
        """Read the engine's state. Any thread."""
        with self._state:
            view = self._view
            building = self._building or self._rebuilds > 0
            building = building or (self._work_waits() and not self._closing)
        return EngineStats(
            count=view.count,
            indexed=sum(part.count for part in view.parts if part.segment.index is not None),
            segments=[
                part.describe(self._probe.reading(part))
                for part in view.parts
                if part.segment.sealed
            ],
            building=building,
            recovered=self._recovered,
            memory_bytes=sum(part.memory_bytes for part in view.every),
            recall=self._probe.recall.of(view),
        )

    def learn_from(self, asked: Asked) -> None:
        """Check recall with these queries, too. Any thread."""
        self._probe.recall.asked = asked

    def holding(self) -> LocalHolding:
        """Return what is searched now. Any thread."""
        return LocalHolding(self._view, self._disk)

    def close(self) -> None:
        """Stop the builder and wait for it; does not snapshot. Idempotent.

        A search that comes too late is still answered from the last view: who
        swaps one engine for another need not make searches fail. The vectors go
        with the last reference to the engine.
        """
        with self._state:
            self._closing = True
            self._state.notify_all()
        if self._builder.is_alive():
            self._builder.join()
        with self._builds, self._saves:
            pass  # a rebuild that was stopped has removed its files
