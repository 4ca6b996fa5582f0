"""Items that are read and answered in groups fare as if each came alone."""

from __future__ import annotations

import random
import threading

import numpy as np

from lookalike.backends.errors import LookalikeError
from lookalike.server.domain import NewItem, Outcome, WriteResult
from lookalike.server.limits import Limits, check_id, is_plain_id
from lookalike.server.rpc.ledger import Ledger, Window
from lookalike.server.rpc.traffic import RECENT_S, Traffic
from lookalike.server.rpc.upload import _PIECE_ITEMS
from lookalike.server.rpc.wire_items import read_item, read_items
from lookalike.server.rpc.wire_vectors import write_vector
from lookalike.v1 import index_service_pb2 as pb
from lookalike.v1 import types_pb2
from rpc.fake_domain import DIM
from rpc.harness import Server

LIMITS = Limits()


def messages(seed: int, count: int, dims: list[int]) -> list[pb.ItemInput]:
    rng = random.Random(seed)
    made = []
    for i in range(count):
        numbers = np.array([rng.gauss(0, 1) for _ in range(rng.choice(dims))], np.float32)
        if rng.random() < 0.1 and numbers.size:
            numbers[0] = rng.choice([np.nan, np.inf])
        item = pb.ItemInput(id=rng.choice([f"i{i}", "é", "a\tb", "", "x" * 300, "line\u2028"]))
        if rng.random() < 0.9:
            item.vector.CopyFrom(write_vector(numbers))
        if rng.random() < 0.3:
            item.image.data = rng.choice([b"", b"picture"])
        if rng.random() < 0.3:
            item.metadata.update({"n": float(i), "deep": {"a": [1.0, None]}})
        if rng.random() < 0.1:
            item.vector.MergeFrom(types_pb2.Vector.FromString(b"\x7a\x03new"))
        if rng.random() < 0.1:
            item.stored.digest = bytes(rng.choice([0, 3, 64]))
        made.append(item)
    return made


def told(message: pb.ItemInput) -> object:
    try:
        return comparable(read_item(message, LIMITS, "item"))
    except LookalikeError as error:
        return comparable(error)


def comparable(read: NewItem | LookalikeError) -> object:
    if isinstance(read, LookalikeError):
        return (read.reason, read.field)
    vector = None if read.vector is None else read.vector.tobytes()
    return (read.id, read.image, vector, read.metadata, read.stored)


def test_items_of_a_group_are_read_as_each_alone_is() -> None:
    for seed in range(60):
        print("seed", seed)
        given = messages(seed, 40, [[8], [8, 9], [0, 8]][seed % 3])
        found = read_items(given, LIMITS, lambda _: "item")
        assert [comparable(one) for one in found] == [told(message) for message in given]


def test_a_group_of_sound_vectors_is_read_as_each_alone_is() -> None:
    rows = np.random.default_rng(3).standard_normal((50, 16), np.float32)
    given = [pb.ItemInput(id=str(i), vector=write_vector(row)) for i, row in enumerate(rows)]
    found = read_items(given, LIMITS, lambda _: "item")
    assert [comparable(one) for one in found] == [told(message) for message in given]
    vectors = [one.vector for one in found if isinstance(one, NewItem) and one.vector is not None]
    assert np.array_equal(np.array(vectors), rows)


def test_an_id_that_is_plain_at_a_glance_passes_the_check() -> None:
    for seed in range(2000):
        rng = random.Random(seed)
        item_id = "".join(chr(rng.choice([rng.randrange(256), 0x2028])) for _ in range(3))
        if is_plain_id(item_id, LIMITS):
            check_id(item_id, LIMITS, "id")
    assert is_plain_id("a-1.b c", LIMITS)
    assert not is_plain_id("", LIMITS)
    assert not is_plain_id("x" * 257, LIMITS)


def test_pictures_and_vectors_share_the_places_of_a_window() -> None:
    ledger = Ledger(Window(items=4, bytes=1 << 30, vectors=16))
    picture, vector = (ledger.window.weight(picture=p) for p in (True, False))
    assert (picture, vector) == (4, 1)
    assert ledger.reserve([1] * 3, [picture] * 3) == 3
    ledger.begin([1, 2, 3], [1] * 3, [picture] * 3)
    assert ledger.reserve([1] * 9, [vector] * 9) == 4
    ledger.begin([4, 5, 6, 7], [1] * 4, [vector] * 4)
    ledger.end([2], [WriteResult("b", Outcome.CREATED)])
    ledger.start(pb.UploadItemsResponse(started=pb.UploadStarted()))
    assert len(ledger.take()) == 2  # started, and the acknowledgement, which frees the places
    assert ledger.reserve([1], [picture]) == 1


def test_a_window_of_one_takes_an_item_of_any_weight() -> None:
    for window in (Window(1, 10), Window(1, 10, 1), Window(3, 10, 2), Window(0, 10)):
        ledger = Ledger(window)
        assert ledger.reserve([500], [ledger.window.weight(picture=True)]) == 1


def test_bulk_work_waits_until_a_search_has_ended() -> None:
    traffic = Traffic()
    inside, leave, given_way = threading.Event(), threading.Event(), threading.Event()

    def search() -> None:
        with traffic:
            inside.set()
            assert leave.wait(10)

    def work() -> None:
        assert inside.wait(10)
        while traffic.busy:
            traffic.give_way(0.0)
        given_way.set()

    threads = [threading.Thread(target=target) for target in (search, work)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    assert not given_way.is_set()
    leave.set()
    assert given_way.wait(10)
    for thread in threads:
        thread.join()


def test_a_search_just_now_counts_and_one_of_long_ago_does_not() -> None:
    now = 100.0
    traffic = Traffic(lambda: now)
    assert not traffic.busy
    with traffic:
        now += 10.0
        assert traffic.busy
    assert traffic.busy
    now += 2 * RECENT_S
    assert not traffic.busy


def test_bulk_work_goes_on_though_searches_never_end() -> None:
    traffic = Traffic()
    with traffic:
        for _ in range(20):
            traffic.give_way(1.0)


def test_while_there_are_searches_a_message_is_taken_in_pieces(server: Server) -> None:
    vectors = [write_vector(np.full(DIM, i + 1.0, np.float32)) for i in range(200)]
    items = [
        pb.UploadItem(seq=i, item=pb.ItemInput(id=str(i), vector=v))
        for i, v in enumerate(vectors, 1)
    ]
    sent = [
        pb.UploadItemsRequest(start=pb.UploadStart()),
        pb.UploadItemsRequest(batch=pb.UploadBatch(items=items)),
    ]
    list(server.index.UploadItems(iter(sent), timeout=20))
    assert server.ingest.groups == [200]
    with server.uploads._traffic:
        list(server.index.UploadItems(iter(sent), timeout=20))
    assert max(server.ingest.groups[1:]) == _PIECE_ITEMS
    assert sum(server.ingest.groups[1:]) == 200
