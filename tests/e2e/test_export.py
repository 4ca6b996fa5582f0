"""A collection goes out as an archive and comes back the same, bit by bit."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.test_archive import members, put_together
from e2e.test_backup import LOOKALIKE, run
from lookalike.client import Client, F, Hnsw, IndexSpec, Item, NewItem, StoredItem
from lookalike.client.errors import (
    ArchiveInvalid,
    CollectionNotFound,
    LookalikeError,
    ModelMismatch,
    ModelNotFound,
)
from lookalike.client.local_server import LocalServer
from made_pictures import encoded, jpeg, scene

SEED = int(os.environ.get("PROVE_SEED", "34"))
ODD_IDS = (
    "../../etc/passwd",
    "/etc/passwd",
    "a\\b",
    "..",
    "con",
    "\u202egnp.exe",
    "é" * 128,
    " ",
    "-rf",
    "zwei Wörter",
    "\U0001f43c",
    "' OR 1=1 --",
)
METADATA = {
    "n": 1,
    "third": 1 / 3,
    "large": 2.0**60,
    "tiny": 5e-324,
    "text": 'a\u2028b\0c\n"é\\',
    "list": [1, [2, {"x": None}], True],
    "deep": {"a": {"b": {"c": {"d": 1}}}},
    "": "no name",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    data = tmp_path_factory.mktemp("export") / "data"
    with LocalServer(data) as server, Client(server.address) as client:
        for name, keep in (("orig", "original"), ("thumbs", "thumbnail"), ("bare", "none")):
            client.create_collection(
                name, image_retention=keep, indexed_fields=["n"], description=f"keeps {keep}"
            )
            client.upload(pictures(), collection=name)
        spec = IndexSpec("hnswlib", Hnsw(8, 40, 30))
        client.create_collection("dot", model="none", metric="dot", dimension=3, index=spec)
        client.upload(vectors(), collection="dot")
        # Of few numbers: one of a hundred would change its last bit if it were scaled again.
        client.create_collection("flat", model="none", dimension=3)
        client.upload(vectors(), collection="flat")
        client.create_collection("empty", model="none", metric="l2", dimension=7)
        yield client


def pictures() -> Iterator[NewItem]:
    for number, item_id in enumerate(ODD_IDS):
        yield NewItem(item_id, jpeg(number), None, {"n": number})
    yield NewItem("", jpeg(50))  # named by its content
    yield NewItem("metadata", jpeg(51), None, METADATA)
    yield NewItem("png", encoded(scene(52), "PNG"))
    noise = np.random.default_rng(SEED).integers(0, 256, (1000, 1100, 3), dtype=np.uint8)
    yield NewItem("large", encoded(noise, "PNG"))  # 3.3 MB: sent in pieces
    yield NewItem("own vector", jpeg(53), np.arange(1.0, 385.0))
    yield NewItem("no picture", None, np.arange(384.0, 0.0, -1.0), {"n": 99})


def vectors() -> Iterator[NewItem]:
    rng = np.random.default_rng(SEED)
    for number in range(700):
        yield NewItem(f"{number:04d}", None, rng.standard_normal(3) * 100, {"n": number})
    yield NewItem("with picture", jpeg(60), np.array([1e-40, -0.0, 3e38]))


def contents(client: Client, collection: str) -> dict[str, Item]:
    return {item.id: item for item in client.list(collection=collection, view="full")}


def check_same(client: Client, one: str, other: str) -> None:
    """Compare everything about two collections that is not a time."""
    left, right = contents(client, one), contents(client, other)
    assert set(left) == set(right)
    for item_id, item in right.items():
        twin = left[item_id]
        assert item.vector is not None
        assert twin.vector is not None
        assert item.vector.tobytes() == twin.vector.tobytes(), item_id
        assert json.dumps(item.metadata) == json.dumps(twin.metadata), item_id
        assert item.image == twin.image, item_id
        if item.image is not None:
            for original in (False, True):
                if item.image.has_original if original else item.image.has_thumbnail:
                    data = client.image(item_id, original=original, collection=other).data
                    twin_data = client.image(item_id, original=original, collection=one).data
                    assert data == twin_data, (item_id, original)


def settings(client: Client, name: str) -> tuple[object, ...]:
    one = client.collection(name)
    kind = (one.model, one.model_fingerprint, one.metric, one.dimension, one.image_retention)
    return (*kind, one.index, one.indexed_fields, one.description)


def parts(path: Path) -> dict[str, bytes]:
    """Return the files of an archive but for the manifest and the times."""
    with tarfile.open(path) as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    for name, data in found.items():
        if name.endswith(".jsonl"):
            lines = [json.loads(line) for line in data.splitlines()]
            for line in lines:
                del line["create_time"], line["update_time"]
            found[name] = json.dumps(lines).encode()
    return {n: d for n, d in found.items() if n not in ("manifest.json", "end.json")}


@pytest.mark.parametrize("name", ["orig", "thumbs", "bare", "dot", "flat", "empty"])
def test_a_collection_comes_back_bit_by_bit(client: Client, tmp_path: Path, name: str) -> None:
    made = client.export(tmp_path / "a.tar", collection=name)
    count = client.count(collection=name)
    assert (made.collection, made.item_count) == (name, count)
    report = client.import_archive(tmp_path / "a.tar", collection=f"{name}-2")
    assert (report.created, report.failed) == (count, 0), report.failures
    assert settings(client, f"{name}-2") == settings(client, name)
    check_same(client, name, f"{name}-2")
    client.export(tmp_path / "b.tar", collection=f"{name}-2")
    assert parts(tmp_path / "b.tar") == parts(tmp_path / "a.tar")
    again = client.import_archive(tmp_path / "a.tar", collection=f"{name}-2")
    assert (again.unchanged, again.total) == (count, count), "sending it again is free"


def test_pictures_that_come_again_after_an_import_cost_nothing(
    client: Client, tmp_path: Path
) -> None:
    client.export(tmp_path / "a.tar", collection="thumbs")
    client.import_archive(tmp_path / "a.tar", collection="again")
    report = client.upload(pictures(), collection="again")
    assert (report.unchanged, report.total) == (len(ODD_IDS) + 6, len(ODD_IDS) + 6)


def test_only_what_passes_and_without_pictures(client: Client, tmp_path: Path) -> None:
    made = client.export(tmp_path / "a.tar", collection="orig", where=F.n < 5, images=False)
    assert (made.item_count, made.thumbnail_count, made.original_count) == (6, 0, 0)
    client.import_archive(tmp_path / "a.tar", collection="some")
    found = contents(client, "some")
    assert set(found) == {*ODD_IDS[:5], "metadata"}
    for item in found.values():
        assert item.image is not None
        assert item.image.sha256, "what is known of the picture stays"
        assert not item.image.has_thumbnail
        assert not item.image.has_original
    none = client.export(tmp_path / "b.tar", collection="orig", where="n > 1000")
    assert none.item_count == 0
    assert client.import_archive(tmp_path / "b.tar", collection="none-of-it").total == 0


def test_an_archive_is_imported_into_what_keeps_less(client: Client, tmp_path: Path) -> None:
    client.export(tmp_path / "a.tar", collection="orig")
    for name, keep in (("less", "thumbnail"), ("least", "none")):
        client.create_collection(name, image_retention=keep)
        client.import_archive(tmp_path / "a.tar", collection=name)
        check_vectors_only(client, "orig", name)
    image = contents(client, "less")["png"].image
    assert image is not None
    assert (image.has_thumbnail, image.has_original) == (True, False)
    image = contents(client, "least")["png"].image
    assert image is not None
    assert (image.has_thumbnail, image.has_original) == (False, False)


def check_vectors_only(client: Client, one: str, other: str) -> None:
    left, right = contents(client, one), contents(client, other)
    assert set(left) == set(right)
    for item_id, item in left.items():
        assert np.array_equal(item.vector, right[item_id].vector)  # type: ignore[arg-type]


# ------------------------------------------------------------------- other spaces


def test_vectors_of_another_space_are_refused_by_name(client: Client, tmp_path: Path) -> None:
    client.export(tmp_path / "a.tar", collection="thumbs")
    client.create_collection("other-space", model="none", dimension=384)
    with pytest.raises(ModelMismatch, match=r"builtin/.*no model.*--reembed"):
        client.import_archive(tmp_path / "a.tar", collection="other-space")
    client.create_collection("other-metric", metric="l2")
    with pytest.raises(ModelMismatch, match="l2"):
        client.import_archive(tmp_path / "a.tar", collection="other-metric")
    assert client.count(collection="other-space") == 0


def altered(path: Path, out: Path, **collection: object) -> Path:
    """Give an archive's manifest other settings; nothing else is sealed by a checksum of it."""
    files = members(path.read_bytes())
    manifest = json.loads(files[0][1])
    manifest["collection"].update(collection)
    out.write_bytes(put_together([("manifest.json", json.dumps(manifest).encode()), *files[1:]]))
    return out


def test_a_collection_that_was_made_in_vain_is_removed(client: Client, tmp_path: Path) -> None:
    client.export(tmp_path / "a.tar", collection="thumbs")
    old = altered(tmp_path / "a.tar", tmp_path / "old.tar", model_fingerprint="builtin/0+decode/0")
    with pytest.raises(ModelMismatch, match="builtin/0"):
        client.import_archive(old, collection="in-vain")
    absent = altered(tmp_path / "a.tar", tmp_path / "absent.tar", model="clip-of-mine")
    with pytest.raises(ModelNotFound):
        client.import_archive(absent, collection="in-vain")
    with pytest.raises(CollectionNotFound):
        client.collection("in-vain")


def test_with_originals_an_archive_is_embedded_anew(client: Client, tmp_path: Path) -> None:
    client.export(tmp_path / "a.tar", collection="orig")
    old = altered(tmp_path / "a.tar", tmp_path / "old.tar", model_fingerprint="builtin/0+decode/0")
    report = client.import_archive(old, collection="anew", reembed=True)
    assert [result.id for result in report.failures] == ["no picture"]
    found = contents(client, "anew")
    original = contents(client, "orig")
    for item_id in set(found) - {"own vector"}:
        assert np.array_equal(found[item_id].vector, original[item_id].vector)  # type: ignore[arg-type]


# -------------------------------------------------------------- one state of it all


def test_an_export_is_of_one_state_while_everything_changes(client: Client, tmp_path: Path) -> None:
    """All items are always written together: no export may have some of a later round."""
    client.create_collection("rounds", model="none", dimension=16384)  # read in several pages
    vector = np.ones(16384, np.float32)
    stop, rounds = threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            rounds[0] += 1
            client.upsert(
                [NewItem(f"{n:03d}", None, vector, {"round": rounds[0]}) for n in range(70)],
                collection="rounds",
            )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while rounds[0] < 3:
            time.sleep(0.01)
        for _ in range(3):
            file = io.BytesIO()
            report = client.export(file, collection="rounds")
            with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as archive:
                lines = archive.extractfile("000000/items.jsonl").read()  # type: ignore[union-attr]
            seen = {json.loads(line)["metadata"]["round"] for line in lines.splitlines()}
            assert report.item_count == 70
            assert len(seen) == 1, "an export is of several states"
    finally:
        stop.set()
        writer.join()


# ----------------------------------------------------------- what is taken over


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (StoredItem(digest=b"short"), "digest"),
        (StoredItem(None, b"x", b""), None),
    ],
)
def test_what_is_taken_over_is_checked(
    client: Client, stored: StoredItem, words: str | None
) -> None:
    item = NewItem("x", None, np.ones(384), {}, stored)
    [result] = client.upsert([item], collection="thumbs")
    client.delete(["x"], collection="thumbs")
    assert (result.error is None) == (words is None)
    assert words is None or words in str(result.error)


@pytest.mark.parametrize(
    "thumbnail",
    [b"no picture", encoded(scene(1), "PNG"), encoded(scene(1, 300, 200), "JPEG"), jpeg(1)[:900]],
)
def test_a_thumbnail_that_is_none_is_refused(client: Client, thumbnail: bytes) -> None:
    image = contents(client, "thumbs")["png"].image
    item = NewItem("x", None, np.ones(384), {}, StoredItem(image, thumbnail))
    [result] = client.upsert([item], collection="thumbs")
    client.delete(["x"], collection="thumbs")
    assert isinstance(result.error, LookalikeError), "it was stored"


def test_what_is_taken_over_needs_its_vector(client: Client) -> None:
    item = NewItem("x", jpeg(1), None, {}, StoredItem(digest=bytes(64)))
    [result] = client.upsert([item], collection="thumbs")
    assert result.error is not None
    assert "vector" in result.error.message


# ------------------------------------------------------------- the command line


def test_export_and_import_from_the_command_line(client: Client, tmp_path: Path) -> None:
    file, address = str(tmp_path / "a.tar"), client.address
    done = run(*LOOKALIKE, "export", "thumbs", file, "--where", "n < 3", address=address)
    assert (done.returncode, b"4 items of thumbs" in done.stderr) == (0, True), done.stderr
    assert os.stat(file).st_mode & 0o777 == 0o600
    done = run(*LOOKALIKE, "import", file, "-c", "by-hand", "--json", address=address)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["created"] == 4
    done = run(*LOOKALIKE, "export", "thumbs", file, address=address)
    assert (done.returncode, b"overwritten" in done.stderr) == (1, True), done.stderr
    done = run(*LOOKALIKE, "export", "absent", str(tmp_path / "b.tar"), address=address)
    assert done.returncode == 5, done.stderr
    Path(file).write_bytes(Path(file).read_bytes()[:-3000])
    done = run(*LOOKALIKE, "import", file, "-c", "by-hand", address=address)
    assert (done.returncode, b"not complete" in done.stderr) == (1, True), done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]


def test_an_archive_goes_through_pipes(client: Client) -> None:
    file = io.BytesIO()
    client.export(file, collection="orig")
    report = client.import_archive(io.BytesIO(file.getvalue()), collection="piped")
    assert report.created == client.count(collection="orig")
    check_same(client, "orig", "piped")
    with pytest.raises(ArchiveInvalid, match="complete"):
        client.import_archive(io.BytesIO(file.getvalue()[:-100_000]), collection="piped")
