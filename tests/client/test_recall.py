"""Recall in the client and on the command line."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest

from client.cli_run import Run
from client.fake_server import FakeServer
from lookalike.client import Client, Hnsw, IndexSpec, SelfMatch
from lookalike.client.errors import InvalidArgument
from lookalike.v1 import index_service_pb2 as ip
from lookalike.v1 import search_service_pb2 as pb


def test_a_measurement_is_asked_for_and_read(client: Client, server: FakeServer) -> None:
    found = client.measure_recall(
        "shoes", query_count=500, k=20, queries="recent", ef_search=16, nprobe=3, seed=7
    )
    assert server.seen.calls[-1] == pb.MeasureRecallRequest(
        collection="shoes",
        query_count=500,
        limit=20,
        queries=pb.RECALL_QUERIES_RECENT,
        params=pb.SearchParams(ef_search=16, nprobe=3),
        seed=7,
    )
    assert found.estimate is not None
    assert (found.estimate.recall, found.estimate.limit) == (0.95, 10)
    assert found.estimate.measure_time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert found.self_match == SelfMatch(1.0, 0.97, 1.0, 128)
    assert (found.stored_query_count, found.recent_query_count) == (128, 128)
    assert found.index_times is not None
    assert (found.index_times.mean_ms, found.index_times.p99_ms) == (0.25, 0.5)
    assert (found.ef_search, found.nprobe, found.target_recall) == (16, 3, 0.99)
    assert found.segments[0].settings["ef_search"] == 16


def test_nothing_measured_is_none_and_not_zero(client: Client, server: FakeServer) -> None:
    found = client.measure_recall("empty")
    assert found.estimate is None
    assert found.self_match is None
    assert found.index_times is None
    assert not server.seen.calls[-1].HasField("params")


def test_what_cannot_be_asked_is_refused_here(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="at least 1"):
        client.measure_recall(k=0)
    with pytest.raises(InvalidArgument, match="one of both, stored, recent"):
        client.measure_recall(queries="old")  # type: ignore[arg-type]


def test_a_target_recall_goes_with_the_kind_of_index(client: Client, server: FakeServer) -> None:
    spec = IndexSpec("faiss", Hnsw(m=8), target_recall=0.95)
    made = client.create_collection("fine", index=spec)
    assert server.seen.calls[-1].collection.index.target_recall == 0.95
    assert made.index == spec
    client.rebuild_index("fine", index=IndexSpec(target_recall=0.9))
    assert server.seen.calls[-1].index == ip.IndexSpec(target_recall=0.9)
    assert client.collection("fine").index_status.recall is None


# ------------------------------------------------------------- command line


def test_recall_is_a_table_with_its_interval(run: Run) -> None:
    code, out, err = run("eval", "index")
    assert (code, err) == (0, "")
    head, row, *rest = out.splitlines()
    assert head.split() == [
        "searched", "with", "recall", "95", "%", "find", "themselves", "ms", "p99", "ms",
        "exact", "ms", "queries",
    ]  # fmt: skip
    assert re.split("  +", row) == [
        "as by itself", "0.9500", "0.9460 to 0.9530", "1.0000", "0.250", "0.500", "9.000",
        "128 stored, 128 recent",
    ]  # fmt: skip
    assert any(line.split() == ["target", "0.99"] for line in rest)
    assert any("'ef_search': 16" in line or '"ef_search": 16' in line for line in rest)


def test_several_values_are_tried_out(run: Run, server: FakeServer) -> None:
    code, out, _ = run("eval", "index", "shoes", "--sweep", "ef=16,64", "--seed", "3", "-n", "99")
    assert code == 0
    asked = server.seen.calls[-2:]
    assert [a.params.ef_search for a in asked] == [16, 64]
    assert all((a.seed, a.query_count, a.collection) == (3, 99, "shoes") for a in asked)
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [
        ["ef_search=16", "0.9500"],
        ["ef_search=64", "0.9950"],
    ]
    code, out, _ = run("eval", "index", "--sweep", "nprobe=1,2,4", "--json")
    assert [json.loads(line)["nprobe"] for line in out.splitlines()] == [1, 2, 4]


def test_less_than_is_wanted_fails(run: Run) -> None:
    assert run("eval", "index", "--at-least", "0.95")[0] == 0
    assert run("eval", "index", "--at-least", "0.951")[0] == 1
    assert run("eval", "index", "--at-least", "0.98", "--sweep", "ef=16,64")[0] == 0
    assert run("eval", "index", "--at-least", "0.999", "--sweep", "ef=16,64")[0] == 1
    code, out, err = run("eval", "index", "empty", "--at-least", "0.5")
    assert (code, out) == (1, "")
    assert "nothing to measure" in err
    assert run("eval", "index", "empty")[0] == 0


@pytest.mark.parametrize("sweep", ["ef", "m=1,2", "ef=a", "=1"])
def test_a_sweep_that_cannot_be_read_is_a_matter_of_usage(sweep: str, run: Run) -> None:
    code, _, err = run("eval", "index", "--sweep", sweep)
    assert code == 2
    assert "ef=16,32,64" in err


def test_the_target_is_an_option_and_shown(run: Run, server: FakeServer) -> None:
    assert run("collections", "create", "fine", "--target-recall", "0.95")[0] == 0
    sent = server.seen.calls[-1].collection.index
    assert (sent.backend, sent.target_recall) == ("", 0.95)
    assert run("rebuild", "fine", "--target-recall", "0.9", "--no-wait")[0] == 0
    assert server.seen.calls[-1].index.target_recall == 0.9
    one = server.collections["fine"]
    assert "target" not in run("collections", "show", "fine")[1]
    one.index_status.segments.add(backend="faiss")
    assert "not measured yet, target 0.95" in run("collections", "show", "fine")[1]
    one.index_status.recall.recall, one.index_status.recall.low = 0.97, 0.96
    one.index_status.recall.high = 0.98
    one.index_status.recall.measure_time.FromSeconds(1_700_000_000)
    told = "0.9700 (0.9600 to 0.9800), target 0.95, 2023-11-14 22:13:20"
    assert told in run("collections", "show", "fine")[1]
    assert re.search(rf"^recall of fine +{re.escape(told)}$", run("info")[1], re.MULTILINE)
