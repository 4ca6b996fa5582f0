"""Vectors between protobuf and numpy without a Python object for each number.

`repeated float` is packed: one tag, the length as a varint, then little-endian
floats. Taking that block as it is costs about 1 us for 512 numbers, where
`extend(ndarray)` costs 60 us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lookalike.backends.errors import DimensionMismatch, LookalikeError, VectorNotFinite
from lookalike.backends.types import all_finite
from lookalike.server.domain import Vector
from lookalike.server.limits import Limits
from lookalike.v1 import types_pb2

_TAG = b"\n"  # field 1, length-delimited


def read_vector(message: types_pb2.Vector, limits: Limits, field: str) -> Vector:
    """Return the numbers as an array of their own, (dim,) float32, checked to be finite.

    Raises DimensionMismatch (none, or more than max_dimension), VectorNotFinite.
    """
    vector = to_array(message)
    if not 1 <= vector.size <= limits.max_dimension:
        raise DimensionMismatch(
            f"A vector has 1 to {limits.max_dimension} numbers, this one {vector.size}.",
            field=field,
            actual=vector.size,
        )
    if not all_finite(vector):
        raise VectorNotFinite(
            "The vector has a number that is not finite (NaN or infinity).", field=field
        )
    return vector


def read_vectors(
    messages: Sequence[types_pb2.Vector], limits: Limits, field: Callable[[int], str]
) -> list[Vector | LookalikeError]:
    """Return what `read_vector` does for each: the numbers, or what is wrong with them.

    `field(i)` is the path of one. Vectors of one length become rows of one matrix: 1 us each instead of 7 (512 numbers).
    """
    blocks = [message.SerializeToString() for message in messages]
    count = len(messages[0].values) if messages else 0
    offset = len(_TAG) + len(_varint(4 * count))
    size = offset + 4 * count
    if 1 <= count <= limits.max_dimension and all(
        len(block) == size and block.startswith(_TAG) for block in blocks
    ):
        rows = np.frombuffer(b"".join(blocks), np.uint8).reshape(len(blocks), size)[:, offset:]
        if all(len(message.values) == count for message in messages):
            vectors = np.ascontiguousarray(rows).view("<f4").astype(np.float32, copy=False)
            if np.isfinite(vectors).all():
                return list(vectors)
    return [_read_or_error(message, limits, field(i)) for i, message in enumerate(messages)]


def _read_or_error(
    message: types_pb2.Vector, limits: Limits, field: str
) -> Vector | LookalikeError:
    try:
        return read_vector(message, limits, field)
    except LookalikeError as error:
        return error


def to_array(message: types_pb2.Vector) -> Vector:
    """Return the numbers of a message as (dim,) float32, aligned and writable."""
    count = len(message.values)
    if count == 0:
        return np.zeros(0, np.float32)
    data = message.SerializeToString()
    offset = len(_TAG) + len(_varint(4 * count))
    if len(data) != offset + 4 * count:  # fields that this server does not know
        return np.array(message.values, np.float32)
    block = bytearray(memoryview(data)[offset:])  # of its own, and aligned
    return np.frombuffer(block, "<f4").astype(np.float32, copy=False)


def write_vector(vector: Vector) -> types_pb2.Vector:
    """Return a message with the numbers of a (dim,) array."""
    if vector.size == 0:
        return types_pb2.Vector()
    block = np.ascontiguousarray(vector, "<f4").tobytes()
    return types_pb2.Vector.FromString(_TAG + _varint(len(block)) + block)


def _varint(value: int) -> bytes:
    """Encode as protobuf does: 7 bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
