"""Bodies of requests: JSON, and forms with files that are read as they come."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from lookalike.client.errors import InvalidArgument
from lookalike.web.errors import MediaTypeUnsupported

MAX_PARTS = 10_000
MAX_FIELD_BYTES = 2**20
MAX_HEADER_BYTES = 16 * 2**10


@dataclass(slots=True)
class Part:
    """One part of a form. `is_cut`: it had more bytes than allowed, and has none now."""

    name: str
    filename: str | None
    data: bytearray = field(default_factory=bytearray)
    is_cut: bool = False

    @property
    def text(self) -> str:
        """The value of a field that is no file."""
        return self.data.decode("utf-8", "replace")


def media_type(request: Request) -> str:
    """Return the media type of a body, in lower case and without its options."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object that is the body.

    Raises:
        MediaTypeUnsupported: it is not sent as JSON, which also keeps out what the forms
            of other sites can send.
        InvalidArgument: it is no JSON, or no object.
    """
    if media_type(request) != "application/json":
        raise MediaTypeUnsupported("Send application/json or multipart/form-data.")
    return json_object(await request.body(), "The body")


def json_object(data: bytes | bytearray | str, what: str) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} is not JSON: {str(error)[:200]}.") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} must be a JSON object: {{...}}.")
    return value


async def read_parts(request: Request, max_file_bytes: int) -> AsyncIterator[Part]:
    """Give the parts of a form one after the other, each when it is complete.

    A file with more than `max_file_bytes` is given without its bytes and with `is_cut`;
    the parts after it are not affected. At most one part is held at a time.

    Raises:
        InvalidArgument: the body is no form, breaks off, or has too many parts.
        ClientDisconnect: the sender has gone.
    """
    reader = _Reader(max_file_bytes)
    parser = MultipartParser(_boundary(request), reader.callbacks())  # type: ignore[arg-type]
    try:
        async for piece in request.stream():
            if piece:
                parser.write(piece)
            for part in reader.take():
                yield part
        parser.finalize()
    except FormParserError as error:
        raise InvalidArgument(f"The form cannot be read: {str(error)[:200]}") from None
    if not reader.is_at_end:
        raise InvalidArgument("The form breaks off: its closing boundary is missing.")


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise MediaTypeUnsupported("Send multipart/form-data with a boundary.")
    return boundary


class _Reader:
    """Puts together what the parser finds."""

    def __init__(self, max_file_bytes: int) -> None:
        self.is_at_end = False
        self._max_file_bytes = max_file_bytes
        self._done: list[Part] = []
        self._part = Part("", None)
        self._name = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._count = 0

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_name,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._end_all,
        }

    def take(self) -> list[Part]:
        done, self._done = self._done, []
        return done

    def _begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise InvalidArgument(f"The form has more than {MAX_PARTS} parts; send several.")
        self._headers, self._header_bytes = {}, 0

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, count: int) -> None:
        self._header_bytes += count
        if self._header_bytes > MAX_HEADER_BYTES:
            raise InvalidArgument("A part of the form has too long headers.")

    def _end_header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        filename = options.get(b"filename")
        self._part = Part(
            options.get(b"name", b"").decode("utf-8", "replace"),
            None if filename is None else filename.decode("utf-8", "replace"),
        )

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.is_cut:
            return
        if part.filename is None and len(part.data) + end - start > MAX_FIELD_BYTES:
            raise InvalidArgument(f"The field {part.name!r} has more than {MAX_FIELD_BYTES} bytes.")
        if len(part.data) + end - start > self._max_file_bytes:
            part.is_cut, part.data = True, bytearray()
            return
        part.data += data[start:end]

    def _end(self) -> None:
        self._done.append(self._part)

    def _end_all(self) -> None:
        self.is_at_end = True
