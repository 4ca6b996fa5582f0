"""Strangers are refused, bodies end where they should, and slow senders are left."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from starlette.types import Message

from lookalike.web import Settings, make_app
from lookalike.web.errors import HostNotAllowed, OriginNotAllowed, ReadTimeout
from lookalike.web.guard import HEADERS, _Body, check_host, check_origin
from lookalike.web.serving import bind, serve
from made_pictures import jpeg

BODY_S, HEAD_S = 0.8, 0.8


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "LOCALHOST.", "a.localhost", "127.0.0.1:80", "10.0.0.7",
             "[::1]:8080", "[fe80::1]", "page.example:8080", "Page.Example"],
)  # fmt: skip
def test_addresses_localhost_and_given_names_pass(host: str) -> None:
    check_host(host, ("page.example",))


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil",
             "page.example.evil", "xlocalhost", "[evil]", "256.1.1.1"],
)  # fmt: skip
def test_other_names_are_refused(host: str) -> None:
    with pytest.raises(HostNotAllowed):
        check_host(host, ("page.example",))


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"origin": "http://localhost:8080"},
        {"origin": "https://localhost:8080"},
        {"origin": "http://localhost:8080", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
def test_the_page_itself_and_programs_may_write(sent: dict[str, str]) -> None:
    check_origin(Headers({"host": "localhost:8080", **sent}))


@pytest.mark.parametrize(
    "sent",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:8081"},
        {"origin": "http://localhost"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://localhost:8080.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://localhost:8080", "sec-fetch-site": "cross-site"},
    ],
)
def test_other_sites_pages_may_not(sent: dict[str, str]) -> None:
    with pytest.raises(OriginNotAllowed):
        check_origin(Headers({"host": "localhost:8080", **sent}))


def test_refusals_reach_the_caller_with_their_status(http: TestClient) -> None:
    stranger = http.get("/v1/info", headers={"Host": "evil.example"})
    assert (stranger.status_code, stranger.json()["error"]["reason"]) == (421, "HOST_NOT_ALLOWED")
    for path in ("/v1/search", "/v1/items", "/v1/explain"):
        forged = http.post(
            path, files={"image": jpeg(1)}, headers={"Origin": "http://evil.example"}
        )
        assert (forged.status_code, forged.json()["error"]["code"]) == (403, "PERMISSION_DENIED")
    assert http.get("/nowhere").json()["error"]["reason"] == "ROUTE_NOT_FOUND"
    assert http.delete("/v1/items").json()["error"]["reason"] == "METHOD_NOT_ALLOWED"


def test_every_answer_carries_the_policy_and_none_allows_other_origins(http: TestClient) -> None:
    answers = [
        http.get("/"),
        http.get("/static/app.js"),
        http.get("/v1/info"),
        http.get("/nowhere"),
        http.post("/v1/search", json={}),
        http.get("/", headers={"Host": "evil.example"}),
    ]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert http.options("/v1/search").status_code == 405


def test_static_files_stay_inside_their_folder(http: TestClient) -> None:
    for path in ("/static/../gateway.py", "/static/%2e%2e/gateway.py", "/static//etc/passwd"):
        assert http.get(path).status_code in (404, 405)


# ------------------------------------------------------------------ bodies


def drain(settings: Settings, messages: list[Message | float], length: str = "") -> list[Message]:
    """Read a body whose pieces come after the given waits, in seconds."""
    left = iter(messages)

    async def receive() -> Message:
        for one in left:
            if not isinstance(one, float):
                return one
            await asyncio.sleep(one)
        raise AssertionError("read on after the end")

    async def read() -> list[Message]:
        headers = Headers({"content-length": length} if length else {})
        body = _Body(receive, "/v1/search", headers, settings)
        got: list[Message] = []
        while not got or got[-1].get("more_body"):
            got.append(await body.receive())
        return got

    return asyncio.run(read())


def piece(size: int, more: bool = True) -> Message:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


def test_a_body_that_keeps_up_may_take_longer_than_the_grace() -> None:
    settings = Settings(body_timeout_s=0.15, min_body_rate=1000)
    steady: list[Message | float] = [0.1, piece(400), 0.1, piece(400), 0.1, piece(400), 0.1]
    assert len(drain(settings, [*steady, piece(1, more=False)])) == 4


def test_a_trickled_body_is_left() -> None:
    settings = Settings(body_timeout_s=0.15, min_body_rate=1000)
    trickle: list[Message | float] = [0.1, piece(1), 0.1, piece(1), 0.1, piece(1, more=False)]
    with pytest.raises(ReadTimeout):
        drain(settings, trickle)


def test_time_that_we_take_ourselves_does_not_count() -> None:
    settings = Settings(body_timeout_s=0.1, min_body_rate=1000)

    async def read() -> None:
        async def receive() -> Message:
            return piece(1)

        body = _Body(receive, "/v1/items", Headers({}), settings)
        for _ in range(4):
            await body.receive()
            await asyncio.sleep(0.06)

    asyncio.run(read())


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_cap_is_413(server: str, announced: bool) -> None:
    settings = Settings(server, max_body_bytes=50_000, max_upload_bytes=80_000)
    with TestClient(make_app(settings), base_url="http://localhost") as http:
        for path, most in (("/v1/search", 50_000), ("/v1/items", 80_000)):
            head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
            data = head + b"x" * most
            content = data if announced else (data[i : i + 9999] for i in range(0, len(data), 9999))
            answer = http.post(
                path, content=content, headers={"Content-Type": "multipart/form-data; boundary=b"}
            )
            assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "BODY_TOO_LARGE")
            assert answer.headers["connection"] == "close"


# -------------------------------------------------------------- the sockets


@pytest.fixture(scope="module")
def port(server: str) -> Iterator[int]:
    """A gateway with short times on a thread of this process."""
    settings = Settings(server, head_timeout_s=HEAD_S, body_timeout_s=BODY_S, min_body_rate=1e6)
    listener = bind("127.0.0.1", 0)
    running: list[uvicorn.Server] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lookalike.web.serving._Server.startup", _noting(running), raising=True)
        thread = threading.Thread(target=serve, args=(settings, listener))
        thread.start()
        deadline = time.monotonic() + 20
        while not (running and running[0].started):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    yield listener.getsockname()[1]
    running[0].should_exit = True
    thread.join(20)
    listener.close()


def _noting(running: list[uvicorn.Server]) -> object:
    async def startup(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await uvicorn.Server.startup(self, sockets)
        running.append(self)

    return startup


def seconds_until_closed(connection: socket.socket) -> tuple[float, bytes]:
    begin = time.monotonic()
    connection.settimeout(10)
    said = b""
    while data := connection.recv(65536):
        said += data
    return time.monotonic() - begin, said


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: "])
def test_headers_that_do_not_come_close_the_connection(port: int, first: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(first)
        seconds, said = seconds_until_closed(connection)
    assert HEAD_S * 0.8 < seconds < HEAD_S + 3
    assert said == b""


def test_headers_trickled_after_an_answer_close_the_connection_too(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in connection.recv(65536)
        time.sleep(HEAD_S * 1.5)  # idle is no trickle
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        seconds, _ = seconds_until_closed(connection)
    assert seconds < HEAD_S + 3


def test_a_body_that_stops_is_answered_408_and_closed(port: int) -> None:
    head = (
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head)
        seconds, said = seconds_until_closed(connection)
    assert BODY_S * 0.8 < seconds < BODY_S + 3
    assert said.startswith(b"HTTP/1.1 408")
    assert b"READ_TIMEOUT" in said
