"""The main job, end to end: a real server process, the real client, real pictures."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookalike.client import Client, NewItem
from lookalike.client.local_server import LocalServer
from made_pictures import encoded, jpeg, scene


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("main-job")
    with LocalServer(folder / "data") as server, Client(server.address) as client:
        yield client


def bomb() -> bytes:
    """Return a valid PNG of 20000 x 20000 black pixels, about 50 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    side = 20_000
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(b"\0" * (side // 8 + 1)) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_one_stream_takes_the_good_and_names_the_bad(client: Client) -> None:
    good = [NewItem(id=f"good-{i}", image=jpeg(i)) for i in range(97)]
    odd = [
        NewItem(id="truncated", image=jpeg(500)[:900]),
        NewItem(id="one-pixel", image=encoded(np.full((1, 1, 3), 90, np.uint8), "PNG")),
        NewItem(id="bomb", image=bomb()),
    ]
    report = client.upload([*good[:50], *odd, *good[50:]], collection="")
    assert report.created == 98
    reasons = {failure.id: failure.error.reason for failure in report.failures if failure.error}
    assert reasons == {"truncated": "IMAGE_UNDECODABLE", "bomb": "IMAGE_TOO_LARGE"}
    after = client.upload([NewItem(id=f"after-{i}", image=jpeg(1000 + i)) for i in range(100)])
    assert after.created == 100
    assert not after.failures
    stored = {item.id for item in client.list(view="id")}
    assert {"truncated", "bomb"}.isdisjoint(stored)
    assert {"one-pixel", "good-96", "after-99"} <= stored


def test_every_stored_picture_finds_itself_first(client: Client) -> None:
    client.upload([NewItem(id=f"self-{i}", image=jpeg(2000 + i)) for i in range(40)])
    for i in range(40):
        hit = client.search(image=jpeg(2000 + i), k=1)[0]
        assert hit.id == f"self-{i}"
        assert hit.score >= 0.999


def test_a_picture_of_31_mib_goes_through_in_chunks(client: Client, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (3285, 3285, 3), np.uint8)
    data = encoded(noise, "PNG", compress_level=0)
    assert 30.8 < len(data) / 2**20 < 32
    path = tmp_path / "large.png"
    path.write_bytes(data)
    report = client.upload(tmp_path)
    assert (report.created, report.failed) == (1, 0)
    image = client.get("large.png").image
    assert image is not None
    assert (image.width, image.size_bytes) == (3285, len(data))


def test_a_second_upload_changes_nothing_and_embeds_nothing(client: Client) -> None:
    items = [NewItem(id=f"twice-{i}", image=jpeg(3000 + i)) for i in range(20)]
    assert client.upload(items).created == 20
    again = client.upload(items)
    assert (again.unchanged, again.updated, again.created) == (20, 0, 0)


def test_an_update_replaces_what_is_found(client: Client) -> None:
    client.upload([NewItem(id="moving", image=jpeg(4000))])
    client.upload([NewItem(id="moving", image=jpeg(4001))])
    assert client.search(image=jpeg(4001), k=1)[0].id == "moving"
    hits = client.search(image=jpeg(4000), k=1)
    assert hits[0].score < 0.999


def test_a_filter_restricts_as_if_the_others_were_not_there(client: Client) -> None:
    client.upload(
        [
            NewItem(id=f"priced-{i}", image=jpeg(5000 + i), metadata={"price": i, "shop": "a"})
            for i in range(30)
        ]
    )
    hits = client.search(image=jpeg(5029), where="price < 5 and shop = 'a'", k=10)
    assert {hit.id for hit in hits} == {f"priced-{i}" for i in range(5)}
    assert hits.info.matched_count == 5


def test_thumbnails_are_small_upright_jpegs(client: Client) -> None:
    client.upload([NewItem(id="thumb", image=encoded(scene(7, 900, 300)))])
    thumbnail = client.image("thumb")
    assert thumbnail.media_type == "image/jpeg"
    assert len(thumbnail.data) < 40_000


def test_deleted_items_are_gone_at_once(client: Client) -> None:
    ids = [f"gone-{i}" for i in range(20)]
    client.upload([NewItem(id=i, image=jpeg(6000 + n)) for n, i in enumerate(ids)])
    assert client.delete(ids[:10]) == 10
    for n in range(10):
        found = {hit.id for hit in client.search(image=jpeg(6000 + n), k=50)}
        assert found.isdisjoint(ids[:10])


def test_what_was_stored_is_found_after_a_restart(tmp_path: Path) -> None:
    with LocalServer(tmp_path) as server, Client(server.address) as client:
        client.upload([NewItem(id=f"kept-{i}", image=jpeg(i)) for i in range(10)])
    with LocalServer(tmp_path) as server, Client(server.address) as client:
        assert client.count() == 10
        assert client.search(image=jpeg(3), k=1)[0].id == "kept-3"


def test_originals_are_embedded_anew_on_request(client: Client) -> None:
    client.create_collection("originals", image_retention="original")
    client.upload(
        [NewItem(id=f"o-{i}", image=jpeg(7000 + i)) for i in range(12)], collection="originals"
    )
    job = client.rebuild_index("originals", reembed=True)
    *_, last = client.watch_job(job.id)
    assert last.state == "succeeded", last.error
    for i in range(12):
        hit = client.search(image=jpeg(7000 + i), k=1, collection="originals")[0]
        assert (hit.id, hit.score >= 0.999) == (f"o-{i}", True)
    assert client.image("o-3", original=True, collection="originals").data == jpeg(7003)
