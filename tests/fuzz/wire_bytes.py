"""Serialized messages taken apart and damaged: what no protobuf library would write."""

from __future__ import annotations

import random

from google.protobuf.descriptor import Descriptor, FieldDescriptor

BLOCK = random.Random(0).randbytes(4096)
KINDS = (0, 1, 2, 3, 4, 5, 6, 7)
"""Types on the wire; 6 and 7 do not exist, 3 and 4 begin and end groups."""
NUMBERS = (1, 2, 3, 4, 5, 6, 7, 15, 16, 100, 1000, 19000, 2**29 - 1)
NO_TEXT = (b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\x80")
"""Bytes that are no UTF-8: surrogates, too long a form, beyond the last, a lone end."""


def varint(value: int) -> bytes:
    """Return a number of up to 64 bits (or more, which is wrong) as a varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, kind: int, body: bytes = b"") -> bytes:
    """Return a field; a length goes before the body of kind 2."""
    return varint(number << 3 | kind) + (varint(len(body)) if kind == 2 else b"") + body


def damaged(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    """Return the message with one or more damages, some of which only make it strange."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_DAMAGES)(rng, data, kind)
    return data


def _noise(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    return rng.randbytes(rng.choice((1, 2, 5, 30, 300)))


def _cut(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 10)) if out else 0):
        at = min(int(rng.random() ** 2 * len(out)), len(out) - 1)  # heads more than tails
        out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def _splice(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    at, size = rng.randrange(len(data) + 1), rng.randrange(40)
    return data[:at] + rng.randbytes(size) + data[at + rng.choice((0, size)) :]


def _twice(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    """Every single field comes twice, and every oneof with what else follows."""
    return data * rng.choice((2, 2, 20))


def _unknown(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    """Add fields that no version knows, or known ones of a wrong type."""
    known = [one.number for one in kind.fields] or [1]
    for _ in range(rng.choice((1, 3, 300))):
        number = rng.choice(known if rng.random() < 0.5 else NUMBERS)
        body = rng.randbytes(rng.choice((0, 1, 4, 8, 9)))
        data += field(number, rng.choice(KINDS), body)
    return data


def _huge_varint(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    number = rng.choice([one.number for one in kind.fields] or [1])
    value = rng.choice((2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 2**70, 2**140))
    return data + field(number, 0, varint(value))


def _lying_length(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    number = rng.choice([one.number for one in kind.fields] or [1])
    size = rng.choice((1, 100, 2**20, 2**31 - 1, 2**31, 2**32, 2**63))
    return data + varint(number << 3 | 2) + varint(size) + rng.randbytes(rng.randrange(20))


def _no_text(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    texts = [one.number for one in kind.fields if one.type == FieldDescriptor.TYPE_STRING] or [1]
    return data + field(rng.choice(texts), 2, rng.choice(NO_TEXT) * rng.choice((1, 30)))


def _deep(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    """Nest a field that holds messages in itself, far beyond what is read."""
    inner = [one.number for one in kind.fields if one.message_type is not None] or [1]
    number, body = rng.choice(inner), b""
    for level in range(rng.choice((20, 90, 101, 1000))):
        # all, condition's group, and so on: the numbers that lead back to the same kind
        body = field(rng.choice((1, 2, 3, 6, 7, 12, 13)) if level % 2 else 13, 2, body)
        if len(body) > 5000:
            break
    return data + field(number, 2, body)


def _groups(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    depth = rng.choice((1, 50, 5000))
    return data + field(rng.choice(NUMBERS), 3) * depth + field(1, 4) * rng.choice((0, depth))


def _long(rng: random.Random, data: bytes, kind: Descriptor) -> bytes:
    """Rarely, a field of up to a megabyte."""
    number = rng.choice([one.number for one in kind.fields] or [1])
    times = rng.choice((1, 1, 1, 1, 1, 4, 16, 256 if rng.random() < 0.1 else 1))
    return data + field(number, 2, (b"A" * 4096 if rng.random() < 0.5 else BLOCK) * times)


_DAMAGES = (_noise, _cut, _cut, _flip, _flip, _flip, _splice, _splice, _twice, _unknown, _unknown,
            _huge_varint, _lying_length, _no_text, _deep, _groups, _long)  # fmt: skip
