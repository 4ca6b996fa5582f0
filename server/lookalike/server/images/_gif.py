"""GIF (87a, 89a): keeps the screen, the first frame and its transparency."""

from __future__ import annotations

import struct

from lookalike.server.images._parts import Header, undecodable

_MAX_BLOCKS = 65_536
_FRAME, _EXTENSION, _CONTROL = 0x2C, 0x21, 0xF9


def read(data: bytes) -> Header:
    """Read up to the first frame; raises ImageUndecodable. The size covers screen and frame."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    pos = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    screen = data[:pos]
    control = b""
    blocks = 0
    while pos < len(data) and data[pos] == _EXTENSION:
        start = pos
        kind = data[pos + 1]
        pos += 2
        while size := data[pos]:
            pos += 1 + size
            blocks += 1
            if blocks > _MAX_BLOCKS:
                raise undecodable(f"has more than {_MAX_BLOCKS} GIF blocks before its pixels")
        pos += 1
        if kind == _CONTROL and pos - start == 8:
            # "Not disposed of" instead of whatever follows the frame: the first one is all.
            control = data[start : start + 3] + bytes([data[start + 3] & 1]) + data[start + 4 : pos]
    if pos >= len(data) or data[pos] != _FRAME:
        raise undecodable("is a GIF without a frame")
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, pos + 1)
    if not frame_width or not frame_height:
        raise undecodable("is a GIF with an empty frame")
    essence = b"".join([screen, control, memoryview(data)[pos:]])
    width, height = max(width, left + frame_width), max(height, top + frame_height)
    return Header("GIF", width, height, essence, 1.2)
