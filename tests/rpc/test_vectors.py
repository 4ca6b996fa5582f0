from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lookalike.backends.errors import DimensionMismatch, VectorNotFinite
from lookalike.server.limits import Limits
from lookalike.server.rpc.wire_vectors import read_vector, to_array, write_vector
from lookalike.v1 import types_pb2

LIMITS = Limits()
floats = hnp.arrays(
    np.float32,
    st.one_of(st.integers(0, 40), st.sampled_from([127, 128, 4095, 4096, 4097, 32768])),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
    fill=st.floats(width=32),
)


@settings(max_examples=150, deadline=None, print_blob=True)
@given(floats)
def test_a_vector_comes_back_bit_by_bit(vector: np.ndarray) -> None:
    message = write_vector(vector)
    assert message == types_pb2.Vector.FromString(message.SerializeToString())
    assert np.array(message.values, np.float32).tobytes() == vector.tobytes()
    assert to_array(message).tobytes() == vector.tobytes()


@settings(max_examples=60, deadline=None, print_blob=True)
@given(st.lists(st.floats(width=32, allow_nan=False), max_size=300))
def test_a_vector_written_by_hand_is_read_alike(values: list[float]) -> None:
    array = to_array(types_pb2.Vector(values=values))
    assert array.tolist() == values
    assert array.flags.aligned
    assert array.flags.writeable
    assert array.dtype == np.float32


def test_fields_of_a_newer_client_do_no_harm() -> None:
    message = types_pb2.Vector.FromString(
        write_vector(np.arange(5, dtype=np.float32)).SerializeToString() + b"\x7a\x03new"
    )
    assert to_array(message).tolist() == [0, 1, 2, 3, 4]


def test_an_array_of_any_layout_can_be_written() -> None:
    strided = np.arange(20, dtype=np.float32).reshape(4, 5)[:, 2]
    assert list(write_vector(strided).values) == [2, 7, 12, 17]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(VectorNotFinite) as caught:
        read_vector(types_pb2.Vector(values=[1.0, bad]), LIMITS, "vector")
    assert caught.value.field == "vector"


@pytest.mark.parametrize("size", [0, 32769])
def test_a_vector_has_1_to_32768_numbers(size: int) -> None:
    read_vector(write_vector(np.ones(32768, np.float32)), LIMITS, "vector")
    with pytest.raises(DimensionMismatch):
        read_vector(write_vector(np.ones(size, np.float32)), LIMITS, "vector")
