"""EXIF of JPEG, PNG, WebP and TIFF files: when, with what and, if asked, where.

A reader of its own: nothing of it reaches the decoding library. It is bounded (a
fixed number of entries of four directories, values of at most 256 bytes), trusts no
length and no offset, and leaves out whatever is doubtful. EXIF 2.32; TIFF 6.0.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from datetime import datetime

from lookalike.backends.errors import LookalikeError
from lookalike.server.images import _jpeg, _png, _webp

_MAX_ENTRIES = 1024
_MAX_VALUE_BYTES = 256
_MAX_SEGMENTS = 1000
_MAX_CAMERA = 128
_MAKE, _MODEL, _EXIF, _GPS = 0x010F, 0x0110, 0x8769, 0x8825
_TAKEN = 0x9003
_ASCII, _LONG, _RATIONAL, _IFD = 2, 4, 5, 13
_SIZES = {_ASCII: 1, _LONG: 4, _RATIONAL: 8, _IFD: 4}
_APP1, _SOS = 0xE1, 0xDA
_TIME = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d) (\d\d):(\d\d):(\d\d)", re.ASCII)


def read(data: bytes, *, position: bool) -> dict[str, object]:
    """Return "time", "camera" and, with `position`, "latitude" and "longitude".

    Only those that the file has and that make sense: "2024-05-17T12:03:09" as the
    camera's clock had it, without a zone; degrees, north and east positive. Any
    thread; never raises.
    """
    try:
        block = _block(data)
    except (LookalikeError, struct.error, IndexError):
        return {}
    tiff = _Tiff.open(block)
    if tiff is None:
        return {}
    first = tiff.directory(tiff.start)
    found: dict[str, object] = {}
    if (at := first.pointer(_EXIF)) and (taken := _time(tiff.directory(at).text(_TAKEN))):
        found["time"] = taken
    if camera := _camera(first.text(_MAKE), first.text(_MODEL)):
        found["camera"] = camera
    if position and (at := first.pointer(_GPS)):
        found |= _position(tiff.directory(at))
    return found


def _block(data: bytes) -> bytes:
    """Return the EXIF of a file, a TIFF structure; empty if there is none."""
    if data.startswith(b"\xff\xd8\xff"):
        pos = 2
        for _ in range(_MAX_SEGMENTS):
            pos, marker, body = _jpeg.segment(data, pos)
            if marker == _APP1 and body.startswith(b"Exif\0\0"):
                return body
            if marker == _SOS:
                break
        return b""
    if data.startswith(_png.SIGNATURE):
        return next((data[a:b] for kind, a, b in _png.chunks(data) if kind == b"eXIf"), b"")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return next((data[a:b] for kind, a, b in _webp.chunks(data) if kind == b"EXIF"), b"")
    return data if data.startswith((b"II*\0", b"MM\0*")) else b""


@dataclass(frozen=True, slots=True)
class _Tiff:
    data: bytes
    order: str
    start: int
    """Of the first directory."""

    @classmethod
    def open(cls, block: bytes) -> _Tiff | None:
        data = block.removeprefix(b"Exif\0\0")
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
        if order is None or len(data) < 8:
            return None
        return cls(data, order, struct.unpack_from(order + "I", data, 4)[0])

    def directory(self, start: int) -> _Directory:
        """Read a directory; what lies outside the data is left out."""
        entries: dict[int, tuple[int, int, bytes]] = {}
        head = self.data[start : start + 2]
        count = struct.unpack(self.order + "H", head)[0] if len(head) == 2 else 0
        for i in range(min(count, _MAX_ENTRIES)):
            at = start + 2 + 12 * i
            if at + 12 > len(self.data):
                break
            tag, kind, number, offset = struct.unpack_from(self.order + "HHII", self.data, at)
            size = _SIZES.get(kind, 0) * number
            if not 0 < size <= _MAX_VALUE_BYTES or tag in entries:
                continue
            where = at + 8 if size <= 4 else offset
            if where + size <= len(self.data):
                entries[tag] = kind, number, self.data[where : where + size]
        return _Directory(self.order, entries)


@dataclass(frozen=True, slots=True)
class _Directory:
    order: str
    entries: dict[int, tuple[int, int, bytes]]
    """Tag -> type, number of values, their bytes."""

    def text(self, tag: int) -> str:
        kind, _, raw = self.entries.get(tag, (0, 0, b""))
        if kind != _ASCII:
            return ""
        text = raw.partition(b"\0")[0].decode("utf-8", "replace")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())

    def pointer(self, tag: int) -> int:
        kind, number, raw = self.entries.get(tag, (0, 0, b""))
        if kind not in (_LONG, _IFD) or number != 1:
            return 0
        return int(struct.unpack(self.order + "I", raw)[0])

    def degrees(self, tag: int) -> float:
        """Return degrees, minutes and seconds as one number; NaN if it is none."""
        kind, number, raw = self.entries.get(tag, (0, 0, b""))
        if (kind, number) != (_RATIONAL, 3):
            return math.nan
        parts = struct.unpack(self.order + "6I", raw)
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        if not pairs[0][1] or any(below == 0 and above for above, below in pairs):
            return math.nan
        values = [above / below if below else 0.0 for above, below in pairs]
        return values[0] + values[1] / 60 + values[2] / 3600


def _time(text: str) -> str:
    """Return "2024-05-17T12:03:09", or "" for what is no time."""
    match = _TIME.match(text)
    if match is None:
        return ""
    try:
        return datetime(*map(int, match.groups())).isoformat(timespec="seconds")  # type: ignore[arg-type]
    except ValueError:
        return ""


def _camera(make: str, model: str) -> str:
    """Return make and model, the make once: "NIKON CORPORATION", "NIKON D90" is the latter."""
    brand = make.split(" ")[0].casefold()
    if brand and model.casefold().startswith(brand):
        return model[:_MAX_CAMERA]
    return f"{make} {model}".strip()[:_MAX_CAMERA]


def _position(gps: _Directory) -> dict[str, object]:
    """Return latitude and longitude, both or none."""
    found: dict[str, object] = {}
    for name, sign_tag, signs, most in (
        ("latitude", 1, {"N": 1, "S": -1}, 90),
        ("longitude", 3, {"E": 1, "W": -1}, 180),
    ):
        sign, degrees = signs.get(gps.text(sign_tag).upper()), gps.degrees(sign_tag + 1)
        if sign is None or not 0 <= degrees <= most:  # NaN is neither
            return {}
        found[name] = round(sign * degrees, 7)
    return found
