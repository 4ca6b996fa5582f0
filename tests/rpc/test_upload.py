from __future__ import annotations

import hashlib
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import pytest

from lookalike.server.limits import Limits
from lookalike.v1 import index_service_pb2 as pb
from lookalike.v1 import types_pb2
from rpc.fake_domain import BAD_PICTURE
from rpc.harness import Failure, Server, failure, serving

START = pb.UploadItemsRequest(start=pb.UploadStart())


def item(item_id: str, data: bytes = b"picture") -> pb.ItemInput:
    return pb.ItemInput(id=item_id, image=types_pb2.Image(data=data))


def batch(*items: tuple[int, pb.ItemInput], **fields: Any) -> pb.UploadItemsRequest:
    entries = [pb.UploadItem(seq=seq, item=given, **fields) for seq, given in items]
    return pb.UploadItemsRequest(batch=pb.UploadBatch(items=entries))


def chunk(seq: int, offset: int, data: bytes, last: bool = False) -> pb.UploadItemsRequest:
    return pb.UploadItemsRequest(chunk=pb.UploadChunk(seq=seq, offset=offset, data=data, last=last))


def flush(token: int) -> pb.UploadItemsRequest:
    return pb.UploadItemsRequest(flush=pb.UploadFlush(token=token))


class Talk:
    """A client of one stream that says one message at a time."""

    def __init__(self, server: Server) -> None:
        self.out: queue.SimpleQueue[pb.UploadItemsRequest | None] = queue.SimpleQueue()
        self.call = server.index.UploadItems(iter(self.out.get, None), timeout=20)

    def say(self, *messages: pb.UploadItemsRequest) -> None:
        for message in messages:
            self.out.put(message)

    def hear(self) -> pb.UploadItemsResponse:
        return next(self.call)

    def close(self) -> None:
        self.out.put(None)


def upload(server: Server, messages: Iterable[pb.UploadItemsRequest]) -> list[Any]:
    return list(server.index.UploadItems(iter(messages), timeout=20))


def acks(responses: Iterable[pb.UploadItemsResponse]) -> dict[int, pb.WriteResult]:
    found: dict[int, pb.WriteResult] = {}
    for response in responses:
        for ack in response.acks.acks:
            assert ack.seq not in found, "acknowledged twice"
            found[ack.seq] = ack.result
    return found


def refused(server: Server, *messages: pb.UploadItemsRequest) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        upload(server, messages)
    return failure(caught.value)


def upload_threads() -> int:
    return sum(thread.name == "upload-reader" for thread in threading.enumerate())


def wait_until(holds: Any) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: upload_threads() == 0)


def test_started_comes_first_and_summary_last(server: Server) -> None:
    said = upload(server, [START, batch((1, item("a")), (2, item("b", BAD_PICTURE)))])
    assert said[0].started.window_items == Limits().upload_window_items
    assert said[0].started.max_image_bytes == Limits().max_image_bytes
    found = acks(said)
    assert found[1].outcome == pb.WRITE_OUTCOME_CREATED
    assert found[2].outcome == pb.WRITE_OUTCOME_FAILED
    assert found[2].error.reason == "IMAGE_UNDECODABLE"
    assert found[2].error.field == "item.image"
    assert said[-1].summary.counts == pb.UploadCounts(created=1, failed=1)


def test_an_upload_without_items_ends_well(server: Server) -> None:
    assert [r.WhichOneof("message") for r in upload(server, [START])] == ["started", "summary"]


def test_every_seq_is_acknowledged_exactly_once(server: Server) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)

    def messages() -> Iterator[pb.UploadItemsRequest]:
        yield START
        seq = 0
        while seq < 3000:
            size = rng.randint(1, 400)
            yield batch(*((seq + i, item(f"i{seq + i}")) for i in range(1, size + 1)))
            seq += size

    said = upload(server, messages())
    found = acks(said)
    assert sorted(found) == list(range(1, len(found) + 1))
    assert said[-1].summary.counts.created == len(found) >= 3000
    assert server.ingest.most_under_way <= Limits().upload_window_items


def test_a_flush_is_answered_after_the_items_before_it_and_not_those_after(server: Server) -> None:
    server.ingest.gate.clear()
    talk = Talk(server)
    talk.say(START, batch((1, item("a")), (2, item("b"))), flush(7), batch((3, item("c"))))
    assert talk.hear().WhichOneof("message") == "started"
    wait_until(lambda: server.ingest.under_way == 3)
    server.ingest.gate.set()
    heard: list[pb.UploadItemsResponse] = []
    while not heard or heard[-1].WhichOneof("message") != "flushed":
        heard.append(talk.hear())
    assert {1, 2} <= set(acks(heard))
    assert heard[-1].flushed.token == 7
    assert heard[-1].flushed.counts.created >= 2
    talk.say(flush(8))
    talk.close()
    rest = list(talk.call)
    assert [r.flushed.token for r in rest if r.WhichOneof("message") == "flushed"] == [8]
    assert rest[-1].summary.counts.created == 3


def test_a_flush_waits_for_an_unfinished_chunked_item(server: Server) -> None:
    talk = Talk(server)
    talk.say(START, batch((1, pb.ItemInput(id="big")), chunked=True), flush(1))
    talk.say(batch((2, item("small"))))
    assert talk.hear().WhichOneof("message") == "started"
    assert set(acks([talk.hear()])) == {2}
    talk.say(chunk(1, 0, b"picture", last=True))
    talk.close()
    rest = list(talk.call)
    assert [r.WhichOneof("message") for r in rest][-2:] == ["flushed", "summary"]
    assert set(acks(rest)) == {1}


def test_chunks_of_different_items_may_be_mixed(server: Server) -> None:
    big, other = bytes(range(256)) * 4000, b"other picture"
    sha256 = hashlib.sha256(big).hexdigest()
    announced = pb.UploadItem(seq=1, item=pb.ItemInput(id="big"), chunked=True, sha256=sha256)
    said = upload(
        server,
        [
            START,
            pb.UploadItemsRequest(batch=pb.UploadBatch(items=[announced])),
            batch((2, pb.ItemInput()), chunked=True),
            chunk(1, 0, big[:300_000]),
            chunk(2, 0, other[:5]),
            batch((3, item("c"))),
            chunk(1, 300_000, big[300_000:]),
            chunk(2, 5, other[5:], last=True),
            chunk(1, len(big), b"", last=True),
        ],
    )
    found = acks(said)
    assert {result.outcome for result in found.values()} == {pb.WRITE_OUTCOME_CREATED}
    assert found[2].id == "sha256:" + hashlib.sha256(other).hexdigest()
    stored = server.library.collections["default"].items["big"][1]
    assert stored.image == big


@pytest.mark.parametrize("offset", [4, 6])
def test_a_chunk_at_the_wrong_offset_fails_its_item_and_not_the_stream(
    server: Server, offset: int
) -> None:
    said = upload(
        server,
        [
            START,
            batch((1, pb.ItemInput(id="a")), (2, pb.ItemInput(id="b")), chunked=True),
            chunk(1, 0, b"12345"),
            chunk(1, offset, b"678"),
            chunk(1, 5, b"678"),
            chunk(2, 0, b"whole", last=True),
            chunk(1, 8, b"9", last=True),
        ],
    )
    found = acks(said)
    assert found[1].error.reason == "CHUNK_OUT_OF_ORDER"
    assert found[1].error.metadata == {"expected": "5", "actual": str(offset)}
    assert found[2].outcome == pb.WRITE_OUTCOME_CREATED
    assert said[-1].summary.counts == pb.UploadCounts(created=1, failed=1)


def test_a_file_that_grows_too_large_fails_its_item_and_not_the_stream() -> None:
    with serving(Limits(max_image_bytes=1000)) as server:
        messages = [START, batch((1, pb.ItemInput(id="a")), chunked=True)]
        messages += [chunk(1, i * 400, b"x" * 400) for i in range(5)]
        messages += [chunk(1, 2000, b"", last=True), batch((2, item("b")))]
        found = acks(upload(server, messages))
    assert found[1].error.reason == "IMAGE_TOO_LARGE"
    assert found[2].outcome == pb.WRITE_OUTCOME_CREATED


def test_memory_for_unfinished_files_is_bounded_over_all_streams() -> None:
    limits = Limits(max_uploads=2, upload_window_bytes=1000)
    with serving(limits) as server:
        first = Talk(server)
        first.say(START, batch((1, pb.ItemInput(id="a")), chunked=True), chunk(1, 0, b"x" * 1500))
        first.say(batch((2, item("ok"))))
        assert first.hear().WhichOneof("message") == "started"
        assert set(acks([first.hear()])) == {2}
        second = [START, batch((1, pb.ItemInput(id="b")), chunked=True)]
        second += [chunk(1, 0, b"y" * 1500, last=True)]
        assert acks(upload(server, second))[1].error.reason == "OVERLOADED"
        first.say(chunk(1, 1500, b"", last=True))
        first.close()
        assert acks(first.call)[1].outcome == pb.WRITE_OUTCOME_CREATED
        assert acks(upload(server, second))[1].outcome == pb.WRITE_OUTCOME_CREATED


def test_more_unfinished_bytes_than_the_window_do_not_block_the_stream() -> None:
    with serving(Limits(upload_window_bytes=100, upload_window_items=1)) as server:
        messages = [START, batch(*((i, pb.ItemInput(id=f"{i}")) for i in (1, 2, 3)), chunked=True)]
        messages += [chunk(i, 0, b"x" * 90) for i in (1, 2, 3)]
        messages += [chunk(i, 90, b"x" * 90, last=True) for i in (1, 2, 3)]
        assert upload(server, messages)[-1].summary.counts.created == 3


def test_a_file_that_is_never_completed_fails_when_the_client_closes(server: Server) -> None:
    said = upload(
        server,
        [START, batch((1, pb.ItemInput(id="a")), chunked=True), chunk(1, 0, b"half")],
    )
    assert acks(said)[1].error.reason == "IMAGE_UNDECODABLE"
    assert said[-1].summary.counts.failed == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_with_another_sha256_than_announced_fails(server: Server, chunked: bool) -> None:
    wrong = "ab" * 32
    given = pb.ItemInput(id="a") if chunked else item("a")
    messages = [START, batch((1, given), chunked=chunked, sha256=wrong)]
    if chunked:
        messages.append(chunk(1, 0, b"picture", last=True))
    assert acks(upload(server, messages))[1].error.reason == "CHECKSUM_MISMATCH"
    assert not server.ingest.submitted


def test_what_is_wrong_with_an_item_fails_the_item_alone(server: Server) -> None:
    said = upload(
        server,
        [
            START,
            batch((1, pb.ItemInput()), (2, item("a\n")), (3, pb.ItemInput(id="x"))),
            batch((4, item("a")), chunked=True),
            chunk(4, 0, b"passed over", last=True),
            batch((5, item("a")), sha256="zz"),
            batch((6, item("x" * 300))),
            batch((7, item("good"))),
        ],
    )
    found = acks(said)
    assert [found[seq].error.reason for seq in range(1, 8)] == [
        "ID_MISSING",
        "ID_INVALID",
        "ARGUMENT_INVALID",
        "ARGUMENT_INVALID",
        "ARGUMENT_INVALID",
        "ID_INVALID",
        "",
    ]
    assert found[4].error.field == "item.image"
    assert found[6].id == "x" * 256


@pytest.mark.parametrize(
    "messages",
    [
        [batch((1, item("a")))],
        [chunk(0, 0, b"")],
        [pb.UploadItemsRequest()],
        [],
    ],
)
def test_an_upload_must_begin_with_start(
    server: Server, messages: list[pb.UploadItemsRequest]
) -> None:
    found = refused(server, *messages)
    assert (found.code, found.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "UPLOAD_NOT_STARTED",
    )


@pytest.mark.parametrize(
    ("messages", "reason", "field"),
    [
        ([START], "ARGUMENT_INVALID", "start"),
        ([pb.UploadItemsRequest()], "ARGUMENT_INVALID", "message"),
        ([batch()], "INPUTS_EMPTY", "batch.items"),
        ([batch((0, item("a")))], "SEQ_NOT_INCREASING", "batch.items[0].seq"),
        ([batch((1, item("a")), (1, item("b")))], "SEQ_NOT_INCREASING", "batch.items[1].seq"),
        ([chunk(5, 0, b"x")], "CHUNK_OUT_OF_ORDER", "chunk.seq"),
    ],
)
def test_what_breaks_the_protocol_ends_the_stream(
    server: Server, messages: list[pb.UploadItemsRequest], reason: str, field: str
) -> None:
    found = refused(server, START, *messages)
    assert (found.code, found.reason, found.field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        reason,
        field,
    )
    assert not server.ingest.submitted


def test_a_chunk_after_the_last_one_ends_the_stream(server: Server) -> None:
    announced = batch((1, pb.ItemInput(id="a")), chunked=True)
    found = refused(server, START, announced, chunk(1, 0, b"x", True), chunk(1, 1, b"y", True))
    assert found.reason == "CHUNK_OUT_OF_ORDER"


def test_a_batch_has_at_most_1024_items(server: Server) -> None:
    ok = batch(*((i, item("a")) for i in range(1, 1025)))
    too_many = batch(*((i, item("a")) for i in range(2001, 3026)))
    assert refused(server, START, ok, too_many).reason == "BATCH_TOO_LARGE"


def test_at_most_16_chunked_items_may_be_unfinished(server: Server) -> None:
    sixteen = batch(*((i, pb.ItemInput(id=f"{i}")) for i in range(1, 17)), chunked=True)
    one = batch((100, pb.ItemInput(id="x")), chunked=True)
    found = refused(server, START, sixteen, one)
    assert (found.reason, found.field) == ("ARGUMENT_INVALID", "batch.items")
    said = upload(server, [START, sixteen, chunk(3, 0, b"x", True), one, chunk(100, 0, b"x", True)])
    assert said[-1].summary.counts == pb.UploadCounts(created=2, failed=15)


def test_what_was_under_way_is_acknowledged_before_the_stream_fails(server: Server) -> None:
    heard: list[pb.UploadItemsResponse] = []
    messages = iter([START, batch((1, item("a"))), batch((1, item("b")))])
    with pytest.raises(grpc.RpcError) as caught:
        heard.extend(server.index.UploadItems(messages))
    assert failure(caught.value).reason == "SEQ_NOT_INCREASING"
    assert acks(heard)[1].outcome == pb.WRITE_OUTCOME_CREATED


def test_an_unknown_collection_is_refused_before_anything_is_read(server: Server) -> None:
    found = refused(server, pb.UploadItemsRequest(start=pb.UploadStart(collection="nope")), batch())
    assert found.reason == "COLLECTION_NOT_FOUND"


def test_a_collection_that_goes_away_ends_the_stream(server: Server) -> None:
    talk = Talk(server)
    talk.say(START)
    talk.hear()
    server.library.collections.clear()
    server.library.collection = _nothing  # type: ignore[method-assign]
    talk.say(batch((1, item("a"))))
    with pytest.raises(grpc.RpcError) as caught:
        talk.hear()
    assert failure(caught.value).reason == "COLLECTION_NOT_FOUND"


def _nothing(name: str, *, create: bool = False) -> Any:
    from lookalike.backends.errors import CollectionNotFound

    raise CollectionNotFound("There is none.", collection=name)


def test_with_failures_only_the_others_are_counted(server: Server) -> None:
    start = pb.UploadItemsRequest(start=pb.UploadStart(failures_only=True))
    many = batch(
        *((i, item(f"{i}", BAD_PICTURE if i % 10 == 0 else b"ok")) for i in range(1, 1001))
    )
    said = upload(server, [start, many, flush(1)])
    assert sorted(acks(said)) == list(range(10, 1001, 10))
    assert said[-2].flushed.counts == pb.UploadCounts(created=900, failed=100)
    assert said[-1].summary.counts == said[-2].flushed.counts


def test_the_write_mode_reaches_the_domain(server: Server) -> None:
    upload(server, [START, batch((1, item("a")))])
    start = pb.UploadStart(write_mode=pb.WRITE_MODE_SKIP_EXISTING)
    said = upload(server, [pb.UploadItemsRequest(start=start), batch((9, item("a")))])
    assert acks(said)[9].outcome == pb.WRITE_OUTCOME_SKIPPED


def test_a_client_that_sends_too_fast_is_held_back() -> None:
    with serving(Limits(upload_window_items=10, upload_window_bytes=50_000)) as server:
        server.ingest.gate.clear()
        sent = []

        def messages() -> Iterator[pb.UploadItemsRequest]:
            yield START
            for i in range(1, 400):
                sent.append(i)
                yield batch((i, item(f"{i}", b"x" * 200_000)))

        call = server.index.UploadItems(messages(), timeout=60)
        wait_until(lambda: server.ingest.under_way >= 1)
        time.sleep(0.3)
        assert server.ingest.under_way <= 2  # the window has 50 kB: one item fills it
        assert len(sent) < 100
        server.ingest.gate.set()
        assert len(acks(call)) == 399


def test_a_client_that_does_not_read_is_not_read_from() -> None:
    with serving(Limits(upload_window_items=50, max_id_bytes=60_000)) as server:
        ids = "x" * 50_000  # acknowledgements carry the ids: 50 kB each
        given = pb.ItemInput(id="", vector=types_pb2.Vector(values=[1.0] * 8))

        def messages() -> Iterator[pb.UploadItemsRequest]:
            yield START
            for i in range(1, 3000):
                given.id = f"{i:05}{ids}"
                yield batch((i, given))

        call = server.index.UploadItems(messages())
        wait_until(lambda: len(server.ingest.submitted) >= 50)
        time.sleep(0.5)
        assert len(server.ingest.submitted) < 1500
        call.cancel()


def test_a_cancelled_upload_leaves_no_thread_and_no_place(server: Server) -> None:
    server.ingest.gate.clear()
    talks = [Talk(server) for _ in range(4)]
    for i, talk in enumerate(talks):
        talk.say(START, *(batch((n, item(f"{i}-{n}"))) for n in range(1, 400)))
        talk.hear()
    full = 4 * Limits().upload_window_items
    wait_until(lambda: server.ingest.under_way == full)  # every reader waits for room
    for talk in talks:
        talk.call.cancel()
    wait_until(lambda: server.uploads.count == 0)
    wait_until(lambda: upload_threads() == 0)
    server.ingest.gate.set()
    for talk in talks:
        talk.close()
    assert upload(server, [START, batch((1, item("z")))])[-1].summary.counts.created == 1


def test_streams_beyond_the_most_are_told_when_to_come_back() -> None:
    with serving(Limits(max_uploads=2)) as server:
        talks = [Talk(server) for _ in range(2)]
        for talk in talks:
            talk.say(START)
            talk.hear()
        found = refused(server, START)
        assert (found.code, found.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_UPLOADS",
        )
        assert found.retry_s is not None
        talks[0].close()
        list(talks[0].call)
        upload(server, [START])
        talks[1].close()
        list(talks[1].call)


def test_open_streams_are_told_of_the_end_and_new_ones_are_refused(server: Server) -> None:
    talk = Talk(server)
    talk.say(START, batch((1, item("a"))))
    talk.hear()
    assert set(acks([talk.hear()])) == {1}
    server.uploads.drain(12.5)
    assert talk.hear().draining.grace_seconds == 12.5
    found = refused(server, START)
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    talk.say(batch((2, item("b"))))
    talk.close()
    rest = list(talk.call)
    assert set(acks(rest)) == {2}
    assert rest[-1].summary.counts.created == 2


def test_too_many_unanswered_flushes_end_the_stream(server: Server) -> None:
    messages = [START, batch((1, pb.ItemInput(id="a")), chunked=True)]
    assert refused(server, *messages, *(flush(i) for i in range(1001))).field == "flush"
