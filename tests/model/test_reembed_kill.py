"""A collection is carried over to another model by a server that is killed meanwhile."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lookalike.client import Client, Job, NewItem
from lookalike.client.local_server import LocalServer
from model.budget import SEED, folder, number
from model.changing import as_plugin, environment
from model.drivers import album

COUNT = 300
NAME = "pictures"
PER_CHUNK = 64


@pytest.fixture
def place() -> Iterator[Path]:
    made = folder("reembed-")
    yield made
    shutil.rmtree(made)


@contextmanager
def serving(place: Path, space: str, delay_s: float = 0.0) -> Iterator[tuple[LocalServer, Client]]:
    """Serve the data folder with the model in this space."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in as_plugin(place / "plugin").items():
            patch.setenv(name, value)
        for name, value in environment(space, delay_s, place / "log").items():
            patch.setenv(name, value)
        server = LocalServer(place / "data", "--embedder", "changing", "--log-level", "error")
        server.start()
    try:
        with Client(server.address, timeout_s=60.0) as client:
            yield server, client
    finally:
        server.stop()


def embedded(place: Path) -> int:
    """Return how many pictures the models have computed, over all processes."""
    return sum(map(int, (place / "log").read_text().split()))


def fill(place: Path) -> None:
    with serving(place, "old") as (_, client):
        client.create_collection(NAME, image_retention="original")
        client.upload((NewItem(f"p-{n}", album(n)) for n in range(COUNT)), collection=NAME)
        assert client.count(collection=NAME) == COUNT
    (place / "log").write_text("")


def check_whole(client: Client, rng: random.Random) -> str:
    """Return the state of the collection, all of whose items must be of one space."""
    shown = client.collection(NAME)
    assert shown.item_count == COUNT
    for n in rng.sample(range(COUNT), 10):
        item = client.get(f"p-{n}", view="full", collection=NAME)
        assert item.vector is not None
        assert len(item.vector) == shown.dimension
        ids = client.search(vector=item.vector, k=1, view="id", collection=NAME).ids
        assert ids == (f"p-{n}",)
    return shown.state


def killed_at(server: LocalServer, client: Client, after_s: float) -> Job:
    """Begin to embed anew, and kill the server after a while."""
    job = client.rebuild_index(NAME, reembed=True)
    time.sleep(after_s)
    os.kill(server.pid, signal.SIGKILL)
    return job


def carried_over(place: Path, kills: int) -> None:
    print(f"PROVE_SEED={SEED}")
    rng = random.Random(SEED)
    fill(place)
    spaces, spent = 0, 0
    left = kills
    while left:
        spaces += 1
        space = f"space {spaces}" + (" wide" if spaces % 2 else "")
        cuts = 0
        while left and cuts < 3:
            with serving(place, space, 0.003) as (server, client):
                state = check_whole(client, rng)
                if state != "model_mismatch" and cuts:
                    break  # the last kill came after the swap
                job = killed_at(server, client, rng.uniform(0.05, 1.2))
                left, cuts = left - 1, cuts + 1
        with serving(place, space) as (_, client):
            old = client.job(job.id)
            assert str(old.state) in ("failed", "succeeded"), old
            again = 0 if check_whole(client, rng) == "model_mismatch" else COUNT
            *_, last = client.watch_job(client.rebuild_index(NAME, reembed=True).id)
            assert str(last.state) == "succeeded", last
            assert check_whole(client, rng) == "ready"
            for n in rng.sample(range(COUNT), 5):
                assert client.search(image=album(n), k=1, collection=NAME).ids == (f"p-{n}",)
        assert not list((place / "data" / "reembed").glob("*")), "something is left behind"
        total = embedded(place)
        spent, used = total, total - spent
        searches = 5
        assert used <= COUNT + cuts * PER_CHUNK + searches + again, "it began anew each time"
    print(f"{kills} kills, {spaces} spaces, {spent} pictures embedded")


@pytest.mark.timeout(600)
def test_embedding_anew_survives_kills(place: Path) -> None:
    carried_over(place, number("PROVE_SHORT_REEMBED_KILLS", 1))


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_embedding_anew_survives_many_kills(place: Path) -> None:
    carried_over(place, number("PROVE_REEMBED_KILLS", 100))
