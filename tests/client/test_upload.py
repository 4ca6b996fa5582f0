from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.fake_server import FakeServer
from lookalike.client import Client, NewItem, UploadProgress, WriteResult, errors
from lookalike.client._calls import item_bytes, item_frame
from lookalike.v1 import index_service_pb2


def items(count: int, size: int = 100) -> list[NewItem]:
    return [NewItem(f"{i:05}", i.to_bytes(4, "big") * (size // 4)) for i in range(count)]


def names() -> set[str]:
    """Return the threads of uploads; those of other tests' servers may run beside them."""
    ours = {t.name for t in threading.enumerate() if t.name.startswith("lookalike-")}
    return {name for name in ours if not name.startswith("lookalike-server-")}


def test_all_items_arrive_and_are_counted(server: FakeServer, client: Client) -> None:
    results: list[WriteResult] = []
    steps: list[UploadProgress] = []
    report = client.upload(items(300), on_result=results.append, progress=steps.append)
    assert (report.created, report.failed, report.total, report.reconnects) == (300, 0, 300, 0)
    assert sorted(r.id for r in results) == [f"{i:05}" for i in range(300)]
    assert [s.done_count for s in steps] == sorted(s.done_count for s in steps)
    assert steps[-1] == UploadProgress(300, 0, 300 * 100)
    assert len(server.items) == 300
    assert server.seen.streams == 1
    assert names() == set()


def test_the_second_time_nothing_is_embedded(server: FakeServer, client: Client) -> None:
    client.upload(items(50))
    embedded = server.seen.embedded
    report = client.upload(items(50))
    assert (report.unchanged, report.created) == (50, 0)
    assert server.seen.embedded == embedded
    assert client.upload(items(50, 200), mode="skip_existing").skipped == 50
    assert client.upload(items(50, 200)).updated == 50


def test_many_small_items_share_a_message(server: FakeServer, client: Client) -> None:
    server.script.window_items = 5000
    server.script.window_bytes = 64 * 2**20
    client.upload(items(4000))
    assert len(server.seen.items_per_message) < 400


def test_large_files_go_in_chunks_and_no_message_is_above_1_mib(
    server: FakeServer, client: Client
) -> None:
    sizes = [
        10,
        2**20 - 5000,
        400_000,
        2**20 - 5000,
        2**20,
        31 * 2**20,
        5,
        256 * 2**10 * 8,
        3 * 2**20 + 1,
    ]
    sent = [NewItem(str(i), random.Random(i).randbytes(size)) for i, size in enumerate(sizes)]
    assert client.upload(sent).created == len(sizes)
    assert max(server.seen.message_sizes) <= 2**20
    for item in sent:
        assert server.items[("", item.id)][0].image.data == item.image


def test_no_more_than_the_window_is_under_way(server: FakeServer, client: Client) -> None:
    server.script.window_items = 7
    server.script.ack_delay_s = 0.001
    taken = answered = most = 0

    def source() -> Iterator[NewItem]:
        nonlocal taken, most
        for item in items(100):
            taken += 1
            most = max(most, taken - answered)
            yield item

    def on_result(result: WriteResult) -> None:
        nonlocal answered
        answered += 1

    assert client.upload(source(), on_result=on_result).created == 100
    assert most <= 7 + 1  # one is prepared and waits


def most_under_way(client: Client, given: list[NewItem]) -> int:
    taken = answered = most = 0

    def source() -> Iterator[NewItem]:
        nonlocal taken, most
        for item in given:
            taken += 1
            most = max(most, taken - answered)
            yield item

    def on_result(result: WriteResult) -> None:
        nonlocal answered
        answered += 1

    assert client.upload(source(), on_result=on_result).created == len(given)
    return most - 1  # one is prepared and waits


def test_more_vectors_than_pictures_are_under_way(server: FakeServer, client: Client) -> None:
    server.script.window_items, server.script.window_vectors = 5, 50
    server.script.ack_delay_s = 0.0005
    vectors = [NewItem(f"v{i}", vector=[1.0, 2.0]) for i in range(300)]
    assert 25 < most_under_way(client, vectors) <= 50
    assert most_under_way(client, items(60)) <= 5


def test_a_vector_put_together_by_hand_is_the_same_message() -> None:
    for given in (
        NewItem("a", vector=[1.0, 2.5]),
        NewItem("\u00e9" * 200, vector=np.arange(700, dtype=np.float64)),
        NewItem("", vector=[0.0]),
        NewItem("m", vector=np.ones(3, np.float32), metadata={"n": 1, "deep": {"a": [None, "x"]}}),
        NewItem("p", b"picture", [1.0]),
        NewItem("only"),
    ):
        assert index_service_pb2.ItemInput.FromString(item_bytes(given)) == item_frame(given)


def test_the_windows_bytes_bound_it_too_and_one_large_item_passes(
    server: FakeServer, client: Client
) -> None:
    server.script.window_bytes = 2 * 2**20
    assert client.upload(items(20, 900_000)).created == 20
    assert client.upload([NewItem("big", bytes(5 * 2**20))]).created == 1


def test_one_bad_item_does_not_end_it(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"good")
    (tmp_path / "b.jpg").write_bytes(b"bad")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "nothing")
    report = client.upload(tmp_path)
    assert (report.created, report.failed) == (1, 2)
    by_id = {f.id: f for f in report.failures}
    assert isinstance(by_id["b.jpg"].error, errors.ImageUndecodable)
    assert isinstance(by_id["c.jpg"].error, errors.FileUnreadable)
    assert by_id["b.jpg"].source == str(tmp_path / "b.jpg")


def test_items_that_cannot_be_sent_fail_alone(server: FakeServer, client: Client) -> None:
    server.script.max_image_bytes = 1000
    report = client.upload(
        [
            NewItem("ok", b"x"),
            NewItem("huge", b"x" * 1001),
            NewItem("meta", b"x", metadata={"a": "x" * 2**20}),
            NewItem("nan", b"x", metadata={"a": float("nan")}),
            NewItem("\udce9", b"x"),
            NewItem("shape", vector=np.zeros((2, 2))),
            object(),
        ]
    )
    assert (report.created, report.failed) == (1, 6)
    reasons = [type(f.error) for f in report.failures]
    assert reasons[0] is errors.ImageTooLarge
    assert reasons[1] is errors.MetadataTooLarge


def test_a_file_larger_than_the_server_takes_is_not_read_whole(
    server: FakeServer, client: Client, tmp_path: Path
) -> None:
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(500 * 2**30)
    report = client.upload(tmp_path)
    assert isinstance(report.failures[0].error, errors.ImageTooLarge)


def test_bytes_get_an_id_from_their_content(client: Client) -> None:
    results: list[WriteResult] = []
    client.upload([b"one"], on_result=results.append)
    assert results[0].id.startswith("sha256:")


def test_vectors_alone_are_stored(server: FakeServer, client: Client) -> None:
    vectors = [NewItem(str(i), vector=np.full(8, i, np.float32)) for i in range(1, 4)]
    assert client.upload(vectors).created == 3
    assert list(server.items[("", "2")][0].vector.values) == [2.0] * 8


# ------------------------------------------------------------------- recovery


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_that_breaks_is_taken_up_and_nothing_is_lost(
    server: FakeServer, client: Client, seed: int
) -> None:
    print("seed", seed)
    random_ = random.Random(seed)
    server.script.break_after_items = [random_.randint(1, 25) for _ in range(4)]
    sent = [
        NewItem(f"{i:03}", random_.randbytes(random_.choice([10, 3000, 1_500_000])))
        for i in range(120)
    ]
    results: list[str] = []
    report = client.upload(sent, on_result=lambda r: results.append(r.id))
    assert report.reconnects == 4
    assert report.failed == 0
    assert sorted(results) == [item.id for item in sent]
    assert {i: s[0].image.data for (_, i), s in server.items.items()} == {
        item.id: item.image for item in sent
    }
    # What was stored without an acknowledgement is there once, and not embedded again.
    assert server.seen.embedded == 120
    assert report.created + report.unchanged == 120
    assert names() == set()


def test_a_draining_server_is_left_after_its_acknowledgements(
    server: FakeServer, client: Client
) -> None:
    server.script.drain_after_items = [5, 30]
    report = client.upload(items(100))
    assert (report.created, report.reconnects) == (100, 2)
    assert server.seen.streams == 3
    assert server.seen.embedded == 100


def test_a_draining_server_gets_no_more_of_what_was_not_on_its_way(
    server: FakeServer, client: Client
) -> None:
    server.script.drain_after_items = [1]
    server.script.window_bytes = 64 * 2**20
    server.script.ack_delay_s = 0.05
    assert client.upload(items(14, 3 * 2**20)).created == 14
    assert server.seen.items_of_stream[0] <= 5
    assert sum(server.seen.items_of_stream) == 14


def test_the_patience_begins_anew_with_every_acknowledgement(
    server: FakeServer, client: Client
) -> None:
    server.script.break_after_items = [12] * 5
    server.script.ack_delay_s = 0.04
    report = client.upload(items(60), patience_s=1.0)
    assert report.reconnects == 5
    assert report.seconds > 2.0


def test_a_server_with_too_many_uploads_is_asked_again(server: FakeServer, client: Client) -> None:
    server.script.refuse_streams = [(8, "TOO_MANY_UPLOADS"), (14, "DRAINING")]
    assert client.upload(items(10)).created == 10
    assert server.seen.streams == 3


@pytest.mark.parametrize(
    ("code", "reason"), [(5, "COLLECTION_NOT_FOUND"), (7, "READ_ONLY"), (8, "DISK_FULL")]
)
def test_a_refusal_for_good_is_raised_at_once(
    server: FakeServer, client: Client, code: int, reason: str
) -> None:
    server.script.refuse_streams = [(code, reason)] * 9
    with pytest.raises(errors.error_class(reason, code)):
        client.upload(items(10))
    assert server.seen.streams == 1


def test_a_server_that_goes_away_for_good_is_given_up_after_the_patience(
    server: FakeServer, client: Client
) -> None:
    server.script.ack_delay_s = 0.01
    threading.Timer(0.3, server.stop).start()
    begin = time.monotonic()
    with pytest.raises(errors.ServerUnavailable, match="No server answers"):
        client.upload(items(1000), patience_s=1.0)
    assert time.monotonic() - begin < 6
    assert names() == set()


def test_an_item_on_which_the_server_breaks_each_time_does_not_go_on_for_ever(
    server: FakeServer, client: Client
) -> None:
    server.script.break_after_items = [1] * 100
    with pytest.raises(errors.ServerUnavailable):
        client.upload(items(3), patience_s=1.0)
    assert server.seen.streams > 2


def test_no_server_at_the_start_is_told_at_once() -> None:
    begin = time.monotonic()
    with Client("127.0.0.1:1") as client, pytest.raises(errors.ServerUnavailable):
        client.upload(items(10))
    assert time.monotonic() - begin < 5
    assert names() == set()


def test_a_source_that_raises_ends_the_upload_and_its_threads(
    server: FakeServer, client: Client
) -> None:
    def source() -> Iterator[NewItem]:
        yield from items(20)
        raise RuntimeError("the camera fell over")

    with pytest.raises(RuntimeError, match="camera"):
        client.upload(source())
    assert names() == set()


def test_a_slow_source_does_not_hold_back_what_it_gave(server: FakeServer, client: Client) -> None:
    stored: list[bool] = []

    def source() -> Iterator[NewItem]:
        for item in items(3):
            yield item
            deadline = time.monotonic() + 5
            while ("", item.id) not in server.items and time.monotonic() < deadline:
                time.sleep(0.005)
            stored.append(("", item.id) in server.items)

    client.upload(source())
    assert stored == [True] * 3


def test_an_empty_source_is_no_error(client: Client, tmp_path: Path) -> None:
    assert client.upload(tmp_path).total == 0
    assert client.upload([]).total == 0
