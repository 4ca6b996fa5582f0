"""Recall of a real server: asked for by the client, held by the server, kept over a restart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lookalike.client import Client, Hnsw, IndexSpec, NewItem
from lookalike.client.cli import run
from lookalike.client.errors import CollectionNotFound, DeadlineExceeded
from lookalike.client.local_server import LocalServer

COUNT, DIM = 3000, 24


def test_recall_is_measured_and_its_target_outlives_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = 3
    print("seed", seed)
    vectors = np.random.default_rng(seed).standard_normal((COUNT, DIM), dtype=np.float32)
    index = IndexSpec("faiss", Hnsw(m=8, ef_construction=40, ef_search=10), target_recall=0.95)
    with LocalServer(tmp_path / "data") as server, Client(server.address) as client:
        client.create_collection("own", model="none", dimension=DIM, index=index)
        items = [NewItem(id=f"{i:05}", vector=vector) for i, vector in enumerate(vectors)]
        assert client.upload(items, collection="own").created == COUNT
        *_, last = client.watch_job(client.rebuild_index("own").id)
        assert last.state == "succeeded"
        queries = vectors[:50] + 0.5 * vectors[50:100]
        for query in queries:
            client.search(vector=query, collection="own", view="id")
        found = client.measure_recall("own", query_count=200, seed=5)
        assert (found.stored_query_count, found.recent_query_count) == (150, 50)
        assert (found.item_count, found.target_recall, found.exact) == (COUNT, 0.95, False)
        assert found.estimate is not None
        assert 0.5 < found.estimate.low < found.estimate.recall < 1
        with pytest.raises(CollectionNotFound):
            client.measure_recall("none")
        with pytest.raises(DeadlineExceeded):
            client.measure_recall("own", query_count=10_000, timeout_s=0.05)
    monkeypatch.setenv("LOOKALIKE_ADDRESS", "")
    with LocalServer(tmp_path / "data") as server, Client(server.address) as client:
        shown = client.collection("own")
        assert shown.index == index
        same = client.measure_recall("own", query_count=150, queries="stored", seed=5)
        assert same.recent_query_count == 0
        assert same.estimate is not None
        assert same.estimate.recall == pytest.approx(found.estimate.recall, abs=0.05)
        capsys.readouterr()
        args = ["eval", "index", "own", "--source", "stored", "--server", server.address, "--json"]
        assert run([*args, "--sweep", "ef=1,60", "--at-least", "0.5"]) == 0
        low, high = map(json.loads, capsys.readouterr().out.splitlines())
        assert low["estimate"]["recall"] < high["estimate"]["recall"]
        assert run([*args, "--ef-search", "1", "--at-least", "1"]) == 1
