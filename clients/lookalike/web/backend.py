"""The way from the event loop to the lookalike server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import Any

import anyio.to_thread

from lookalike.client import Client, Health, ItemImage, Limits, ServerInfo
from lookalike.client.errors import LookalikeError
from lookalike.client.raw import RawClient
from lookalike.v1 import embed_service_pb2
from lookalike.web.settings import Settings

_INFO_KEEPS_S = 30.0
_MAX_IMAGE_BYTES = 32 * 2**20
_THREADS = 32


class Backend:
    """Calls the server without holding up the event loop. Its thread only.

    `client` is for what takes a thread (uploads, pictures); unary calls take none.
    """

    def __init__(self, settings: Settings) -> None:
        timeout_s = settings.call_timeout_s
        self.client = Client(settings.server, timeout_s=timeout_s, **settings.access)
        self._raw = RawClient(settings.server, timeout_s=timeout_s, **settings.access)
        self._info: tuple[float, ServerInfo] | None = None
        """What the server said, and until when that is fresh."""
        self._asking: asyncio.Task[None] | None = None
        self._threads = anyio.CapacityLimiter(_THREADS)

    async def call(self, service: str, method: str, request: Any) -> Any:
        """Do a unary call; it is cancelled with the task that waits for it."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        call = self._raw.begin(service, method, request)
        call.add_done_callback(lambda _: _wake(loop, done))
        try:
            await done
        except asyncio.CancelledError:
            call.cancel()
            raise
        return self._raw.result(call)

    async def info(self) -> ServerInfo:
        """Return what the server says it is; nobody waits for a newer answer to that."""
        if self._info is None:
            await self._ask_info()
        elif self._info[0] < time.monotonic() and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._refresh_info())
        assert self._info is not None
        return self._info[1]

    async def _ask_info(self) -> None:
        info = await self._in_thread(self.client.info)
        self._info = (time.monotonic() + _INFO_KEEPS_S, info)

    async def _refresh_info(self) -> None:
        with contextlib.suppress(LookalikeError):  # the old one will do
            await self._ask_info()

    async def max_image_bytes(self) -> int:
        """Return how large one picture may be; the usual limit if the server is away."""
        try:
            limits: Limits = (await self.info()).limits
        except LookalikeError:
            return _MAX_IMAGE_BYTES
        return limits.max_image_bytes or _MAX_IMAGE_BYTES

    async def modalities(self) -> dict[str, list[str]]:
        """Return what each model can embed, by its name: "image", "text"."""
        request = embed_service_pb2.ListModelsRequest(page_size=1000)
        answer = await self.call("EmbedService", "ListModels", request)
        names = {embed_service_pb2.MODALITY_IMAGE: "image", embed_service_pb2.MODALITY_TEXT: "text"}
        return {
            model.name: [names[one] for one in model.modalities if one in names]
            for model in answer.models
        }

    async def image(self, item_id: str, original: bool, collection: str) -> ItemImage:
        """Return a stored picture."""
        get = partial(self.client.image, item_id, original=original, collection=collection)
        picture: ItemImage = await self._in_thread(get)
        return picture

    async def is_ready(self) -> bool:
        """Tell whether the server answers searches."""
        try:
            return await self._in_thread(self.client.health) is Health.SERVING
        except LookalikeError:
            return False

    def close(self) -> None:
        """Close both connections."""
        self._raw.close()
        self.client.close()

    async def _in_thread(self, work: Any) -> Any:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)


def _wake(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
    """Called on one of gRPC's threads, maybe after the loop has ended."""

    def resolve() -> None:
        if not done.done():
            done.set_result(None)

    if not loop.is_closed():
        loop.call_soon_threadsafe(resolve)
