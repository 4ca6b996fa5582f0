"""A server that is killed in mid-upload loses nothing that it acknowledged."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike.client import Client, NewItem, Query, SearchResult, WriteResult
from lookalike.client.errors import LookalikeError
from lookalike.client.local_server import LocalServer
from made_pictures import encoded, scene

SEED = int(os.environ.get("PROVE_SEED", "2"))


def picture(number: int) -> bytes:
    """Return the one picture that belongs to a number: a stranger's would be noticed."""
    return encoded(scene(number, 64, 48), "JPEG", quality=90)


def number_of(item_id: str) -> int:
    return int(item_id.removeprefix("item-"))


class Journal:
    """What the client was told. The server's own word is never asked for the count."""

    def __init__(self) -> None:
        self.sent = 0
        self.acknowledged: set[str] = set()
        self.deleted: set[str] = set()
        self.delete_unknown: set[str] = set()

    def items(self) -> Iterator[NewItem]:
        """Send new pictures for ever; the kill ends it."""
        while True:
            number = self.sent
            self.sent += 1
            yield NewItem(id=f"item-{number}", image=picture(number), metadata={"n": number})

    def note(self, result: WriteResult) -> None:
        if result.outcome in ("created", "updated", "unchanged"):
            self.acknowledged.add(result.id)


def delete_some(address: str, journal: Journal, rng: random.Random, stop: threading.Event) -> None:
    """Delete acknowledged items now and then; an unanswered delete may have happened or not."""
    with Client(address, timeout_s=5.0) as client:
        while not stop.wait(0.05):
            left = sorted(journal.acknowledged.copy() - journal.deleted - journal.delete_unknown)
            if not left:
                continue
            victim = rng.choice(left)
            journal.delete_unknown.add(victim)
            try:
                client.delete([victim])
            except LookalikeError:
                return
            journal.deleted.add(victim)


def upload_until_killed(server: LocalServer, journal: Journal, rng: random.Random) -> None:
    stop = threading.Event()
    killer = threading.Timer(rng.uniform(0.1, 1.2), os.kill, (server.pid, signal.SIGKILL))
    deleter = threading.Thread(target=delete_some, args=(server.address, journal, rng, stop))
    killer.start()
    deleter.start()
    try:
        with Client(server.address) as client:
            client.upload(journal.items(), on_result=journal.note, patience_s=0.0)
        pytest.fail("the upload ended although the server was killed")
    except LookalikeError:
        pass
    finally:
        stop.set()
        killer.join()
        deleter.join()


def check(client: Client, journal: Journal) -> None:
    """Compare what is stored with what was told, and let every item find itself."""
    stored = {item.id for item in client.list(view="id")} if client.collections() else set()
    unknown = journal.delete_unknown - journal.deleted
    lost = journal.acknowledged - journal.deleted - unknown - stored
    assert not lost, f"{len(lost)} acknowledged items are gone: {sorted(lost)[:5]}"
    risen = stored & journal.deleted
    assert not risen, f"deleted items came back: {sorted(risen)[:5]}"
    phantom = {i for i in stored if number_of(i) >= journal.sent}
    assert not phantom, f"items that were never sent: {sorted(phantom)[:5]}"
    wanted = sorted(stored)[-400:]
    answers = client.search_batch(
        [Query(image=picture(number_of(i)), k=1, view="id") for i in wanted]
    )
    for item_id, answer in zip(wanted, answers, strict=True):
        assert isinstance(answer, SearchResult), answer
        assert answer[0].id == item_id, f"{item_id} does not find itself but {answer[0]}"
        assert answer[0].score >= 0.999


def kill_loop(folder: Path, loops: int) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    journal = Journal()
    for _ in range(loops):
        with LocalServer(folder) as server:
            with Client(server.address) as client:
                check(client, journal)
            upload_until_killed(server, journal, rng)
    with LocalServer(folder) as server, Client(server.address) as client:
        check(client, journal)
    assert journal.acknowledged, "the server never acknowledged anything"
    print(
        f"{loops} kills, {len(journal.acknowledged)} acknowledged, {len(journal.deleted)} deleted"
    )


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    kill_loop(tmp_path / "data", 4)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_what_was_acknowledged_survives_many_kills(tmp_path: Path) -> None:
    kill_loop(tmp_path / "data", int(os.environ.get("PROVE_KILLS", "250")))
