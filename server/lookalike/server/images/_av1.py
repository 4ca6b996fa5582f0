"""AV1 (AOMedia, 2019): the frame size in sequence headers.

An AVIF's own fields can claim 64 x 64 for a stream of 16384 x 16384: the decoder
allocates what the stream says, then shrinks.
"""

from __future__ import annotations

from collections.abc import Iterator

from lookalike.server.images._parts import undecodable

_MAX_UNITS = 4096
_SEQUENCE_HEADER = 1
_LONGEST_HEADER = 512
"""Bytes; 32 operating points of at most 86 bits, and some."""


def frame_sizes(stream: bytes) -> Iterator[tuple[int, int]]:
    """Yield (width, height) of every sequence header (section 5.5) among the units."""
    pos = 0
    for _ in range(_MAX_UNITS):
        if pos >= len(stream):
            return
        head = stream[pos]
        pos += 2 if head & 4 else 1
        size = len(stream) - pos
        if head & 2:
            size, pos = _leb128(stream, pos)
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield _frame_size(_Bits(stream[pos : pos + min(size, _LONGEST_HEADER)]))
        pos += size
    raise undecodable(f"has more than {_MAX_UNITS} AV1 units")


def _leb128(stream: bytes, pos: int) -> tuple[int, int]:
    """Return (value, the position behind it); section 4.10.5."""
    value = 0
    for i in range(8):
        byte = stream[pos + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, pos + i + 1
    raise undecodable("has a damaged AV1 unit")


class _Bits:
    """Reads big-endian bit fields; zeros behind the end, which no legal header reaches."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data.ljust(_LONGEST_HEADER, b"\0"), "big")
        self._left = 8 * _LONGEST_HEADER

    def take(self, count: int) -> int:
        """Return the next `count` bits."""
        self._left = max(self._left - count, 0)
        return self._value >> self._left & (1 << count) - 1


def _frame_size(bits: _Bits) -> tuple[int, int]:
    bits.take(4)  # profile, still picture
    reduced = bits.take(1)
    if reduced:
        bits.take(5)  # level
    else:
        _skip_to_size(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    # Without the reduced header a frame may override its size within these bits.
    if not reduced and (1 << width_bits >= 4 * width or 1 << height_bits >= 4 * height):
        raise undecodable("is an AVIF that leaves room for frames far larger than itself")
    return width, height


def _skip_to_size(bits: _Bits) -> None:
    """Skip timing, decoder model and operating points (section 5.5.1)."""
    model = delay_bits = 0
    if bits.take(1):  # timing info
        bits.take(64)
        if bits.take(1):  # equal intervals: an unsigned exp-golomb number
            zeros = 0
            while zeros < 32 and not bits.take(1):
                zeros += 1
            bits.take(zeros if zeros < 32 else 0)
        model = bits.take(1)
        if model:
            delay_bits = bits.take(5) + 1
            bits.take(42)
    delays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if delays and bits.take(1):
            bits.take(4)
