"""The one place that builds objects: from a configuration to a server that runs."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from lookalike.backends.errors import FailedPrecondition, LookalikeError
from lookalike.backends.files import Files, NoFiles
from lookalike.backends.index import auto
from lookalike.backends.registry import engines, indexes
from lookalike.server.admission import Admission
from lookalike.server.backup import Backups
from lookalike.server.coming import Coming
from lookalike.server.config import Config, is_loopback
from lookalike.server.config_schema import ServerSection
from lookalike.server.duplicates import Duplicates
from lookalike.server.embedding import Embedding
from lookalike.server.explain import Explainer
from lookalike.server.export import Exporter
from lookalike.server.facets import Facets
from lookalike.server.handover import Offer
from lookalike.server.images import Allowance, Decode, Workers, decode
from lookalike.server.ingest import Ingest
from lookalike.server.jobs import Jobs
from lookalike.server.judging import Calibrations, Judge
from lookalike.server.known_vectors import KnownVectors
from lookalike.server.library import Library
from lookalike.server.models import Models
from lookalike.server.pictures import Pictures
from lookalike.server.recall import Recalls
from lookalike.server.reembed import Reembed
from lookalike.server.rpc import floors
from lookalike.server.rpc.access import Keys, KeysFile
from lookalike.server.rpc.reception import Times
from lookalike.server.rpc.server import Domain, Front, check_address
from lookalike.server.rpc.system import EmbeddingCounts, ServerFacts
from lookalike.server.rpc.tls import Tls, TlsFiles
from lookalike.server.searcher import Searcher
from lookalike.server.store import ReadOnlyStore, Store
from lookalike.server.succession import Leaving, LeavingFiles, LeavingStore
from lookalike.server.vector_cache import VectorCache
from lookalike.server.verifying import Verifier
from lookalike.server.watching import FileWatch

_log = logging.getLogger(__name__)


class App:
    """A whole server. `start` and `stop` by one owner; `stop` also after a failed start."""

    def __init__(
        self,
        config: Config,
        *,
        version: str,
        clock: Callable[[], float] = time.time,
        should_stop: Callable[[], bool] = lambda: False,
        ask_to_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """`should_stop`: whether to give up waiting for another server.

        `ask_to_stop` is called when another takes over; then `stop` if `handed_over` is
        still false.
        """
        self._config = config
        self._should_stop, self._ask_to_stop = should_stop, ask_to_stop
        self._version = version
        self._clock = clock
        self._closing = ExitStack()
        self._front: Front | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._reloads: list[Callable[[], None]] = []
        self._work: Sequence[Callable[[], None]] = ()
        self._saves: Sequence[Callable[[], None]] = ()
        self._leaving: Leaving | None = None

    @property
    def handed_over(self) -> bool:
        """True once another server has taken over and nothing is left to do but to leave."""
        return self._leaving is not None and self._leaving.over.is_set()

    def reload(self) -> None:
        """Read keys and certificates again, now. Any thread."""
        for one in self._reloads:
            one()

    def save(self) -> None:
        """Write down what shortens the next start and close the store, whatever hangs."""
        for one in self._saves:
            one()

    def start(self) -> str:
        """Open the data folder, load the default model, listen; return the address.

        Collections are opened in the background: see `wait_ready`. Raises a
        LookalikeError with the cure: FailedPrecondition (address or folder taken),
        DataLoss, ModelInvalid, UnknownBackend, IndexSpecInvalid, BackendUnavailable.
        """
        floors.check()
        try:
            return self._start()
        except BaseException:
            self._closing.close()
            raise

    def wait_ready(self, timeout_s: float | None = None) -> bool:
        """Wait until every collection is open; return whether it was so in time."""
        return self._ready.wait(timeout_s)

    def stop(self, grace_s: float, *, process_ends: bool = False) -> None:
        """Finish what is under way within `grace_s` seconds, then close everything, in order.

        `process_ends`: leave connections to the end of the process, which follows.
        """
        self._stopping.set()
        if self._front is not None:
            _log.info("draining grace_s=%g", grace_s)
            self._front.stop(grace_s, self._config.server.notice_s if grace_s else 0.0)
        self._closing.close()
        if self._front is not None and not process_ends:
            self._front.close()
        _log.info("stopped")

    def _start(self) -> str:
        config = self._config
        _check_open(config)
        if not config.server.take_over:
            check_address(config.server.listen)
        engines.resolve(config.engine.name)
        keys, tls = self._keys(), self._tls()
        models = Models(
            config.model_configs(),
            config.default_model(),
            max_waiting=config.limits.embed_queue_items,
            max_bytes=config.limits.embed_queue_bytes,
        )
        self._closing.callback(models.close)
        coming = self._coming(models)
        files = NoFiles() if config.data.read_only else LeavingFiles(config.data.min_free_bytes)
        store = self._open_store(files)
        self._closing.callback(store.close)
        threads, times = config.server.threads, _times(config.server)
        searches = Admission(threads, "searches", wait_s=times.max_wait_s)
        domain, library = self._compose(store, files, models, searches)
        front = self._front = Front(
            domain,
            searches,
            threads=threads,
            times=times,
            keys=keys,
            credentials=tls.credentials() if tls is not None else None,
            shares_address=coming.shares_address,
        )
        library.start()
        if coming.wait(library, front.doors):
            front.set_ready()
        address = front.start(coming.listen)
        coming.relieve(front.doors)
        self._offer(library, store, files, front, address)
        follower = threading.Thread(target=self._follow, args=(library, front), name="readiness")
        follower.start()
        self._closing.callback(follower.join)
        if lacking := _lacking(config):
            _log.warning(
                "open to other machines without %s: address=%s", " and ".join(lacking), address
            )
        return address

    def _coming(self, models: Models) -> Coming:
        """Have the server that uses the folder, if there is one, make room if told to."""
        section, folder = self._config.server, self._config.data.path
        coming = Coming(folder, section.listen, self._should_stop)
        if not section.take_over:
            return coming
        if self._config.data.read_only:
            raise FailedPrecondition(
                "A server that only reads takes no other's place, and any number of them can "
                "share a folder: leave out --take-over."
            )
        models.get("")
        self._closing.callback(coming.close)
        coming.make_room(self._version, check_address)
        return coming

    def _offer(
        self, library: Library, store: Store, files: Files, front: Front, address: str
    ) -> None:
        """Answer servers that ask for this one's place."""
        if not (isinstance(store, LeavingStore) and isinstance(files, LeavingFiles)):
            return
        leaving = self._leaving = Leaving(
            doors=front.doors,
            library=library,
            work=self._work,
            store=store,
            files=files,
            address=address,
            grace_s=self._config.server.grace_s,
            stop=self._ask_to_stop,
        )
        offer = Offer(self._config.data.path, leaving.answer)
        self._closing.callback(offer.close)
        offer.start()

    def _keys(self) -> Keys | None:
        """Return the keys that callers need, kept as their file has them."""
        if not self._config.access.keys_file:
            return None
        file = KeysFile(Path(self._config.access.keys_file), self._clock)
        self._closing.callback(file.close)
        file.start()
        self._reloads.append(file.reload)
        return file.keys

    def _tls(self) -> Tls | None:
        """Return the certificates to listen with, kept as their files have them."""
        section = self._config.tls
        if not section.certificate:
            return None
        client_ca = Path(section.client_ca) if section.client_ca else None
        files = TlsFiles(Path(section.certificate), Path(section.key), client_ca)
        watch = FileWatch(files.paths, lambda: tls.reload())
        tls = Tls(files)
        self._closing.callback(watch.close)
        watch.start()
        self._reloads.append(tls.reload)
        return tls

    def _open_store(self, files: Files) -> Store:
        folder = self._config.data.path
        try:
            if self._config.data.read_only:
                return ReadOnlyStore.open_unchanged(folder)
            return LeavingStore.open(folder, clock=self._clock, files=files)
        except LookalikeError as error:  # goes to the operator, who is helped by the path
            raise type(error)(f"{folder}: {error.message}") from error

    def _compose(
        self, store: Store, files: Files, models: Models, searches: Admission
    ) -> tuple[Domain, Library]:
        """Build the domain. What is built last is closed first, but for the library.

        Items that are on their way through pictures and models end in the library, so
        it is closed after them.
        """
        config, closing = self._config, self._closing
        limits, default_index = config.limits, config.index.spec()
        vectors = self._known_vectors(files)
        library = Library(
            store,
            models,
            data=config.data.path,
            default_index=default_index,
            engine=config.engine.name,
            engine_options=config.engine.options,
            limits=limits,
            files=files,
        )
        closing.callback(library.close)
        closing.callback(models.close)
        auto.check(default_index, models.get("").dim)
        pictures = self._pictures(models, searches)
        embedding, judge = Embedding(models, pictures, vectors), Judge()
        jobs = Jobs(library, store, Reembed(store, models, pictures), clock=self._clock)
        closing.callback(jobs.close)
        self._work = (jobs.close, vectors.close)
        self._saves = [lambda: library.settle(last=False), store.close]
        domain = Domain(
            library=library,
            ingest=Ingest(library, pictures, vectors),
            searcher=Searcher(library, embedding, judge, cores=len(os.sched_getaffinity(0))),
            explainer=Explainer(library, embedding, pictures, judge),
            facets=Facets(library),
            duplicates=Duplicates(library, pictures, judge),
            recalls=Recalls(library, clock=self._clock),
            calibrations=Calibrations(library, judge),
            embedding=embedding,
            models=models,
            jobs=jobs,
            verifier=Verifier(library, store),
            backups=Backups(store, files, version=self._version, clock=self._clock),
            exporter=Exporter(library, store, version=self._version),
            limits=limits,
            default_index=default_index,
            facts=ServerFacts(
                version=self._version,
                start_time=self._clock(),
                engine=config.engine.name,
                backends=functools.cache(functools.partial(_backends, default_index.backend)),
                embedding=functools.partial(_embedding, models, vectors),
            ),
        )
        return domain, library

    def _known_vectors(self, files: Files) -> KnownVectors:
        """Open what is known of pictures that were embedded before."""
        folder = self._config.data.path / "vectors"
        cache = VectorCache(folder, self._config.cache.max_bytes, files)
        vectors = KnownVectors(cache, self._config.limits)
        self._closing.callback(vectors.close)
        return vectors

    def _pictures(self, models: Models, searches: Admission) -> Pictures:
        """Start the readers of pictures: one for each core, and one more."""
        cores = len(os.sched_getaffinity(0))
        decode, hold = self._decoder(cores), models.have_enough
        pictures = Pictures(
            self._config.limits,
            threads=cores,
            decode=decode,
            hold=hold,
            patience_s=lambda: searches.patience_s,
        )
        self._closing.callback(pictures.close)
        return pictures

    def _decoder(self, cores: int) -> Decode:
        """Start the processes that decode pictures; without any it is done here."""
        chosen, limits = self._config.decode.workers, self._config.limits
        count = cores if chosen == "auto" else chosen
        if count == 0:
            return decode
        allowance = Allowance(
            cpu_s=limits.max_decode_ms / 1e3,
            wall_s=limits.max_decode_ms / 200,
            memory_bytes=limits.max_decode_bytes,
        )
        workers = Workers(count, allowance, here_pixels=self._config.decode.here_pixels)
        self._closing.callback(workers.close)
        return workers.decode

    def _follow(self, library: Library, front: Front) -> None:
        """Tell health checks, and whoever waits, when the library is ready."""
        while not self._stopping.is_set():
            if library.wait_ready(0.2):
                front.set_ready()
                self._ready.set()
                return


def _times(section: ServerSection) -> Times:
    """Return how long peers may take."""
    return Times(
        default_deadline_s=section.default_deadline_s,
        max_wait_s=section.max_wait_ms / 1e3,
        message_s=section.message_s,
        idle_s=section.idle_s,
        handshake_s=section.handshake_s,
        connection_idle_s=section.connection_idle_s,
        keepalive_s=section.keepalive_s,
    )


def _lacking(config: Config) -> list[str]:
    """Return what a server that other machines can reach should have and has not."""
    if is_loopback(config.server.listen):
        return []
    tls = [] if config.tls.certificate else ["TLS"]
    return tls if config.access.keys_file else [*tls, "API keys"]


def _check_open(config: Config) -> None:
    """Raise FailedPrecondition rather than be open to other machines by accident."""
    lacking = _lacking(config)
    if lacking and not config.access.insecure:
        raise FailedPrecondition(
            f"{config.server.listen} can be reached by other machines, and without "
            f"{' and '.join(lacking)} they may read or change everything. Give "
            "--tls-certificate, --tls-key and --keys (made by lookalike keys create), or "
            "--listen 127.0.0.1:50051 for this machine alone; --insecure listens all the same."
        )


def _embedding(models: Models, vectors: KnownVectors) -> EmbeddingCounts:
    """Return what embedding has cost up to now."""
    stats = models.stats().values()
    return EmbeddingCounts(
        sum(s.items for s in stats), sum(s.batches for s in stats), vectors.reused
    )


def _backends(default: str) -> Sequence[str]:
    """Return the index backends that can be used, the default one first."""
    names = [auto.AUTO, *indexes.available()]
    return sorted(names, key=lambda name: name != default)
