"""A server that is asked to stop, or for its place: nothing under way is lost.

PROVE_DRAINS and PROVE_ROLLS set how often `make prove` does it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from drain_parts import COLLECTION, Server, Traffic, fill, missing, vector, writers
from lookalike.client import Client, NewItem, WriteOutcome, WriteResult
from lookalike.client.errors import LookalikeError, Unavailable
from lookalike.server.domain import Filter, View
from lookalike.server.handover import Predecessor
from lookalike.server.keys import Scope, add_key, make_key
from lookalike.server.store import Store
from lookalike.server.succession import data_format
from made_pictures import jpeg

pytestmark = pytest.mark.timeout(400)

GRACE_S = 5.0
NOTICE_S = 0.1
STUCK_SERVER = (str(Path(__file__).parent.parent / "stuck_server.py"),)
SLOW_S = 15.0
"""For what takes milliseconds on a machine that has nothing else to do."""


OVERLOAD = grpc.StatusCode.RESOURCE_EXHAUSTED
"""On a machine that is busy otherwise, whether the server stops or not."""


def drain(data: Path, known: set[str]) -> float:
    """Stop a server under traffic; return how long it took. `known`: acknowledged before."""
    with Server(data) as server:
        address = server.address
        if known:
            assert not missing(address, known)
        else:
            fill(address)
        traffic = Traffic(address, searches_per_s=100.0, with_retries=False, patience_s=0.0)
        traffic.start(plain=8, ours=0)
        with grpc.insecure_channel(address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service="lookalike.v1.SearchService"), timeout=60
            )
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            time.sleep(0.5)
            told: list[float] = []
            watcher = threading.Thread(target=lambda: told.append(_not_serving(watch)))
            watcher.start()
            asked = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(GRACE_S + 2 + SLOW_S)
            took = time.monotonic() - asked
            watcher.join(10)
        traffic.end()
        log = server.log.read_text()
        assert code == 0, log
        assert told, "health said NOT_SERVING"
        for began, status, words in traffic.refused:
            was_let_in = "going down" not in words and status is not OVERLOAD
            assert began >= asked or not was_let_in, f"a call was cut off: {status} {words}"
            assert status in (grpc.StatusCode.UNAVAILABLE, OVERLOAD)
        assert traffic.took_ms
        assert "Traceback" not in log
        known |= traffic.acknowledged
        return took


def _not_serving(watch: Iterator[health_pb2.HealthCheckResponse]) -> float:
    for answer in watch:
        if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
            return time.monotonic()
    return float("inf")


def drains(data: Path, count: int) -> None:
    known: set[str] = set()
    took = sorted(drain(data, known) for _ in range(count))
    print(f"\n{count} drains: median {took[count // 2]:.2f} s, longest {took[-1]:.2f} s")
    assert took[-1] < GRACE_S + 2
    with Server(data) as server:
        assert not missing(server.address, known)


def test_what_is_under_way_when_a_server_is_stopped_ends_well(tmp_path: Path) -> None:
    drains(tmp_path / "data", 3)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_a_hundred_drains(tmp_path: Path) -> None:
    drains(tmp_path / "data", int(os.environ.get("PROVE_DRAINS", "100")))


def test_a_call_that_takes_long_is_waited_for(tmp_path: Path) -> None:
    with Server(tmp_path / "data", program=(*STUCK_SERVER, "slow")) as server:
        with Client(server.address) as client:
            results: list[WriteResult] = []
            items = [NewItem(id="slow", image=jpeg(1))]
            caller = threading.Thread(target=lambda: results.extend(client.upsert(items)))
            caller.start()
            assert server.line() == "stuck\n"
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(GRACE_S + 2 + SLOW_S) == 0
            caller.join(10)
        assert [result.outcome for result in results] == [WriteOutcome.CREATED]


# ------------------------------------------------------------------------ stuck


def stuck(data: Path, how: str) -> None:
    """Stop a server one of whose handlers never ends."""
    grace = {"LOOKALIKE_SERVER__GRACE_S": "0.5"}
    with Server(data, program=(*STUCK_SERVER, how), **grace) as server:
        with Client(server.address, timeout_s=60.0) as client:
            client.upsert([NewItem(id="kept", image=jpeg(1))])
            caller = threading.Thread(target=_call_in_vain, args=(client,), daemon=True)
            caller.start()
            assert server.line() == "stuck\n"
            asked = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(60)
            took = time.monotonic() - asked
            caller.join(10)
        log = server.log.read_text()
    print(f"{how}: gone after {took:.2f} s")
    assert code == (1 if how == "deaf" else 3), log
    assert took < NOTICE_S + 0.5 + 2 + (SLOW_S if "PROVE_DRAINS" not in os.environ else 0)
    if how == "deaf":
        assert "Timeout" in log, "it says where every thread stands"
    else:
        assert "not everything ended in time" in log
        assert not (data / "store.db-wal").exists(), "the store was closed all the same"
    store = Store.open(data)
    [collection] = store.collections()
    items = store.list(collection.number, Filter(), "", 10, View.ID)
    assert [item.id for item in items] == ["kept"]
    store.close()


def _call_in_vain(client: Client) -> None:
    with pytest.raises(LookalikeError):
        client.upsert([NewItem(id="never", image=jpeg(2))])


@pytest.mark.parametrize("how", ["lock", "deaf"])
def test_a_handler_that_never_ends_does_not_hold_the_process(tmp_path: Path, how: str) -> None:
    stuck(tmp_path / "data", how)


@pytest.mark.prove
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("how", ["sleep", "lock", "deaf"])
def test_many_handlers_that_never_end(tmp_path: Path, how: str) -> None:
    for number in range(max(1, int(os.environ.get("PROVE_DRAINS", "100")) // 10)):
        stuck(tmp_path / str(number), how)


# --------------------------------------------------------------- taking over


def rolls(data: Path, count: int) -> None:
    """Let servers take over from one another under traffic."""
    servers = [Server(data)]
    traffic = Traffic(servers[0].address)
    seen: list[set[int]] = []
    over = threading.Event()
    watcher = threading.Thread(target=lambda: _watch_writers(data, seen, over))
    took, slowest, wrote = [], [], []
    try:
        fill(traffic.address)
        traffic.start()
        watcher.start()
        for _ in range(count):
            time.sleep(1.0)
            traffic.took_ms.clear()
            traffic.wrote_ms.clear()
            began = time.monotonic()
            servers.append(Server(data, "--take-over"))
            assert servers[-1].address == traffic.address, servers[-1].log.read_text()
            took.append(time.monotonic() - began)
            assert servers[-2].process.wait(SLOW_S) == 0
            time.sleep(0.5)
            slowest.append(max(traffic.took_ms))
            wrote.append(max(traffic.wrote_ms))
        traffic.end()
        over.set()
        watcher.join()
        print(
            f"\n{count} rolls: {sorted(took)[count // 2]:.1f} s each; slowest search "
            f"{max(slowest):.0f} ms, slowest change {max(wrote):.0f} ms, "
            f"{len(traffic.not_written)} changes failed after their retries"
        )
        assert not traffic.failed, traffic.failed[:5]
        assert traffic.streams >= count, "the upload crossed each of them"
        assert {len(one) for one in seen} <= {0, 1}, "two may write"
        assert {server.process.pid for server in servers} == set().union(*seen)
        assert not missing(traffic.address, traffic.acknowledged)
        for server in servers:
            assert "Traceback" not in server.log.read_text()
    finally:
        over.set()
        traffic.end()
        for server in servers:
            server.__exit__(None, None, None)


def _watch_writers(data: Path, seen: list[set[int]], over: threading.Event) -> None:
    while not over.wait(0.002):
        found = writers(data)
        if not seen or seen[-1] != found:
            seen.append(found)


def test_a_server_takes_over_without_a_failed_search(tmp_path: Path) -> None:
    rolls(tmp_path / "data", 1)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_twenty_servers_take_over_from_one_another(tmp_path: Path) -> None:
    rolls(tmp_path / "data", int(os.environ.get("PROVE_ROLLS", "20")))


def test_a_server_whose_successor_dies_goes_on_or_waits_for_the_next(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data) as first, Client(first.address, timeout_s=30.0) as client:
        fill(first.address)
        item = NewItem(id="one more", vector=vector(7))
        other = Predecessor.find(data, lambda: False)
        assert other is not None
        other.greet(data_format(), "a successor")
        assert other.address == first.address
        other.close()
        client.upsert([item], collection=COLLECTION)  # nothing has begun yet

        other = Predecessor.find(data, lambda: False)
        assert other is not None
        other.greet(data_format(), "a successor")
        other.make_room(data)
        assert writers(data) == set()
        other.close()
        assert client.search(vector=vector(3), k=1, collection=COLLECTION)[0].id == "3"
        with pytest.raises(Unavailable, match="takes the place"):
            client.upsert([item], collection=COLLECTION)

        with Server(data, "--take-over") as second:
            assert second.address == first.address
            assert first.process.wait(SLOW_S) == 0
            client.upsert([NewItem(id="after", vector=vector(8))], collection=COLLECTION)
            assert client.count(collection=COLLECTION) == 502
        assert "takes no changes" in first.log.read_text()


def test_another_format_of_the_folder_makes_the_first_server_stop_before(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data) as first:
        assert first.address
        other = Predecessor.find(data, lambda: False)
        assert other is not None
        other.greet(data_format() + 1, "a newer one")
        assert (other.address, other.place("127.0.0.1:0")) == ("", ("127.0.0.1:0", False))
        other.make_room(data)
        assert first.process.wait(SLOW_S) == 0
        Store.open(data).close()
        other.close()


def test_who_asks_for_a_free_folder_gets_it_and_a_reader_is_refused(tmp_path: Path) -> None:
    with Server(tmp_path / "data", "--take-over") as server:
        assert server.address
    with Server(tmp_path / "data", "--take-over", "--read-only") as server:
        assert server.process.wait(60) == 1
        assert "leave out --take-over" in server.log.read_text()


# --------------------------------------------------------------------- signals


def test_other_signals_never_end_a_server_and_one_reads_the_keys_anew(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    first, stored = make_key(Scope.ADMIN, now=0.0)
    add_key(keys, stored)
    with Server(tmp_path / "data", "--keys", str(keys)) as server:
        address = server.address
        assert server.process.stdout is not None
        server.process.stdout.close()  # a pipe that nobody reads
        for number in (signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
            server.process.send_signal(number)
        with Client(address, api_key=first) as client:
            assert client.info().version
            second, stored = make_key(Scope.ADMIN, now=0.0)
            add_key(keys, stored)
            server.process.send_signal(signal.SIGHUP)
            with Client(address, api_key=second) as other:
                _until_known(other)
            assert client.info().version
        assert server.log.read_text().count("keys read anew") >= 1
        server.process.terminate()
        assert server.process.wait(GRACE_S + 2 + SLOW_S) == 0


def _until_known(client: Client) -> None:
    ends = time.monotonic() + SLOW_S
    while True:
        try:
            client.info()
            return
        except LookalikeError:
            assert time.monotonic() < ends
            time.sleep(0.02)
