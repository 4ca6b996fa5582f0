"""Pictures from strangers: bytes to pixels, and the answers for bytes that are none."""

from lookalike.server.images._decode import DECODER, Decoded, decode, thumbnail

__all__ = ["DECODER", "Decoded", "decode", "thumbnail"]
