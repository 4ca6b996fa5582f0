"""Names for what people send instead of a picture."""

from __future__ import annotations

import base64
import binascii

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (0, b"PK\x03\x04", "a ZIP archive or an office document"),
    (0, b"PK\x05\x06", "an empty ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a Windows program"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"\0\0\2\0", "a cursor (CUR)"),
    (0, b"icns", "an icon (ICNS)"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (0, b"\x97JB2", "a JBIG2 picture"),
    (0, b"\x8aMNG", "an MNG animation"),
    (0, b"\x8bJNG", "a JNG picture"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"DDS ", "a DirectDraw texture"),
    (0, b"qoif", "a QOI picture"),
    (0, b"farbfeld", "a farbfeld picture"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"gimp xcf", "a GIMP document"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (40, b" EMF", "a Windows metafile"),
    (0, b"BA", "an array of OS/2 bitmaps"),
    (128, b"DICM", "a DICOM file"),
    (0, b"FUJIFILMCCD-RAW", "a raw picture of a camera"),
    (0, b"IIU\0", "a raw picture of a camera"),
    (0, b"IIRO", "a raw picture of a camera"),
    (8, b"WAVE", "a sound file"),
    (8, b"AVI ", "a video"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
    (0, b"\0\0\1\xba", "a video"),
    (0, b"\0\0\1\xb3", "a video"),
    (0, b"FLV\1", "a video"),
    (0, b"OggS", "an Ogg file"),
    (0, b"ID3", "a sound file"),
    (0, b"fLaC", "a sound file"),
    (0, b"SQLite format 3", "a database"),
    (0, b"id=ImageMagick", "an ImageMagick cache"),
    (0, b"push graphic-context", "an ImageMagick drawing"),
    (0, b"viewbox ", "an ImageMagick drawing"),
)
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_LOOK = 1024


def name(data: bytes) -> tuple[str, str]:
    """Return what the bytes are ("a PDF document") and special advice, else ""."""
    for at, magic, what in _MAGIC:
        if data.startswith(magic, at):
            return what, ""
    if data[4:8] == b"ftyp":
        if data[8:12] in _HEIC:
            return "a HEIC picture", "Save it as JPEG and send that."
        return "a video", ""
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3] in (b"\n", b" ", b"\r", b"\t"):
        return "a Netpbm picture", ""
    if not data[:_LOOK].strip(b"\0"):
        return "a file that begins with zeros only", ""
    return _text(data[:_LOOK]) or ("of no known picture format", "")


def _text(head: bytes) -> tuple[str, str] | None:
    """Name kinds of text; None if there are bytes that no text has."""
    words = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = words.lower()
    if b"<svg" in lower:
        return "an SVG drawing", "Render it to PNG and send that."
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page", "Check what the address you loaded it from really answers."
    if lower.startswith(b"data:"):
        return "a data: address as text", "Send the bytes that it encodes."
    if words.startswith(b"<"):
        return "an XML text", ""
    if _is_base64(words):
        return "a picture as base64 text", "Send the raw bytes."
    if words.startswith((b"{", b"[")):
        return "a JSON text", ""
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "a text", ""
    return None


def _is_base64(words: bytes) -> bool:
    """Say whether the text decodes to the beginning of a picture."""
    packed = b"".join(words[:200].split())[:32]
    try:
        start = base64.b64decode(packed[: len(packed) // 4 * 4], validate=True)
    except (binascii.Error, ValueError):
        return False
    return start.startswith(_PICTURE_STARTS)
