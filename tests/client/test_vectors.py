from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lookalike.client._vectors import vector_array, vector_message
from lookalike.client.errors import DimensionMismatch
from lookalike.v1 import types_pb2

FLOATS = hnp.arrays(np.float32, st.integers(0, 300), elements=st.floats(width=32, allow_nan=False))


@given(FLOATS)
def test_a_message_is_the_one_that_the_plain_way_makes(values: np.ndarray) -> None:
    plain = types_pb2.Vector(values=values.tolist())
    assert vector_message(values) == plain
    assert vector_message(values).SerializeToString() == plain.SerializeToString()


@given(FLOATS)
def test_a_vector_comes_back_bit_for_bit(values: np.ndarray) -> None:
    back = vector_array(vector_message(values))
    assert back.dtype == np.float32
    assert back.tobytes() == values.tobytes()
    assert np.array_equal(back, np.asarray(vector_message(values).values, dtype=np.float32))


@pytest.mark.parametrize("dim", [0, 1, 31, 32, 127, 128, 4095, 4096, 32768, 600_000])
def test_every_length_of_the_length_prefix_works(dim: int) -> None:
    values = np.arange(dim, dtype=np.float32)
    assert np.array_equal(vector_array(vector_message(values)), values)


def test_a_message_with_fields_of_a_newer_server_is_read() -> None:
    data = vector_message([1.0, 2.0]).SerializeToString() + b"\x1a\x03new"
    assert vector_array(types_pb2.Vector.FromString(data)).tolist() == [1.0, 2.0]


def test_a_message_in_several_blocks_is_read() -> None:
    one = vector_message([1.0, 2.0]).SerializeToString()
    two = vector_message([3.0]).SerializeToString()
    assert vector_array(types_pb2.Vector.FromString(one + two)).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("values", [[1, 2], (1.5, 2.5), np.array([1, 2]), range(1, 3)])
def test_anything_that_numpy_takes_is_taken(values: object) -> None:
    assert len(vector_message(values).values) == 2  # type: ignore[arg-type]


def test_a_strided_and_a_foreign_endian_array_are_taken() -> None:
    values = np.arange(10, dtype=">f8")[::2]
    assert vector_array(vector_message(values)).tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("values", [1.0, [[1.0]], "abc", [[1], [1, 2]]])
def test_what_is_no_row_of_numbers_is_refused(values: object) -> None:
    with pytest.raises(DimensionMismatch, match="one row of numbers"):
        vector_message(values)  # type: ignore[arg-type]


def test_the_array_is_the_callers_own() -> None:
    array = vector_array(vector_message([1.0]))
    array[0] = 5
    assert array[0] == 5
