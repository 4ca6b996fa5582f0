"""Networks that fail: nothing is stored twice or lost, and errors and ends are clear."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from durability.checks import compare
from durability.contents import VECTORS, hash_of, new_item
from durability.journal import Journal, Key, Op
from durability.proxy import FaultProxy
from durability.traffic import make
from lookalike.client import Client, NewItem
from lookalike.client.errors import (
    DeadlineExceeded,
    ItemExists,
    ItemNotFound,
    LookalikeError,
    ServerUnavailable,
    TooManyUploads,
    Unavailable,
)
from lookalike.client.local_server import LocalServer

SEED = int(os.environ.get("PROVE_SEED", "0")) or random.randrange(1, 10**6)
ANSWERS = (400, 4000)
"""A few calls' worth of bytes: every connection loses one answer soon."""
IDS = 100
RETRY_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with LocalServer(tmp_path_factory.mktemp("proxy") / "data") as started:
        yield started


@pytest.fixture
def direct(server: LocalServer) -> Iterator[Client]:
    """A client that nothing stands before, and an empty collection."""
    with Client(server.address) as client:
        client.delete_collection(VECTORS, missing_ok=True)
        make(client, lambda call: call(), VECTORS)
        yield client


class Stubborn:
    """Sends each operation until it is answered, as a careful program does."""

    def __init__(self, client: Client, journal: Journal, rng: random.Random) -> None:
        self.client, self.journal, self.rng = client, journal, rng
        self.retries = self.already = 0

    def work(self, count: int) -> None:
        for _ in range(count):
            key = (VECTORS, f"item-{self.rng.randrange(IDS)}")
            [kind] = self.rng.choices(("upsert", "create", "metadata", "delete"), (6, 2, 2, 2))
            number = self.journal.number()
            op = Op(number, kind)
            if kind in ("upsert", "create"):
                op = op._replace(content=number, sha256=hash_of(VECTORS, number))
            self.journal.sent({key: op})
            self.journal.told({key: self._until_told(key, op)})

    def _until_told(self, key: Key, op: Op) -> str:
        ends = time.monotonic() + RETRY_S
        while True:
            try:
                return self._send(key[1], op)
            except Unavailable:
                if time.monotonic() > ends:
                    raise
                self.retries += 1
                time.sleep(0.01)

    def _send(self, item_id: str, op: Op) -> str:
        try:
            if op.kind == "delete":
                count = self.client.delete([item_id], collection=VECTORS)
                return "deleted" if count else "missing"
            if op.kind == "metadata":
                patch = {"version": op.number}
                self.client.update_metadata(item_id, patch, collection=VECTORS)
                return "updated"
        except ItemNotFound:
            return "missing"
        mode = "upsert" if op.kind == "upsert" else "create_only"
        item = new_item(VECTORS, item_id, op.content)
        [result] = self.client.upsert([item], collection=VECTORS, mode=mode)  # type: ignore[arg-type]
        if isinstance(result.error, ItemExists):
            return "exists"
        assert result.error is None, result
        self.already += result.outcome.value == "unchanged"
        return result.outcome.value


def retry(server: LocalServer, direct: Client, folder: Path, count: int) -> None:
    """Write through a proxy that loses answers, and compare what is there."""
    print(f"PROVE_SEED={SEED}")
    journal, rng = Journal(folder / "journal", retried=True), random.Random(SEED)
    journal.sent({(VECTORS, ""): Op(journal.number(), "create")})
    journal.told({(VECTORS, ""): "created"})
    with FaultProxy(server.address, SEED) as proxy:
        proxy.answers = ANSWERS
        with Client(proxy.address) as client:
            stubborn = Stubborn(client, journal, rng)
            stubborn.work(count)
        lost = proxy.swallowed
    items = compare(direct, journal, rng)
    journal.close()
    print(
        f"{count} writes, {lost} answers lost, {stubborn.retries} calls made again by hand, "
        f"{stubborn.already} found to be done already, {items} items"
    )
    assert lost >= count // 50
    assert stubborn.already


def test_retried_writes_are_done_once(server: LocalServer, direct: Client, tmp_path: Path) -> None:
    retry(server, direct, tmp_path, 150)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_ten_thousand_retried_writes_are_done_once(
    server: LocalServer, direct: Client, tmp_path: Path
) -> None:
    retry(server, direct, tmp_path, int(os.environ.get("PROVE_RETRIES", "10000")))


def test_an_upload_goes_on_where_the_connection_broke(server: LocalServer, direct: Client) -> None:
    count = 3000
    with FaultProxy(server.address, SEED) as proxy, Client(proxy.address) as client:
        proxy.answers = (2000, 20000)
        contents = range(10**6, 10**6 + count)
        items = (new_item(VECTORS, f"item-{content}", content) for content in contents)
        report = client.upload(items, collection=VECTORS, patience_s=RETRY_S)
        assert report.reconnects > 0
        assert proxy.swallowed > 0
    assert (report.total, report.failed) == (count, 0)
    stored = [item.id for item in direct.list(collection=VECTORS, view="id")]
    assert sorted(stored) == sorted(f"item-{content}" for content in contents)


def test_a_slow_network_only_takes_longer(server: LocalServer, direct: Client) -> None:
    with FaultProxy(server.address) as proxy, Client(proxy.address) as client:
        proxy.delay_s = 0.4  # longer than a second to connect
        client.upload([new_item(VECTORS, "slow", 1)], collection=VECTORS, patience_s=0.0)
        assert client.get("slow", collection=VECTORS).id == "slow"


def test_silence_ends_with_the_deadline_and_says_so(server: LocalServer) -> None:
    with FaultProxy(server.address) as proxy, Client(proxy.address, timeout_s=1.0) as client:
        client.models()
        proxy.hole = True
        with pytest.raises(DeadlineExceeded, match=f"{proxy.address} did not answer in time"):
            client.models()


def test_a_network_that_is_cut_says_that_no_server_answers(server: LocalServer) -> None:
    with FaultProxy(server.address) as proxy, Client(proxy.address, timeout_s=10.0) as client:
        client.models()
        proxy.refusing = True
        proxy.reset()
        with pytest.raises(ServerUnavailable, match=f"No server answers at {proxy.address}"):
            client.models()
        proxy.refusing = False
        ends = time.monotonic() + RETRY_S
        while True:
            try:
                assert client.models()
                return
            except ServerUnavailable:
                assert time.monotonic() < ends


# ------------------------------------------------------- what the server keeps of them


class Stuck:
    """Uploads over connections of their own that stay open without an end."""

    def __init__(self, address: str, count: int) -> None:
        self._over = threading.Event()
        self.clients = [Client(address) for _ in range(count)]
        self.begun = threading.Semaphore(0)
        self.threads = [threading.Thread(target=self._run, args=(c,)) for c in self.clients]
        for thread in self.threads:
            thread.start()
        for _ in self.clients:
            assert self.begun.acquire(timeout=30)

    def _run(self, client: Client) -> None:
        def items() -> Iterator[NewItem]:
            yield new_item(VECTORS, "stuck", 1)
            self.begun.release()
            self._over.wait(60)

        with suppress(LookalikeError):
            client.upload(items(), collection=VECTORS, patience_s=0.0)

    def end(self) -> None:
        self._over.set()
        for client in self.clients:
            client.close()
        for thread in self.threads:
            thread.join()


def upload_one(client: Client) -> None:
    client.upload([new_item(VECTORS, "one", 2)], collection=VECTORS, patience_s=0.0)


def wait_for_room(client: Client, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while True:
        try:
            upload_one(client)
            return
        except TooManyUploads:
            assert time.monotonic() < ends, "the server still counts uploads that are gone"
            time.sleep(0.1)


def threads_of(server: LocalServer) -> int:
    return psutil.Process(server.pid).num_threads()


def test_uploads_that_break_free_their_places_and_threads(
    server: LocalServer, direct: Client
) -> None:
    most = direct.info().limits.max_uploads_per_peer
    upload_one(direct)
    for _ in range(2):
        with FaultProxy(server.address) as proxy:
            stuck = Stuck(proxy.address, most)
            with pytest.raises(TooManyUploads) as refused:
                upload_one(direct)
            assert refused.value.retry_after_s
            during = threads_of(server)
            proxy.reset()
            wait_for_room(direct, 30)
            stuck.end()
    ends = time.monotonic() + 30
    while threads_of(server) > during - most:  # their readers
        assert time.monotonic() < ends, f"{threads_of(server)} threads, {during} during uploads"
        time.sleep(0.1)


@pytest.mark.prove
@pytest.mark.timeout(300)
def test_uploads_of_peers_that_vanished_are_ended(server: LocalServer, direct: Client) -> None:
    most = direct.info().limits.max_uploads_per_peer
    with FaultProxy(server.address) as proxy:
        stuck = Stuck(proxy.address, most)
        proxy.leave()  # nobody tells the server, whose keepalive asks after 60 s, for 20 s
        stuck.end()
        wait_for_room(direct, 120)
