"""An archive is read as lookalike wrote it, or refused; it touches nothing but what it is given."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.client import NewItem
from lookalike.client import _export as exports
from lookalike.client._archive import ArchiveWriter
from lookalike.client._aside import written_aside
from lookalike.client._import import Archive, opened
from lookalike.client.errors import ArchiveInvalid, DataLoss, FileExists, FileUnreadable
from lookalike.v1 import index_service_pb2 as pb
from lookalike.v1 import types_pb2

SEED = int(os.environ.get("PROVE_SEED", "33"))
DIM = 3
ODD_IDS = ("../../etc/passwd", "/abs", "a\\b", "..", "\u202egnp", "é" * 100, " ", "con", "-", "#")


def exported(number: int, item_id: str = "", original: bytes = b"") -> pb.ExportedItem:
    data = original or b"picture %d" % number
    return pb.ExportedItem(
        item=types_pb2.Item(
            id=item_id or f"i{number}",
            vector=types_pb2.Vector(values=[number + 0.1, -0.0, 1e-40]),
            image=types_pb2.ImageInfo(
                width=4,
                height=3,
                media_type="image/png",
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            ),
        ),
        digest=bytes(range(64)),
        thumbnail=b"thumbnail %d" % number,
        original_bytes=len(original),
    )


def messages(items: Sequence[pb.ExportedItem], originals: dict[str, bytes]) -> Iterator[object]:
    collection = pb.Collection(
        name="c",
        model="m",
        model_fingerprint="f",
        dimension=DIM,
        metric=types_pb2.METRIC_COSINE,
        image_retention=pb.IMAGE_RETENTION_ORIGINAL,
        item_count=len(items),
    )
    yield pb.ExportItemsResponse(start=pb.ExportStart(seq=7, collection=collection))
    for item in items:
        yield pb.ExportItemsResponse(batch=pb.ExportBatch(items=[item]))
        data = originals.get(item.item.id, b"")
        for start in range(0, len(data), 1000):
            yield pb.ExportItemsResponse(original=data[start : start + 1000])
    end = pb.ExportEnd(
        item_count=len(items), thumbnail_count=len(items), original_count=len(originals)
    )
    yield pb.ExportItemsResponse(end=end)


def archived(items: Sequence[pb.ExportedItem], originals: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    exports.save(file, messages(items, originals or {}), "", True, None)  # type: ignore[arg-type]
    return file.getvalue()


def read(data: bytes) -> list[NewItem]:
    return list(Archive(io.BytesIO(data)).items(reembed=False))


@pytest.fixture(scope="module")
def whole() -> bytes:
    big = random.Random(1).randbytes(5000)
    items = [exported(n, item_id) for n, item_id in enumerate(ODD_IDS)]
    items.append(exported(99, "with original", big))
    return archived(items, {"with original": big})


# ------------------------------------------------------------ there and back


def test_everything_comes_back_bit_by_bit(whole: bytes) -> None:
    found = read(whole)
    assert [item.id for item in found] == [*ODD_IDS, "with original"]
    for number, item in enumerate(found[:-1]):
        assert (
            np.asarray(item.vector).tobytes()
            == np.array([number + 0.1, -0.0, 1e-40], "<f4").tobytes()
        )
        assert item.image is None
        assert item.stored is not None
        assert item.stored.thumbnail == b"thumbnail %d" % number
        assert item.stored.digest == bytes(range(64))
        assert item.stored.image is not None
        assert item.stored.image.width == 4
    assert found[-1].image == random.Random(1).randbytes(5000)


def test_ids_are_never_names_of_files(whole: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        names = archive.getnames()
    assert names[:4] == [
        "manifest.json",
        "000000/items.jsonl",
        "000000/vectors.npy",
        "000000/000000-thumbnail.jpg",
    ]
    assert names[-2:] == ["000000/000010-original.png", "end.json"]


def test_an_archive_of_many_parts_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_PART_ITEMS", 7)
    data = archived([exported(n) for n in range(50)])
    assert [item.id for item in read(data)] == [f"i{n}" for n in range(50)]
    assert data.count(b"items.jsonl") == 8


def test_an_archive_of_nothing_comes_back() -> None:
    assert read(archived([])) == []


def test_the_same_export_gives_the_same_bytes(whole: bytes) -> None:
    assert archived([exported(1)]) == archived([exported(1)])


def test_to_be_embedded_anew_only_the_originals_come(whole: bytes) -> None:
    found = list(Archive(io.BytesIO(whole)).items(reembed=True))
    assert all(item.vector is None and item.stored is None for item in found)
    assert found[-1].image == random.Random(1).randbytes(5000)


# ------------------------------------------------------------------ what is sent


@pytest.mark.parametrize("fault", ["cut", "count", "piece", "interleaved"])
def test_an_export_that_arrives_otherwise_than_it_was_sent_fails(fault: str) -> None:
    big = b"x" * 3000
    sent = list(messages([exported(1, "a", big), exported(2)], {"a": big}))
    match fault:
        case "cut":
            del sent[-1]
        case "count":
            del sent[-2]
        case "piece":
            del sent[3]
        case "interleaved":
            sent[3], sent[-2] = sent[-2], sent[3]
    with pytest.raises(DataLoss):
        exports.save(io.BytesIO(), iter(sent), "", True, None)  # type: ignore[arg-type]


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail() -> None:
        with written_aside(tmp_path / "f") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())
    with written_aside(tmp_path / "f") as file:
        file.write(b"whole")
        assert not (tmp_path / "f").exists()
    assert (tmp_path / "f").read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def race() -> None:
        with written_aside(tmp_path / "f") as file:
            file.write(b"ours")
            (tmp_path / "f").write_bytes(b"theirs")

    with pytest.raises(FileExists):
        race()
    assert (tmp_path / "f").read_bytes() == b"theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


# ---------------------------------------------------------------------- hostile


def refused(data: bytes) -> str:
    with pytest.raises(ArchiveInvalid) as caught:
        read(data)
    return caught.value.message


def members(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]


def put_together(files: Sequence[tuple[str, bytes]], *, seal: bool = True) -> bytes:
    """Write an archive as the export does, with a checksum that fits if `seal`."""
    out = io.BytesIO()
    writer = ArchiveWriter(out)
    for name, data in files:
        if name == "end.json" and seal:
            data = json.dumps({**json.loads(data), "sha256": writer.sha256}).encode()
        writer.add(name, data)
    writer.close()
    return out.getvalue()


def changed(data: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    return put_together([(n, change(d) if n == name else d) for n, d in members(data)])


def fields(change: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        first, *rest = data.splitlines(keepends=True)
        value = json.loads(first if rest and b'"id"' in first else data)
        change(value)
        text = json.dumps(value).encode() + b"\n"
        return text + b"".join(rest) if rest and b'"id"' in first else text

    return apply


def test_every_cut_is_found(whole: bytes) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for size in [0, 1, 511, 512, 513, *(rng.randrange(len(whole) - 1024) for _ in range(200))]:
        assert "complete" in refused(whole[:size]) or size % 512 == 0


def test_every_flipped_bit_is_found(whole: bytes) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    end = whole.index(b"end.json")
    for _ in range(400):
        place = rng.randrange(end)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        refused(bytes(damaged))


def entry(name: str, data: bytes = b"", **fields: object) -> bytes:
    """Return a member as tarfile writes it, with whatever header."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


HOSTILE = {
    "traversal": entry("../../escaped", b"x"),
    "absolute": entry("/tmp/escaped", b"x"),
    "strange name": entry("000000/../manifest.json", b"{}"),
    "link": entry("manifest.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": entry("manifest.json", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "device": entry("manifest.json", type=tarfile.CHRTYPE),
    "folder": entry("manifest.json", type=tarfile.DIRTYPE),
    "huge size": entry("manifest.json", size=2**33 - 1),
    "huger size": entry("manifest.json", size=2**60),
    "long name": entry("a" * 5000),
    "extended header": entry("x", b"9" * 600, type=tarfile.XHDTYPE),
    "mode": entry("manifest.json", b"{}", mode=0o4777),
    "gzip": b"\x1f\x8b\x08" + bytes(600),
    "bzip2": b"BZh9" + bytes(600),
    "xz": b"\xfd7zXZ" + bytes(600),
    "random": random.Random(2).randbytes(4096),
    "zip": b"PK\x03\x04" + bytes(600),
    "nothing": bytes(1024),
    "other manifest": put_together([("manifest.json", b'{"format": "x"}')]),
    "newer": put_together([("manifest.json", b'{"format": "lookalike export", "version": 2}')]),
    "deep manifest": put_together([("manifest.json", b"[" * 10**5)]),
    "long number": put_together([("manifest.json", b'{"version": ' + b"9" * 10**5 + b"}")]),
    "bare": put_together([("manifest.json", b'{"format": "lookalike export", "version": 1}')]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_export_writes_is_refused(name: str, tmp_path: Path) -> None:
    message = refused(HOSTILE[name])
    assert ("compressed" in message) == (name in ("gzip", "bzip2", "xz"))
    assert not Path("/tmp/escaped").exists()


def npy(shape: tuple[int, ...], kind: str = "<f4", data: bytes = b"") -> bytes:
    file = io.BytesIO()
    fields = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue() + data


CHANGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "vectors of objects": ("000000/vectors.npy", lambda _: npy((11, 3), "|O", b"x" * 132)),
    "vectors of many": ("000000/vectors.npy", lambda _: npy((10**12, 3), data=b"x" * 132)),
    "vectors of another size": ("000000/vectors.npy", lambda d: npy((11, 4), data=d[-132:])),
    "fewer vectors": ("000000/vectors.npy", lambda d: npy((10, 3), data=d[-120:])),
    "vectors cut": ("000000/vectors.npy", lambda d: d[:-1]),
    "vectors of text": ("000000/vectors.npy", lambda _: b"not an array"),
    "vectors of version 3": ("000000/vectors.npy", lambda d: d[:6] + b"\3" + d[7:]),
    "another picture": ("000000/000010-original.png", lambda d: d[:-1] + b"?"),
    "shorter thumbnail": ("000000/000000-thumbnail.jpg", lambda d: d[:-1]),
    "line without id": ("000000/items.jsonl", fields(lambda f: f.pop("id"))),
    "id of a number": ("000000/items.jsonl", fields(lambda f: f.update(id=7))),
    "metadata of a list": ("000000/items.jsonl", fields(lambda f: f.update(metadata=[1]))),
    "sizes of text": ("000000/items.jsonl", fields(lambda f: f.update(thumbnail="1"))),
    "negative size": ("000000/items.jsonl", fields(lambda f: f.update(thumbnail=-1))),
    "size true": ("000000/items.jsonl", fields(lambda f: f.update(original=True))),
    "digest of no hex": ("000000/items.jsonl", fields(lambda f: f.update(digest="zz"))),
    "picture of text": ("000000/items.jsonl", fields(lambda f: f.update(image="x"))),
    "width of text": ("000000/items.jsonl", fields(lambda f: f["image"].update(width="4"))),
    "huge width": ("000000/items.jsonl", fields(lambda f: f["image"].update(width=2**40))),
    "line of NaN": (
        "000000/items.jsonl",
        lambda d: d.replace(b'"metadata":{}', b'"metadata":{"a":NaN}', 1),
    ),
    "line that is deep": ("000000/items.jsonl", lambda d: d.replace(b"{}", b"[" * 10**5, 1)),
    "line that is empty": ("000000/items.jsonl", lambda d: b"\n" + d),
    "one line more": ("000000/items.jsonl", lambda d: d + d.splitlines()[0]),
    "no collection": ("manifest.json", fields(lambda f: f.pop("collection"))),
    "collection of text": ("manifest.json", fields(lambda f: f.update(collection="x"))),
    "dimension of text": ("manifest.json", fields(lambda f: f["collection"].update(dimension="3"))),
    "strange index": ("manifest.json", fields(lambda f: f["collection"].update(index=[]))),
    "another algorithm": (
        "manifest.json",
        fields(lambda f: f["collection"]["index"].update(algorithm={"kind": "tree"})),
    ),
    "another count": ("end.json", fields(lambda f: f.update(item_count=12))),
    "no counts": ("end.json", lambda _: b"{}"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_content_that_does_not_fit_is_refused(name: str, whole: bytes) -> None:
    member, change = CHANGES[name]
    assert changed(whole, member, change) != changed(whole, member, bytes), "nothing was changed"
    refused(changed(whole, member, change))


def test_changes_elsewhere_are_refused_too(whole: bytes) -> None:
    files = members(whole)
    assert read(put_together(files))
    refused(put_together(files, seal=False)[:-1024] + entry("more", b"x"))
    refused(put_together([*files, ("end.json", files[-1][1])]))
    refused(put_together([f for f in files if f[0] != "end.json"]))
    refused(put_together([files[0], *files]))
    refused(put_together([files[0], files[2], files[1], *files[3:]]))
    for skipped in range(1, len(files) - 1):
        refused(put_together(files[:skipped] + files[skipped + 1 :]))


@pytest.mark.parametrize(
    "header",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "manifest.json"},
        {"type": tarfile.DIRTYPE},
        {"mode": 0o4755},
        {"uid": 1000, "uname": "root"},
        {"mtime": 1},
        {"name": "000000/000000-thumbnail.jpg/../../../etc/cron.d/x"},
        {"name": "000000/000000-thumbnail./../x"},
        {"name": "000000/000000-thumbnail.JPG"},
    ],
    ids=str,
)
def test_a_member_with_another_header_is_refused(header: dict[str, Any], whole: bytes) -> None:
    """Even if its content fits, and the checksum of the archive as well."""

    class Writer(ArchiveWriter):
        def add(self, name: str, data: bytes) -> None:
            if name != "000000/000000-thumbnail.jpg":
                super().add(name, data)
                return
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in header.items():
                setattr(info, field, value)
            self._write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))

    out = io.BytesIO()
    writer = Writer(out)
    for name, data in members(whole):
        end = {"sha256": writer.sha256} if name == "end.json" else {}
        writer.add(name, json.dumps({**json.loads(data), **end}).encode() if end else data)
    writer.close()
    refused(out.getvalue())


def test_a_file_is_checked_whole_before_anything_is_given(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "good.tar").write_bytes(whole)
    with opened(tmp_path / "good.tar") as file:
        assert len(list(Archive(file).items(reembed=False))) == 11
    (tmp_path / "bad.tar").write_bytes(whole[:-1100])
    with pytest.raises(ArchiveInvalid), opened(tmp_path / "bad.tar"):
        pytest.fail("it was opened")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "absent"):
        with pytest.raises(FileUnreadable), opened(path):
            pytest.fail("it was opened")
