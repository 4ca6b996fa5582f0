"""Long work: asked for over the API, done one at a time, its state kept in the store."""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

from lookalike.backends.crashpoints import reach
from lookalike.backends.errors import Cancelled, Internal, JobNotFound, LookalikeError
from lookalike.backends.index import auto
from lookalike.backends.types import IndexSpec
from lookalike.server.domain import Job, JobState
from lookalike.server.library import Library
from lookalike.server.reembed import Reembed
from lookalike.server.store import Store

_log = logging.getLogger(__name__)

REBUILD_INDEX = "rebuild_index"
_KEPT_S = 24 * 3600.0
"""How long ended jobs can be asked for."""
_WATCH_S = 1.0
"""A watcher hears of progress this often."""


class Jobs:
    """Runs long work on one thread of its own. Any thread may ask."""

    def __init__(
        self,
        library: Library,
        store: Store,
        reembed: Reembed,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._library = library
        self._store = store
        self._reembed = reembed
        self._clock = clock
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._cancelled: set[str] = set()
        self._queue: queue.SimpleQueue[tuple[str, Callable[[], None]] | None] = queue.SimpleQueue()
        self._closed = False
        self._recall()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def rebuild(self, collection: str, spec: IndexSpec | None, reembed: bool) -> Job:
        """Ask for a new index; return the job that is at it already, if there is one.

        Raises CollectionNotFound, IndexSpecInvalid, UnknownBackend, and with
        `reembed` FailedPrecondition if originals are not kept.
        """
        target = self._library.collection(collection)
        config = target.record.config
        assert config.index is not None
        wanted = replace(spec or config.index, metric=config.metric)
        auto.check(wanted, config.dimension)
        if reembed:
            self._reembed.check(target)
        with self._changed:
            for job in self._jobs.values():
                if job.collection == target.name and not job.state.is_over:
                    return job
            job = Job(
                id=f"job-{uuid.uuid4().hex[:12]}",
                kind=REBUILD_INDEX,
                collection=target.name,
                state=JobState.QUEUED,
                create_time=self._clock(),
            )
            self._jobs[job.id] = job
        try:
            self._save(job)
        except BaseException:
            with self._changed:
                del self._jobs[job.id]
            raise

        def work() -> None:
            if reembed:
                self._reembed.run(target, self._progress(job.id))
            target.rebuild(wanted, self._progress(job.id))

        self._queue.put((job.id, work))
        return job

    def get(self, job_id: str) -> Job:
        """Return a job as it is now. Raises JobNotFound."""
        self._forget_old()
        if (job := self._jobs.get(job_id)) is None:
            raise JobNotFound(
                f"There is no job {job_id!r}. Ended jobs are kept for a day.", field="id", id=job_id
            )
        return job

    def list(self, collection: str, after: str, count: int) -> list[Job]:
        """Return at most `count` jobs, the newest first, behind the job `after`."""
        self._forget_old()
        jobs = sorted(self._jobs.values(), key=lambda j: (j.create_time, j.id), reverse=True)
        jobs = [job for job in jobs if not collection or job.collection == collection]
        ids = [job.id for job in jobs]
        start = ids.index(after) + 1 if after in ids else 0
        return jobs[start : start + count]

    def watch(self, job_id: str) -> Iterator[Job]:
        """Give the job now, then once a second and when it ends.

        An unchanged job is given again, so that a watcher whose caller has left
        gets to notice it.
        """
        job = self.get(job_id)
        yield job
        while not (job.state.is_over or self._closed):
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._jobs[job_id].state.is_over, timeout=_WATCH_S
                )
                job = self._jobs[job_id]
            yield job

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; it may take a moment. Raises JobNotFound."""
        job = self.get(job_id)
        with self._changed:
            if not job.state.is_over:
                self._cancelled.add(job_id)
        return self.get(job_id)

    def close(self) -> None:
        """Stop the work that runs; it will be told as interrupted after the next start."""
        self._closed = True
        self._queue.put(None)
        with self._changed:
            self._changed.notify_all()
        self._thread.join()

    # --------------------------------------------------------------- insides

    def _recall(self) -> None:
        for job in self._store.jobs():
            if not job.state.is_over:
                job = replace(
                    job,
                    state=JobState.FAILED,
                    end_time=self._clock(),
                    error_code="UNAVAILABLE",
                    error_message="The server was stopped while the job ran; ask for it again. "
                    "Vectors that it had made anew are kept for that.",
                )
                self._try_to_save(job)
            self._jobs[job.id] = job
        self._forget_old()

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            job_id, work = entry
            if self._closed:
                return
            self._update(job_id, state=JobState.RUNNING, start_time=self._clock(), save=True)
            try:
                self._progress(job_id)("", 0, 0)
                work()
            except Cancelled:
                if self._closed:
                    return
                self._end(job_id, JobState.CANCELLED)
            except LookalikeError as error:
                self._end(job_id, JobState.FAILED, error)
            except Exception:
                _log.exception("job failed id=%s", job_id)
                self._end(job_id, JobState.FAILED, Internal("A defect of the server; see its log."))
            else:
                self._end(job_id, JobState.SUCCEEDED)

    def _progress(self, job_id: str) -> Callable[[str, int, int], None]:
        def progress(phase: str, done: int, total: int) -> None:
            if self._closed or job_id in self._cancelled:
                raise Cancelled("The job was stopped.")
            self._update(job_id, phase=phase, done_count=done, total_count=total)

        return progress

    def _end(self, job_id: str, state: JobState, error: LookalikeError | None = None) -> None:
        job = self._jobs[job_id]
        done = job.total_count if state is JobState.SUCCEEDED else job.done_count
        self._update(
            job_id,
            state=state,
            done_count=done,
            end_time=self._clock(),
            error_code=error.reason if error else "",
            error_message=error.message if error else "",
            save=True,
        )
        self._cancelled.discard(job_id)

    def _update(self, job_id: str, *, save: bool = False, **changes: object) -> None:
        with self._changed:
            job = replace(self._jobs[job_id], **changes)  # type: ignore[arg-type]
            self._jobs[job_id] = job
        if save:
            self._try_to_save(job)
        with self._changed:
            self._changed.notify_all()

    def _save(self, job: Job) -> None:
        self._store.write(lambda transaction: transaction.save_job(job)).result()
        reach("jobs.state.saved")

    def _try_to_save(self, job: Job) -> None:
        """Save how a job is doing; on a full disk that is only remembered."""
        try:
            self._save(job)
        except LookalikeError as error:
            _log.warning("state of a job not stored id=%s: %s", job.id, error.message)

    def _forget_old(self) -> None:
        limit = self._clock() - _KEPT_S
        with self._changed:
            for job in [j for j in self._jobs.values() if j.state.is_over and j.end_time < limit]:
                del self._jobs[job.id]
