"""EXIF: what is taken over, from which files, and what is too doubtful.

Troubleshooting: `tiff` below writes the structure that the reader reads; a failing
mutation is printed with its seed.
"""

from __future__ import annotations

import io
import random
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from house import open_house
from lookalike.server.domain import ExifMode, NewItem, Outcome, View
from lookalike.server.images import exif
from made_pictures import encoded, scene

Entry = tuple[int, int, int, bytes]
"""Tag, type, number of values, their bytes."""
FULL = {
    "time": "2024-05-17T12:03:09",
    "camera": "Acme Mark II",
    "latitude": -33.8567844,
    "longitude": 151.2152967,
}
BASIC = {"time": FULL["time"], "camera": FULL["camera"]}


def text(tag: int, value: str) -> Entry:
    raw = value.encode() + b"\0"
    return tag, 2, len(raw), raw


def degrees(order: str, tag: int, *parts: tuple[int, int]) -> Entry:
    raw = b"".join(struct.pack(order + "II", *part) for part in parts)
    return tag, 5, len(parts), raw


def directory(order: str, start: int, entries: Sequence[Entry]) -> bytes:
    """Return a directory that lies at `start`, its long values behind it."""
    head = struct.pack(order + "H", len(entries))
    behind = start + 2 + 12 * len(entries) + 4
    tail = b""
    for tag, kind, number, raw in entries:
        value = raw.ljust(4, b"\0")
        if len(raw) > 4:
            value = struct.pack(order + "I", behind + len(tail))
            tail += raw
        head += struct.pack(order + "HHI", tag, kind, number) + value
    return head + b"\0\0\0\0" + tail


def tiff(
    order: str = "<",
    *,
    first: Sequence[Entry] = (text(0x010F, "Acme"), text(0x0110, "Mark II")),
    inner: Sequence[Entry] = (text(0x9003, "2024:05:17 12:03:09"),),
    gps: Sequence[Entry] | None = None,
) -> bytes:
    """Return an EXIF block."""
    if gps is None:
        gps = (
            text(1, "S"),
            degrees(order, 2, (33, 1), (51, 1), (2442384, 100000)),
            text(3, "E"),
            degrees(order, 4, (151, 1), (12, 1), (5506812, 100000)),
        )

    def pointers(exif_at: int, gps_at: int) -> list[Entry]:
        return [
            *first,
            (0x8769, 4, 1, struct.pack(order + "I", exif_at)),
            (0x8825, 4, 1, struct.pack(order + "I", gps_at)),
        ]

    exif_at = 8 + len(directory(order, 8, pointers(0, 0)))
    inner_raw = directory(order, exif_at, inner)
    gps_at = exif_at + len(inner_raw)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return (
        head
        + directory(order, 8, pointers(exif_at, gps_at))
        + inner_raw
        + directory(order, gps_at, gps)
    )


def jpeg_with(block: bytes) -> bytes:
    body = b"Exif\0\0" + block
    plain = encoded(scene(1))
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize("order", ["<", ">"])
def test_time_camera_and_position_are_read_in_both_byte_orders(order: str) -> None:
    assert exif.read(jpeg_with(tiff(order)), position=True) == FULL


def test_the_position_is_only_read_if_it_was_asked_for() -> None:
    assert exif.read(jpeg_with(tiff()), position=False) == BASIC


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_files_that_others_write_are_read(kind: str) -> None:
    data = encoded(scene(1), kind, exif=b"Exif\0\0" + tiff())
    assert exif.read(data, position=True) == FULL


def test_a_tiff_file_is_its_own_exif() -> None:
    tags = Image.Exif()
    tags[0x010F], tags[0x0110] = "Acme", "Mark II"
    buffer = io.BytesIO()
    Image.fromarray(scene(1)).save(buffer, "TIFF", exif=tags)
    assert exif.read(buffer.getvalue(), position=True) == {"camera": BASIC["camera"]}
    assert exif.read(tiff(), position=True) == FULL


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_files_without_exif_have_none(kind: str) -> None:
    assert exif.read(encoded(scene(1), kind), position=True) == {}


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("NIKON CORPORATION", "NIKON D90", "NIKON D90"),
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("Acme", "", "Acme"),
        ("", "Mark II", "Mark II"),
        ("  Acme  ", " Mark\tII ", "Acme Mark II"),
        ("x" * 200, "y", "x" * 128),
        ("", "", None),
    ],
)
def test_the_camera_is_named_once(make: str, model: str, camera: str | None) -> None:
    block = tiff(first=(text(0x010F, make), text(0x0110, model)))
    assert exif.read(jpeg_with(block), position=False).get("camera") == camera


# ------------------------------------------------------------- what is doubtful


@pytest.mark.parametrize(
    "taken", ["0000:00:00 00:00:00", "2024:13:01 00:00:00", "2024:02:30 00:00:00", "yesterday", ""]
)
def test_what_is_no_time_is_left_out(taken: str) -> None:
    block = tiff(inner=(text(0x9003, taken),))
    assert "time" not in exif.read(jpeg_with(block), position=False)


GOOD = degrees("<", 4, (151, 1), (12, 1), (55, 1))


@pytest.mark.parametrize(
    "gps",
    [
        (text(1, "S"), degrees("<", 2, (33, 0), (51, 1), (24, 1)), text(3, "E"), GOOD),
        (text(1, "S"), degrees("<", 2, (91, 1), (0, 1), (0, 1)), text(3, "E"), GOOD),
        (text(1, "X"), degrees("<", 2, (33, 1), (51, 1), (24, 1)), text(3, "E"), GOOD),
        (text(1, "S"), degrees("<", 2, (33, 1), (51, 1)), text(3, "E"), GOOD),
        (text(3, "E"), GOOD),
        (),
    ],
)
def test_half_a_position_is_none(gps: Sequence[Entry]) -> None:
    assert exif.read(jpeg_with(tiff(gps=gps)), position=True) == BASIC


@pytest.mark.parametrize("tag", [0x8769, 0x8825])
@pytest.mark.parametrize("at", [0, 8, 2**31, 2**32 - 1])
def test_a_directory_that_points_astray_is_left_out(tag: int, at: int) -> None:
    loop = (text(0x010F, "Acme"), (tag, 4, 1, struct.pack("<I", at)))
    block = struct.pack("<2sHI", b"II", 42, 8) + directory("<", 8, loop)
    assert exif.read(jpeg_with(block), position=True) == {"camera": "Acme"}


def test_lengths_are_not_trusted() -> None:
    for number in (0, 257, 2**31, 2**32 - 1):
        block = struct.pack("<2sHI", b"II", 42, 8)
        block += directory("<", 8, [(0x010F, 2, number, b"Acme")])
        assert exif.read(jpeg_with(block), position=True) == {}


def test_long_values_are_left_out() -> None:
    block = tiff(first=(text(0x010F, "Acme" + "\0" * 300), text(0x0110, "Mark II")))
    assert exif.read(jpeg_with(block), position=False)["camera"] == "Mark II"


def test_damaged_files_never_raise_and_take_no_time() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    block = b"Exif\0\0" + tiff()
    files = [encoded(scene(1), kind, exif=block) for kind in ("JPEG", "PNG", "WEBP")]
    files += [jpeg_with(tiff(">")), tiff(), tiff(">")]
    started = time.monotonic()
    for _ in range(3000):
        data = bytearray(rng.choice(files))
        where = max(data.find(b"II*\0"), data.find(b"MM\0*"), 0)
        for _ in range(rng.randrange(1, 6)):
            data[min(where + rng.randrange(300), len(data) - 1)] = rng.randrange(256)
        found = exif.read(bytes(data[: rng.randrange(len(data))]), position=True)
        found |= exif.read(bytes(data), position=True)
        assert set(found) <= set(FULL)
        assert all(isinstance(value, str | float) for value in found.values())
    assert time.monotonic() - started < 30


# --------------------------------------------------------------------- storing


def test_what_the_item_brings_goes_first_and_the_size_is_upright(tmp_path: Path) -> None:
    turned = tiff(first=(text(0x010F, "Acme"), (0x0112, 3, 1, struct.pack("<H", 6))))
    with open_house(tmp_path / "data") as house:
        own: dict[str, Any] = {"a": 1.0, "exif": {"camera": "mine", "width": 7.0}}
        items = [
            NewItem("own", jpeg_with(turned), metadata=own),
            NewItem("text", jpeg_with(turned), metadata={"exif": "none of yours"}),
            NewItem("plain", encoded(scene(2))),
        ]
        house.put(items, exif=ExifMode.BASIC)
        stored = {
            item.id: item.metadata
            for item in (house.library.collection("").get(i.id, View.BASIC) for i in items)
        }
    mine = {"camera": "mine", "width": 7.0}
    assert stored["own"] == {"a": 1.0, "exif": {"time": BASIC["time"], "height": 160.0, **mine}}
    assert stored["text"] == {"exif": "none of yours"}
    assert stored["plain"] == {"exif": {"width": 160.0, "height": 120.0}}


def test_nothing_is_taken_over_unless_asked_and_no_position_unless_asked(tmp_path: Path) -> None:
    with open_house(tmp_path / "data") as house:
        for mode, keys in (
            (ExifMode.NONE, None),
            (ExifMode.BASIC, {"time", "camera", "width", "height"}),
            (ExifMode.WITH_POSITION, {*FULL, "width", "height"}),
        ):
            house.put([NewItem("it", jpeg_with(tiff()))], exif=mode)
            metadata = house.library.collection("").get("it", View.BASIC).metadata
            found: Any = metadata.get("exif")
            assert (None if found is None else set(found)) == keys


def test_the_same_item_is_unchanged_in_the_same_mode_only(tmp_path: Path) -> None:
    item = NewItem("it", jpeg_with(tiff()), metadata={"a": 1.0})
    with open_house(tmp_path / "data") as house:

        def outcome(mode: ExifMode) -> Outcome:
            [result] = house.put([item], exif=mode)
            return result.outcome

        assert outcome(ExifMode.BASIC) is Outcome.CREATED
        assert outcome(ExifMode.BASIC) is Outcome.UNCHANGED
        assert outcome(ExifMode.WITH_POSITION) is Outcome.UPDATED
        assert outcome(ExifMode.WITH_POSITION) is Outcome.UNCHANGED
        assert outcome(ExifMode.NONE) is Outcome.UPDATED
        assert house.library.collection("").get("it", View.BASIC).metadata == {"a": 1.0}
