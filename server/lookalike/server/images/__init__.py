"""Pictures from strangers: bytes to pixels, and the answers for bytes that are none."""

from typing import Protocol

from lookalike.server.images._decode import DECODER, Decoded, decode, thumbnail
from lookalike.server.images._process import Allowance
from lookalike.server.images._workers import Workers

__all__ = ["DECODER", "Allowance", "Decode", "Decoded", "Workers", "decode", "thumbnail"]


class Decode(Protocol):
    """Whatever decodes: `decode`, or `Workers.decode`."""

    def __call__(self, data: bytes, *, max_pixels: int, side: int = 0) -> Decoded:
        """Do as `decode`."""
