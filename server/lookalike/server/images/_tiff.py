"""TIFF 6.0 and BigTIFF: the first directory, rewritten with the tags that pixels need."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from lookalike.server.images._parts import Header, undecodable, unsupported

_MAX_ENTRIES = 4096
_MAX_PIECES = 65_536
"""Strips or tiles; the library makes an object of each."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION = 256, 257, 258, 259
_ORIENTATION, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT, _DNG = 274, 277, 322, 323, 50706
_SINGLE = {_WIDTH, _HEIGHT, _COMPRESSION, 262, 266, _SAMPLES, 278, 284, 292, 293, 317}
_SINGLE |= {_TILE_WIDTH, _TILE_HEIGHT, 531}
_LISTS = {_BITS: 16, 320: 3 * 65_536, 338: 16, 339: 16, 530: 2, 532: 6, 347: 65_536}
"""Tag -> most values: bits, colour map, extra samples, sample format, YCbCr, JPEG tables."""
_PIECES = {273, 279, 324, 325}
"""Offsets and sizes of strips and tiles."""
_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
"""None, three of fax, LZW, JPEG, deflate, PackBits, old deflate. Left out: the old
JPEG (6), which the specification's authors withdrew, and those hardly in use."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 16: 8}
"""Type -> bytes: BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8."""
_CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True, slots=True)
class _Layout:
    """How this kind of TIFF writes a directory."""

    order: str
    big: bool

    @property
    def entry(self) -> str:
        return self.order + ("HHQ8s" if self.big else "HHI4s")

    @property
    def offset(self) -> str:
        return self.order + ("Q" if self.big else "I")

    @property
    def count(self) -> str:
        return self.order + ("Q" if self.big else "H")


_Entry = tuple[int, int, bytes]  # type, count, value or offset


def read(data: bytes) -> Header:
    """Read the first directory; raises ImageUndecodable or ImageFormatUnsupported."""
    order = "<" if data[:2] == b"II" else ">"
    layout = _Layout(order, struct.unpack_from(order + "H", data, 2)[0] == 43)
    entries = _directory(data, layout)
    values = {tag: _first(data, layout, entry) for tag, entry in entries.items()}
    if _DNG in values:
        raise unsupported("a raw picture of a camera (DNG)", "Send a developed JPEG of it.")
    width, height = values.get(_WIDTH) or 0, values.get(_HEIGHT) or 0
    compression = values.get(_COMPRESSION) or 1
    if compression not in _COMPRESSIONS:
        raise unsupported(f"a TIFF with compression {compression}", "Save it with deflate or LZW.")
    tile = (values.get(_TILE_WIDTH) or 1) * (values.get(_TILE_HEIGHT) or 1)
    if tile > max(width * height, 1) * 4 and tile > 2**24:
        raise undecodable("has TIFF tiles far larger than itself")
    orientation = values.get(_ORIENTATION) or 1
    return Header(
        "TIFF",
        width,
        height,
        _essence(data, layout, entries, values),
        9 if compression != 1 else 4,  # the whole picture may be one strip, held unpacked
        orientation if 1 <= orientation <= 8 else 1,
        bits=values.get(_BITS) or 1,
    )


def _directory(data: bytes, layout: _Layout) -> dict[int, _Entry]:
    """Return the entries whose values lie inside the file; the first of each tag counts."""
    (pos,) = struct.unpack_from(layout.offset, data, 8 if layout.big else 4)
    if pos > len(data):
        raise undecodable("ends before its TIFF directory")
    (count,) = struct.unpack_from(layout.count, data, pos)
    if count > _MAX_ENTRIES:
        raise undecodable(f"has more than {_MAX_ENTRIES} TIFF tags")
    pos += struct.calcsize(layout.count)
    entries: dict[int, _Entry] = {}
    for _ in range(count):
        tag, kind, number, value = struct.unpack_from(layout.entry, data, pos)
        pos += struct.calcsize(layout.entry)
        size = _SIZES.get(kind, 0) * number
        if not size or tag in entries:
            continue
        if size > len(value) and struct.unpack(layout.offset, value)[0] + size > len(data):
            continue
        entries[tag] = kind, number, value
    return entries


def _raw(data: bytes, layout: _Layout, entry: _Entry) -> bytes:
    """Return the bytes of an entry's values, from the entry itself or from where it points."""
    kind, number, value = entry
    size = _SIZES[kind] * number
    if size <= len(value):
        return value[:size]
    (offset,) = struct.unpack(layout.offset, value)
    return data[offset : offset + size]


def _first(data: bytes, layout: _Layout, entry: _Entry) -> int | None:
    """Return the first value of an entry of whole numbers, None for other types."""
    code = _CODES.get(entry[0])
    if code is None:
        return None
    return int(struct.unpack_from(layout.order + code, _raw(data, layout, entry))[0])


def _essence(
    data: bytes, layout: _Layout, entries: dict[int, _Entry], values: dict[int, int | None]
) -> bytes:
    """Return the file as a classic TIFF whose one directory, at the end, has the tags above.

    A BigTIFF becomes a classic one too: no file here reaches the 4 GB that need it.
    """
    order = layout.order
    kept: list[tuple[int, int, int, bytes]] = []
    for tag in sorted(entries):
        kind, number, _ = entries[tag]
        first = values[tag]
        if tag in _SINGLE and first is not None and first < 2**32:
            kept.append((tag, 4, 1, struct.pack(order + "I", first)))
        elif tag in _PIECES or tag in _LISTS:
            if number > _LISTS.get(tag, _MAX_PIECES):
                raise undecodable(f"has {number} values of TIFF tag {tag}")
            raw = _raw(data, layout, entries[tag])
            if kind == 16:  # struct.error where a value needs its eight bytes
                kind = 4
                raw = struct.pack(f"{order}{number}I", *struct.unpack(f"{order}{number}Q", raw))
            kept.append((tag, kind, number, raw))
    pad = b"\0" * (len(data) & 1)
    start = len(data) + len(pad)
    end = start + 2 + 12 * len(kept) + 4
    directory, tables = [struct.pack(order + "H", len(kept))], []
    for tag, kind, number, raw in kept:
        value = raw.ljust(4, b"\0")
        if len(value) > 4:
            value = struct.pack(order + "I", end)
            tables.append(raw.ljust(len(raw) + (len(raw) & 1), b"\0"))
            end += len(tables[-1])
        directory.append(struct.pack(order + "HHI4s", tag, kind, number, value))
    head = struct.pack(order + "2sHI", data[:2], 42, start)
    return b"".join([head, memoryview(data)[8:], pad, *directory, b"\0\0\0\0", *tables])
