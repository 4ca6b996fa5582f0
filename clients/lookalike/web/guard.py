"""What stands before every request: who asks, how much comes, how slowly.

Uvicorn sets no limit to the size of a body nor to the time that it takes, and no
framework refuses other sites' pages by itself.
"""

from __future__ import annotations

import asyncio
import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookalike.client.errors import LookalikeError
from lookalike.web.answers import error_response
from lookalike.web.errors import BodyTooLarge, HostNotAllowed, OriginNotAllowed, ReadTimeout
from lookalike.web.settings import Settings

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
"""On every response that does not say otherwise itself."""
_READS = frozenset(("GET", "HEAD", "OPTIONS"))


class Guard:
    """Refuses strangers, and bounds the body while it is read."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    sent.setdefault(name, value)
            await send(message)

        try:
            check_host(headers.get("host", ""), self._settings.names)
            if scope["method"] not in _READS:
                check_origin(headers)
            body = _Body(receive, scope["path"], headers, self._settings)
        except LookalikeError as error:
            await error_response(error)(scope, receive, guarded_send)
            return
        await self._app(scope, body.receive, guarded_send)


def check_host(host: str, names: tuple[str, ...]) -> None:
    """Refuse names that this was not given; addresses and localhost always pass.

    A page elsewhere can have its own name point to this machine, and would then be of
    one origin with us. It cannot do so with an address.

    Raises:
        HostNotAllowed: any other name, or none.
    """
    name = _host_name(host)
    if name == "localhost" or name.endswith(".localhost") or _is_address(name):
        return
    if name and name in {known.lower().rstrip(".") for known in names}:
        return
    raise HostNotAllowed(
        "This page is not known by that name; start it with --name to let the name through."
    )


def check_origin(headers: Headers) -> None:
    """Refuse what another site's page sends; a program that sends no Origin passes.

    Raises:
        OriginNotAllowed: the browser says so, in one header or the other.
    """
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "same-origin")
    is_ours = origin is None or origin.partition("://")[2] == headers.get("host", "")
    if not is_ours or site not in ("same-origin", "none"):
        raise OriginNotAllowed("Only this page itself may send such requests from a browser.")


def _host_name(host: str) -> str:
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Body:
    """The body of one request, with a limit to its bytes and to the wait for them."""

    def __init__(self, receive: Receive, path: str, headers: Headers, settings: Settings) -> None:
        self._receive = receive
        self._limit = settings.max_body_bytes
        if path == "/v1/items":
            self._limit = settings.max_upload_bytes
        self._grace_s = settings.body_timeout_s
        self._rate = settings.min_body_rate
        self._bytes = 0
        self._waited_s = 0.0
        self._is_over = False
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._limit:
            raise self._too_large()

    async def receive(self) -> Message:
        """Return the next piece; ReadTimeout or BodyTooLarge end the request."""
        if self._is_over:
            return await self._receive()  # only a disconnect can follow
        message = await self._next()
        if message["type"] != "http.request":
            return message
        self._bytes += len(message.get("body", b""))
        self._is_over = not message.get("more_body", False)
        if self._bytes > self._limit:
            raise self._too_large()
        return message

    async def _next(self) -> Message:
        left_s = self._grace_s + self._bytes / self._rate - self._waited_s
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                message: Message = await self._receive()
                return message
        except TimeoutError:
            raise ReadTimeout(
                "The request's body came too slowly; send it faster, or less at once."
            ) from None
        finally:
            self._waited_s += loop.time() - begin

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"The request has more than {self._limit} bytes, the most that this call takes; "
            "send less at once."
        )
