"""The same pictures behind every index: the same answers, or nearly, and no dead ones."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookalike.client import Client, Flat, Hnsw, IndexSpec, Ivf, NewItem
from lookalike.client.local_server import LocalServer
from made_pictures import jpeg
from shared_data import shared

SPECS = {
    "exact": IndexSpec("exact"),
    "faiss-flat": IndexSpec("faiss", Flat()),
    "faiss-hnsw": IndexSpec("faiss", Hnsw()),
    "faiss-ivf": IndexSpec("faiss", Ivf()),
    "faiss-pq": IndexSpec("faiss", options={"factory": "IVF32,PQ96x4fs,RFlat"}),
    "hnswlib": IndexSpec("hnswlib"),
}
SAME_IDS = {"exact", "faiss-flat"}
QUERIES = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with LocalServer(tmp_path_factory.mktemp("backends")) as server:
        with Client(server.address) as client:
            yield client


def available() -> list[str]:
    """Return the names of the specs whose library is here (hnswlib needs a compiler)."""
    has_hnswlib = importlib.util.find_spec("hnswlib") is not None
    return [name for name, spec in SPECS.items() if spec.backend != "hnswlib" or has_hnswlib]


def index_as(client: Client, collection: str, name: str) -> None:
    """Build the collection's index of one kind, and see that it is really in use."""
    job = client.rebuild_index(collection, index=SPECS[name])
    *_, last = client.watch_job(job.id)
    assert last.state == "succeeded", last.error
    status = client.collection(collection).index_status
    assert [segment.backend for segment in status.segments] == [SPECS[name].backend]
    assert status.indexed_count == client.count(collection=collection)


def answers(client: Client, collection: str, vectors: np.ndarray, exact: bool) -> list[list[str]]:
    from lookalike.client import Query

    found = client.search_batch(
        [Query(vector=v, k=10, view="id", exact=exact) for v in vectors], collection=collection
    )
    return [[hit.id for hit in answer] for answer in found]  # type: ignore[union-attr]


def check_all(client: Client, collection: str) -> None:
    items = list(client.list(view="full", collection=collection))
    seed = 11
    print(f"seed {seed}")
    chosen = random.Random(seed).sample(items, min(QUERIES, len(items)))
    vectors = np.stack([item.vector for item in chosen if item.vector is not None])
    truth = answers(client, collection, vectors, exact=True)
    for name in available():
        index_as(client, collection, name)
        found = answers(client, collection, vectors, exact=False)
        if name in SAME_IDS:
            assert found == truth, name
        recall = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)])
        assert recall >= 0.98, f"{name}: recall@10 {recall:.4f}"
    dead = set(random.Random(seed).sample([item.id for item in items], len(items) // 2))
    gone = sorted(dead)
    for at in range(0, len(gone), 500):
        client.delete(gone[at : at + 500], collection=collection)
    for name in ("faiss-hnsw", "exact"):
        found = answers(client, collection, vectors, exact=False)
        assert all(dead.isdisjoint(ids) for ids in found)
        assert all(len(ids) == 10 for ids in found)
        index_as(client, collection, name)


def test_made_pictures_are_found_behind_every_index(server: Client) -> None:
    server.create_collection("made")
    server.upload([NewItem(id=f"p-{i}", image=jpeg(i)) for i in range(700)], collection="made")
    check_all(server, "made")


@pytest.mark.shared
def test_the_photographs_are_found_behind_every_index(server: Client) -> None:
    photos = shared("data/photos")
    server.create_collection("photos")
    report = server.upload(photos, collection="photos")
    assert report.failed == 0
    check_all(server, "photos")


@pytest.mark.parametrize("backend", ["auto", "exact", "faiss", "hnswlib"])
def test_the_configuration_chooses_the_index(backend: str, tmp_path: Path) -> None:
    if backend == "hnswlib":
        pytest.importorskip("hnswlib", reason="pip install 'lookalike[hnswlib]' (needs g++)")
    with LocalServer(tmp_path, "--index", backend) as server, Client(server.address) as client:
        client.upload([NewItem(id=f"p-{i}", image=jpeg(i)) for i in range(5)])
        assert client.collection().index.backend == backend
        assert client.search(image=jpeg(2), k=1)[0].id == "p-2"
