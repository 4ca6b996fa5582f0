"""Files of a form into the index: read as they come, handed on as they are complete.

The form's fields hold for the files after them: `collection` and `write_mode` (before
the first file), `metadata` (a JSON object), `ids` ("name": the file's name is the id, as
by default; "content": the server makes one from the bytes), and `id`, which holds for the
next file alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream
from starlette.requests import Request

from lookalike.client import NewItem, WriteResult
from lookalike.client.errors import (
    IdInvalid,
    ImageTooLarge,
    InputsEmpty,
    InvalidArgument,
    ItemExists,
    LookalikeError,
)
from lookalike.web.backend import Backend
from lookalike.web.bodies import Part, json_object, read_parts
from lookalike.web.errors import body_of
from lookalike.web.settings import Settings

_MODES = ("upsert", "skip_existing", "create_only")
_MAX_ID_BYTES = 256
_WAITING_FILES = 1
"""Files that may wait for the stream to the server: backpressure reaches the browser."""


@dataclass(slots=True)
class _Fields:
    collection: str = ""
    write_mode: str = "upsert"
    metadata: dict[str, Any] = field(default_factory=dict)
    ids: str = "name"
    id: str = ""

    def set(self, part: Part) -> None:
        match part.name:
            case "collection" | "id":
                setattr(self, part.name, part.text)
            case "metadata":
                self.metadata = json_object(part.text or "{}", "The field 'metadata'")
            case "write_mode":
                self.write_mode = _one_of(part, _MODES)
            case "ids":
                self.ids = _one_of(part, ("name", "content"))
            case other:
                raise InvalidArgument(f"No field of this form is named {other!r}.", field=other)

    def item(self, part: Part) -> tuple[NewItem, str]:
        """Return what to store, and the file's name."""
        name, data = part.filename or "", bytes(part.data)
        item_id = self.id or (name if self.ids == "name" else "") or content_id(data)
        self.id = ""
        return NewItem(id=item_id, image=data, metadata=self.metadata), name


def content_id(data: bytes) -> str:
    """Return the id that the server makes for a file that has none (see the protos)."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def store_form(request: Request) -> dict[str, Any]:
    """Store the files of a form; return one outcome for each, in order, and the counts.

    Raises:
        InputsEmpty: the form has no file.
        LookalikeError: what concerns the whole form; files before it may be stored.
    """
    state = request.app.state
    async with state.uploads:  # a semaphore: bodies wait unread
        upload = _Upload(state.backend, state.settings)
        await upload.run(request, await state.backend.max_image_bytes())
    if not upload.results:
        raise InputsEmpty("The form has no file; send at least one, -F file=@cat.jpg say.")
    return upload.report()


class _Upload:
    """One form. The event loop reads it; a thread runs the client's upload."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.results: list[dict[str, Any]] = []
        """One for each file, in order; complete once the upload is."""
        self._backend = backend
        self._patience_s = settings.upload_patience_s
        self._fields = _Fields()
        self._first: dict[str, tuple[str, dict[str, Any]]] = {}
        """By id: the hash of the file that came first with it, and its result."""
        self._again: list[tuple[dict[str, Any], dict[str, Any]]] = []
        """Results of files that came again byte by byte, and of those that they repeat."""

    async def run(self, request: Request, max_image_bytes: int) -> None:
        """Read the form to its end, and wait for the outcomes."""
        send, receive = anyio.create_memory_object_stream[NewItem](_WAITING_FILES)
        sender: asyncio.Task[None] | None = None
        try:
            async for part in read_parts(request, max_image_bytes):
                if part.filename is None:
                    self._fields.set(part)
                elif (item := self._accepted(part, max_image_bytes)) is not None:
                    if sender is None:
                        sender = asyncio.create_task(self._in_thread(receive))
                    await send.send(item)
        except anyio.BrokenResourceError:
            pass  # the thread has ended early; its error follows
        finally:
            send.close()
            if sender is not None:
                await sender
            receive.close()

    def report(self) -> dict[str, Any]:
        """Return the outcomes and how often there was which."""
        for result, first in self._again:
            result.update({key: first[key] for key in ("outcome", "error") if key in first})
            if result["outcome"] in ("created", "updated"):
                result["outcome"] = "unchanged"
        counts = dict.fromkeys(("created", "updated", "unchanged", "skipped", "failed"), 0)
        for result in self.results:
            counts[result["outcome"]] = counts.get(result["outcome"], 0) + 1
        return {"results": self.results, "counts": counts}

    def _accepted(self, part: Part, max_image_bytes: int) -> NewItem | None:
        """Return what to send; None if it has failed already."""
        item, name = self._fields.item(part)
        result: dict[str, Any] = {"name": name, "id": item.id, "outcome": "failed"}
        self.results.append(result)
        digest = content_id(item.image) if isinstance(item.image, bytes) else ""
        known, first = self._first.setdefault(item.id, (digest, result))
        error = _fault(part, item, max_image_bytes)
        if first is not result and error is None:
            if known == digest:
                self._again.append((result, first))
                return None
            error = _twice(item.id)
        if error is not None:
            result["error"] = body_of(error)
            return None
        return item

    # ------------------------------------------------------------ the thread

    async def _in_thread(self, receive: MemoryObjectReceiveStream[NewItem]) -> None:
        try:
            await anyio.to_thread.run_sync(self._upload, receive)
        finally:
            receive.close()  # who passes on more is told

    def _upload(self, receive: MemoryObjectReceiveStream[NewItem]) -> None:
        self._backend.client.upload(
            _items(receive),
            collection=self._fields.collection,
            mode=self._fields.write_mode,  # type: ignore[arg-type]
            on_result=self._note,
            patience_s=self._patience_s,
        )

    def _note(self, written: WriteResult) -> None:
        if written.id not in self._first:
            return
        _, result = self._first[written.id]
        result["outcome"] = written.outcome.value
        if written.error is not None:
            result["error"] = body_of(written.error)


def _items(receive: MemoryObjectReceiveStream[NewItem]) -> Iterator[NewItem]:
    """Give what the event loop passes on. A worker thread of anyio runs this."""
    while True:
        try:
            yield anyio.from_thread.run(receive.receive)
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            return


def _fault(part: Part, item: NewItem, max_image_bytes: int) -> LookalikeError | None:
    """Say what is wrong with a file before it is sent; None if nothing is."""
    if part.is_cut:
        return ImageTooLarge(
            f"The image file has more than {max_image_bytes} bytes, which is the most that the "
            "server takes. Send a smaller copy.",
            field="image",
        )
    has_control = any(unicodedata.category(c) == "Cc" for c in item.id)
    if has_control or len(item.id.encode("utf-8", "replace")) > _MAX_ID_BYTES:
        return IdInvalid(
            f"An id has at most {_MAX_ID_BYTES} bytes and no control characters; give the file "
            "another name, or an id of its own.",
            field="id",
        )
    return None


def _twice(item_id: str) -> LookalikeError:
    """Outcomes come in any order, so an id stands for one file of a form."""
    return ItemExists(
        f"Another file of this form has the id {item_id[:80]!r}; give one of them an id of its "
        "own, or send them one after the other.",
        field="id",
    )


def _one_of(part: Part, words: tuple[str, ...]) -> str:
    if part.text in words:
        return part.text
    raise InvalidArgument(f"{part.name} is one of {', '.join(words)}.", field=part.name)
