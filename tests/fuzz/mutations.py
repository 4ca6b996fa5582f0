"""Takes pictures apart along their own structure, and puts them together wrongly.

Each format is cut into pieces (segments, chunks, blocks, boxes, directory entries);
pieces are dropped, doubled, swapped, borrowed from other files, cut short, and their
bytes changed; lengths and checksums are made right again, mostly, so that the damage
gets past the first check.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence

import picture_zoo as zoo

Pieces = list[bytes]
TEMPTING = (0, 1, 2, 3, 4, 7, 8, 15, 16, 127, 128, 255, 256, 257, 32767, 32768, 65535, 65536,
            2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)  # fmt: skip


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return a file made of one of the seeds, and perhaps pieces of another."""
    data, other = rng.choice(seeds), rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = next((kind for kind in _KINDS if data.startswith(kind[0], kind[1])), None)
        if kind is None or rng.random() < 0.15:
            data = _anywhere(rng, data, other)
        else:
            _, _, cut, join = kind
            try:
                pieces = cut(data)
                borrowed = cut(other) if other[:2] == data[:2] else [other[:500]]
            except (struct.error, zlib.error, IndexError, ValueError):
                data = _anywhere(rng, data, other)
                continue
            data = join(rng, _shuffled(rng, pieces, borrowed))
    return data


def _shuffled(rng: random.Random, pieces: Pieces, borrowed: Pieces) -> Pieces:
    """Drop, double, swap, borrow or change pieces."""
    pieces = list(pieces)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not pieces:
            break
        at = rng.randrange(len(pieces))
        match rng.randrange(8):
            case 0:
                del pieces[at]
            case 1:
                pieces.insert(rng.randrange(len(pieces) + 1), pieces[at])
            case 2:
                to = rng.randrange(len(pieces))
                pieces[at], pieces[to] = pieces[to], pieces[at]
            case 3 if borrowed:
                pieces.insert(at, rng.choice(borrowed))
            case 4:
                pieces[at] = pieces[at][: rng.randrange(len(pieces[at]) + 1)]
            case _:
                pieces[at] = _changed(rng, pieces[at])
    return pieces


def _changed(rng: random.Random, piece: bytes) -> bytes:
    """Change some bytes: at random, or to numbers that tempt."""
    if not piece:
        return rng.randbytes(rng.randrange(20))
    out = bytearray(piece)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at = min(int(rng.random() ** 2 * len(out)), len(out) - 1)  # heads more than tails
        if rng.random() < 0.5:
            out[at] = rng.randrange(256)
            continue
        size, order = rng.choice((1, 2, 4)), rng.choice(("big", "little"))
        number = rng.choice(TEMPTING) % 256**size
        out[at : at + size] = number.to_bytes(size, "big" if order == "big" else "little")
    return bytes(out)


def _anywhere(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Damage that knows no structure."""
    match rng.randrange(4):
        case 0:
            return data[: rng.randrange(len(data) + 1)]
        case 1:
            at = rng.randrange(len(data) + 1)
            return data[:at] + other[rng.randrange(len(other) + 1) :]
        case 2:
            at, size = rng.randrange(len(data) + 1), rng.randrange(200)
            return data[:at] + rng.randbytes(size) + data[at + rng.choice((0, size)) :]
        case _:
            return _changed(rng, data)


# --------------------------------------------------------------- the formats


def _cut_jpeg(data: bytes) -> Pieces:
    """Segments with their markers; a scan's coded data is a piece of its own."""
    pieces, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xD9:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        pieces.append(data[at:end])
        at = end
        if pieces[-1][1] == 0xDA:
            end = at
            while end + 1 < len(data) and not (
                data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))
            ):
                end += 1
            pieces.append(data[at:end])
            at = end
    return pieces


def _join_jpeg(rng: random.Random, pieces: Pieces) -> bytes:
    out = [b"\xff\xd8"]
    for piece in pieces:
        if piece[:1] == b"\xff" and len(piece) >= 4 and rng.random() < 0.9:
            piece = piece[:2] + struct.pack(">H", min(len(piece) - 2, 65535)) + piece[4:]
        out.append(piece)
    return b"".join([*out, b"\xff\xd9" * (rng.random() < 0.9)])


def _cut_png(data: bytes) -> Pieces:
    """Type and body of each chunk; pixels are unpacked."""
    pieces, at = [], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IDAT":
            unpacker = zlib.decompressobj()
            body = unpacker.decompress(body, 4 * 2**20)
        pieces.append(kind + body)
        at += 12 + length
    return pieces


def _join_png(rng: random.Random, pieces: Pieces) -> bytes:
    out = [b"\x89PNG\r\n\x1a\n"]
    for piece in pieces:
        kind, body = piece[:4].ljust(4, b"a"), piece[4:]
        if kind == b"IDAT":
            body = zlib.compress(body, rng.choice((0, 1, 6)))
            if rng.random() < 0.3:
                body = _changed(rng, body)
        chunk = zoo.png_chunk(kind, body)
        out.append(_changed(rng, chunk) if rng.random() < 0.03 else chunk)
    return b"".join(out)


def _cut_webp(data: bytes) -> Pieces:
    pieces, at = [], 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        pieces.append(data[at : at + 4] + data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return pieces


def _join_webp(rng: random.Random, pieces: Pieces) -> bytes:
    body = b"".join(
        p[:4].ljust(4) + struct.pack("<I", max(len(p) - 4, 0)) + p[4:] + b"\0" * (len(p) % 2)
        for p in pieces
    )
    size = len(body) + 4 if rng.random() < 0.9 else rng.choice(TEMPTING)
    return b"RIFF" + struct.pack("<I", size % 2**32) + b"WEBP" + body


def _cut_gif(data: bytes) -> Pieces:
    """The screen, then the blocks as far as their introducers tell."""
    table = 3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0
    pieces, rest = [data[6:13], data[13 : 13 + table]], data[13 + table :]
    while rest and rest[0] in b"!,":
        end = rest.find(b"\0", 10) + 1 or len(rest)
        pieces.append(rest[:end])
        rest = rest[end:]
    return [*pieces, rest]


def _join_gif(rng: random.Random, pieces: Pieces) -> bytes:
    return rng.choice((b"GIF89a", b"GIF87a")) + b"".join(pieces)


def _cut_numbers(data: bytes) -> Pieces:
    """The first 64 bytes two by two, then the rest: where every field has its place."""
    return [*(data[i : i + 2] for i in range(2, 64, 2)), data[64:]]


def _join_numbers(rng: random.Random, pieces: Pieces) -> bytes:
    return b"BM" + b"".join(pieces)


def _cut_tiff(data: bytes) -> Pieces:
    """The entries of the first directory, between what comes before and behind."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    return [data[: start + 2], *entries, data[start + 2 + 12 * count :]]


def _join_tiff(rng: random.Random, pieces: Pieces) -> bytes:
    """Join; entries keep their places where none came or went, and offsets with them."""
    return b"".join(pieces)


def _cut_boxes(data: bytes) -> Pieces:
    """Boxes of the file, the big ones of them cut into their own boxes."""
    pieces: Pieces = []
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big") or len(data) - at
        if size < 8:
            break
        box = data[at : at + size]
        if box[4:8] == b"meta":
            pieces.append(box[:12])
            pieces += _cut_boxes(box[12:])
        else:
            pieces.append(box)
        at += size
    return pieces


def _join_boxes(rng: random.Random, pieces: Pieces) -> bytes:
    fixed = [
        struct.pack(">I", len(piece)) + piece[4:]
        if len(piece) >= 8 and piece[4:8] != b"meta" and rng.random() < 0.9
        else piece
        for piece in pieces
    ]
    return b"".join(fixed)


_Cut = Callable[[bytes], Pieces]
_Join = Callable[[random.Random, Pieces], bytes]
_KINDS: tuple[tuple[bytes, int, _Cut, _Join], ...] = (
    (b"\xff\xd8", 0, _cut_jpeg, _join_jpeg),
    (b"\x89PNG", 0, _cut_png, _join_png),
    (b"WEBP", 8, _cut_webp, _join_webp),
    (b"GIF8", 0, _cut_gif, _join_gif),
    (b"BM", 0, _cut_numbers, _join_numbers),
    (b"II*\0", 0, _cut_tiff, _join_tiff),
    (b"MM\0*", 0, _cut_tiff, _join_tiff),
    (b"ftyp", 4, _cut_boxes, _join_boxes),
)
