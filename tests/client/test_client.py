from __future__ import annotations

import builtins
import io
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lookalike.client
from client.fake_server import DIM, FakeServer, vector_of
from lookalike.client import Client, F, Hnsw, IndexSpec, NewItem, Query, errors
from lookalike.client._channel import retryable_methods
from lookalike.client._pictures import picture_bytes

PUBLIC = {
    "BackupReport", "ExportReport", "StoredItem", "Verification", "VerifyFinding", "VerifyProgress",
    "Client", "Collection", "DuplicateGroup", "DuplicateMember", "DuplicateProgress",
    "EmbeddingCounts", "Embeddings", "Explanation", "F", "FieldCounts", "Flat", "Health", "Hit", "Hnsw", "ImageInfo",
    "IndexSegment", "IndexSpec", "IndexStatus", "Item", "ItemImage", "Ivf", "Job", "Limits",
    "LocalServer", "LookalikeError", "Model", "NewItem", "Part", "Query", "Region",
    "RecallEstimate", "RecallReport", "SearchTimes", "SelfMatch",
    "RegionMatch", "ScoreCalibration", "SearchInfo", "SearchResult", "ServerInfo", "Tier",
    "UploadProgress", "UploadReport", "ValueCount", "WriteOutcome", "WriteResult",
    "vector_array", "vector_message",
}  # fmt: skip


def test_the_public_names_are_these_and_all_are_there() -> None:
    assert set(lookalike.client.__all__) == PUBLIC
    assert {name for names in lookalike.client._HOMES.values() for name in names} == PUBLIC
    for name in PUBLIC:
        assert getattr(lookalike.client, name) is not None
        assert name in dir(lookalike.client)
    with pytest.raises(AttributeError, match="nonsense"):
        lookalike.client.nonsense  # noqa: B018


def test_importing_the_client_alone_does_not_load_grpc_or_numpy() -> None:
    code = "import sys, lookalike.client; print([m for m in ('grpc', 'numpy') if m in sys.modules])"
    path = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    out = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=path
    )
    assert out.stdout.strip() == "[]", out.stderr


def test_what_is_stored_is_found(client: Client) -> None:
    results = client.upsert(
        [
            NewItem("a", b"picture a", metadata={"price": 3, "tags": ["red"], "deep": {"x": 1.5}}),
            NewItem("b", b"picture b"),
            NewItem("c", b"bad picture"),
        ]
    )
    assert [r.outcome for r in results] == ["created", "created", "failed"]
    assert isinstance(results[2].error, errors.ImageUndecodable)
    found = client.search(image=b"picture a", k=2)
    assert found.ids == ("a", "b")
    assert found[0].score == pytest.approx(1.0)
    assert found[0].metadata == {"price": 3, "tags": ["red"], "deep": {"x": 1.5}}
    assert isinstance(found[0].metadata["price"], int)
    assert found[0].image is not None
    assert found[0].image.media_type == "image/png"
    assert [hit.id for hit in found] == ["a", "b"]
    assert len(found[:1]) == 1
    assert found.info.exact
    assert found.info.matched_count is None
    assert client.search(like="b", k=1).ids == ("b",)
    assert client.search(vector=vector_of(b"picture b"), k=1).ids == ("b",)


def test_a_search_carries_all_that_was_asked(server: FakeServer, client: Client) -> None:
    client.search(
        text="a shoe", where=F.price < 9, k=3, min_score=0.0, view="full", ef_search=77, nprobe=5,
        exact=True, collection="shoes",
    )  # fmt: skip
    request = server.seen.calls[-1]
    assert (request.text, request.limit, request.collection) == ("a shoe", 3, "shoes")
    assert request.HasField("min_score")
    assert request.filter.all[0].lt.number_value == 9
    assert (request.params.exact, request.params.ef_search, request.params.nprobe) == (True, 77, 5)
    client.search(text="a shoe")
    assert not server.seen.calls[-1].HasField("params")
    assert not server.seen.calls[-1].HasField("min_score")


@pytest.mark.parametrize("query", [{}, {"text": "a", "like": "b"}])
def test_a_search_needs_exactly_one_query(client: Client, query: Any) -> None:
    with pytest.raises(errors.QueryMissing):
        client.search(**query)


@pytest.mark.parametrize("query", [{"k": 0}, {"view": "half"}, {"where": "price <"}])
def test_a_search_that_cannot_work_is_refused_before_it_is_sent(
    server: FakeServer, client: Client, query: Any
) -> None:
    with pytest.raises(errors.InvalidArgument):
        client.search(text="a", **query)
    assert server.seen.calls == []


def test_a_batch_has_an_error_in_the_place_of_what_failed(client: Client) -> None:
    client.upsert([NewItem("a", b"one")])
    good, bad = client.search_batch([Query(image=b"one"), Query(text="bad")])
    assert not isinstance(good, errors.LookalikeError)
    assert good.ids == ("a",)
    assert isinstance(bad, errors.ModelLacksModality)


def test_a_stream_of_queries_is_answered_in_order(client: Client) -> None:
    client.upsert([NewItem("a", b"one")])
    queries = [Query(image=b"one"), Query(text="bad"), Query(image=b"one", k=1)]
    good, bad, last = client.search_stream(iter(queries))
    assert not isinstance(good, errors.LookalikeError)
    assert not isinstance(last, errors.LookalikeError)
    assert good.ids == last.ids == ("a",)
    assert isinstance(bad, errors.ModelLacksModality)


def test_a_stream_of_queries_may_be_left_early(client: Client) -> None:
    client.upsert([NewItem("a", b"one")])
    answers = client.search_stream(Query(image=b"one") for _ in range(1000))
    first = next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert not isinstance(first, errors.LookalikeError)
    assert client.count() == 1


def test_batches_are_cut_by_count_and_answers_stay_in_order(
    server: FakeServer, client: Client
) -> None:
    results = client.upsert([NewItem(f"{i:04}", b"%d" % i) for i in range(600)])
    assert [r.id for r in results] == [f"{i:04}" for i in range(600)]
    assert [len(c.items) for c in server.seen.calls] == [256, 256, 88]
    big = [NewItem(str(i), bytes([i]) * 10 * 2**20) for i in range(3)]
    client.upsert(big)
    assert [len(c.items) for c in server.seen.calls[3:]] == [1, 1, 1]


def test_vectors_come_as_one_matrix(client: Client) -> None:
    made = client.embed(images=[b"one", b"two"], texts=["three"])
    assert made.vectors.shape == (3, DIM)
    assert made.vectors.dtype == np.float32
    assert np.allclose(np.asarray(made)[1], vector_of(b"two"))
    assert made.model.fingerprint == "f/1"
    assert len(client.embed(texts=[str(i) for i in range(300)])) == 300


def test_an_input_that_fails_raises_or_is_a_row_of_nan(client: Client) -> None:
    with pytest.raises(errors.ImageUndecodable):
        client.embed(images=[b"one", b"bad"])
    made = client.embed(images=[b"one", b"bad"], strict=False)
    assert list(made.errors) == [1]
    assert np.isnan(made.vectors[1]).all()
    assert not np.isnan(made.vectors[0]).any()


def test_embed_takes_lists_and_something(client: Client) -> None:
    with pytest.raises(errors.InputsEmpty):
        client.embed()
    with pytest.raises(TypeError, match="lists"):
        client.embed(texts="abc")


def test_items_are_listed_over_pages_and_counted_and_deleted(
    server: FakeServer, client: Client
) -> None:
    client.upsert([NewItem(f"{i:03}", b"%d" % i) for i in range(25)])
    assert [item.id for item in client.list(page_size=10)] == [f"{i:03}" for i in range(25)]
    assert client.count() == 25
    assert client.delete(["001", "002", "nope"], dry_run=True) == 2
    assert client.delete(["001", "002", "nope"]) == 2
    assert client.delete([]) == 0
    assert client.count() == 23
    with pytest.raises(errors.ItemNotFound):
        client.get("001")
    with pytest.raises(errors.InvalidArgument):
        client.delete()
    with pytest.raises(errors.InvalidArgument):
        client.delete(["a"], where="x = 1")
    with pytest.raises(TypeError):
        client.delete("003")


def test_an_item_comes_with_its_vector_if_asked(client: Client) -> None:
    client.upsert([NewItem("a", b"one", metadata={"when": datetime(2024, 5, 6, tzinfo=UTC)})])
    item = client.get("a", view="full")
    assert item.vector is not None
    assert np.allclose(item.vector, vector_of(b"one"))
    assert item.metadata == {"when": "2024-05-06T00:00:00Z"}
    assert client.get("a").vector is None
    assert client.update_metadata("a", {"n": 1}).metadata["n"] == 1


def test_a_stored_picture_is_put_together(client: Client) -> None:
    client.upsert([NewItem("a", b"0123456789")])
    assert client.image("a").data == b"0123456789"
    assert client.image("a").media_type == "image/png"
    with pytest.raises(errors.ImageNotRetained):
        client.image("b")


def test_collections_and_jobs_come_and_go(server: FakeServer, client: Client) -> None:
    spec = IndexSpec("faiss", Hnsw(m=8), {"factory": "x"})
    made = client.create_collection("new", metric="l2", index=spec, image_retention="original")
    assert (made.name, made.metric, made.image_retention, made.index) == (
        "new",
        "l2",
        "original",
        spec,
    )
    with pytest.raises(errors.CollectionExists):
        client.create_collection("new")
    assert client.create_collection("new", index="hnswlib", exist_ok=True).index.backend
    assert [c.name for c in client.collections()] == ["default", "new"]
    assert client.delete_collection("new") == 7
    with pytest.raises(errors.CollectionNotFound):
        client.collection("new")
    with pytest.raises(errors.InvalidArgument, match="cosine, dot, l2"):
        client.create_collection("other", metric="hamming")
    job = client.rebuild_index(index="exact")
    assert not job.is_over
    assert [j.state for j in client.watch_job(job.id)] == ["running", "succeeded"]
    assert client.cancel_job(job.id).is_over
    assert client.jobs()[0].id == client.job("job-1").id
    with pytest.raises(errors.JobNotFound):
        client.job("job-9")


def test_an_enum_value_of_a_newer_server_does_not_fail(client: Client) -> None:
    assert client.models()[0].modalities == ("text", "image", "unknown")
    assert len(client.models()) == 2


def test_health_is_asked_and_waited_for(server: FakeServer, client: Client) -> None:
    assert client.health() == "serving"
    server.health = b"\x08\x02"
    assert client.health("") == "not_serving"
    threading.Timer(0.3, lambda: setattr(server, "health", b"\x08\x01")).start()
    client.wait_ready(5)
    server.health = b"\x08\x09"
    assert client.health() == "unknown"
    with pytest.raises(errors.ServerUnavailable, match="is not ready after"):
        client.wait_ready(0.2)
    assert client.info().version == "0.0.0-fake"


def test_pictures_of_every_kind_are_sent(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    picture = image.fromarray(pixels)

    def seen(data: bytes) -> Any:
        return np.asarray(image.open(io.BytesIO(data)).convert("RGB"))

    path = tmp_path / "a.png"
    picture.save(path)
    assert picture_bytes(path) == picture_bytes(str(path)) == path.read_bytes()
    assert picture_bytes(memoryview(b"abc")) == b"abc"
    assert np.array_equal(seen(picture_bytes(pixels)), pixels)
    assert np.array_equal(seen(picture_bytes(picture)), pixels)
    assert seen(picture_bytes(pixels[:, :, 0])).shape == (4, 5, 3)
    assert seen(picture_bytes(pixels[:, :, :1])).shape == (4, 5, 3)
    assert seen(picture_bytes(picture.convert("CMYK"))).shape == (4, 5, 3)
    assert seen(picture_bytes(picture.convert("F"))).shape == (4, 5, 3)
    with pytest.raises(errors.InvalidArgument, match="uint8"):
        picture_bytes(pixels.astype(np.float32))
    with pytest.raises(errors.InvalidArgument, match="channels"):
        picture_bytes(pixels[:, :, :2])
    with pytest.raises(TypeError, match="int"):
        picture_bytes(3)  # type: ignore[arg-type]
    with pytest.raises(errors.FileUnreadable, match="No such file"):
        picture_bytes(tmp_path / "nothing.jpg")


def test_a_pillow_picture_is_sent_upright() -> None:
    image = pytest.importorskip("PIL.Image")
    picture = image.new("RGB", (6, 3))
    picture.getexif()[0x0112] = 6
    assert image.open(io.BytesIO(picture_bytes(picture))).size == (3, 6)


def test_without_pillow_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(errors.PillowMissing, match="pip install pillow"):
        picture_bytes(np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize(
    "metadata",
    [{"a": object()}, {"a": float("inf")}, {"a": 2**60}, {1: "a"}, {"a": datetime(2024, 1, 1)}],
)
def test_metadata_that_would_not_come_back_is_refused(client: Client, metadata: Any) -> None:
    with pytest.raises(errors.InvalidArgument):
        client.upsert([NewItem("a", b"x", metadata=metadata)])


def test_reads_and_upserts_may_be_repeated_and_nothing_else() -> None:
    methods = {m["method"] for m in retryable_methods()}
    assert {"Search", "BatchSearch", "Embed", "GetItem", "UpsertItems", "DeleteItems"} <= methods
    assert not {"UploadItems", "CreateCollection", "RebuildIndex"} & methods


def test_many_threads_share_one_client(client: Client) -> None:
    client.upsert([NewItem("a", b"one")])
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                assert client.search(image=b"one").ids == ("a",)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
