"""`lookalike web`, and `lookalike serve --web`: the page, beside a server or in front of one.

The page is a process of its own, for the client's room does not import it.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, NoReturn

import typer

from lookalike.client.cli import _access, _options, _settings
from lookalike.client.cli._exit import UsageError
from lookalike.client.errors import FailedPrecondition
from lookalike.client.local_server import READY_LINE

DEFAULT_LISTEN = "127.0.0.1:8080"
_NEEDED = ("lookalike.web", "starlette", "uvicorn", "jinja2", "python_multipart")
"""What the page cannot start without; looked up, never imported."""
_PAGE_OPTIONS = (
    "listen",
    "name",
    "server",
    "api-key-file",
    "ca",
    "client-certificate",
    "client-key",
    "server-name",
)
"""What `serve` takes of the page, each with --web- before it."""
_STOP_S = 12.0
"""The page itself takes up to 10 s to finish what is under way."""


def add_to(app: typer.Typer) -> None:
    app.command("web", rich_help_panel="Server")(web)


def web(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where browsers find it; port 0: any free.")
    ] = DEFAULT_LISTEN,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="A host name that browsers know it by, besides localhost and addresses.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines reach it; it has no login.")
    ] = False,
    server: _options.Server = "",
) -> NoReturn:
    """Show a page to search with pictures, and answer JSON over HTTP, for a server."""
    options = ["--listen", listen, *_repeated("--name", name or [])]
    for option, value in _access.given().items():
        options += [f"--{option.replace('_', '-')}", value] if value else []
    command = page_command(_settings.address(server), options, insecure=insecure)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)


def page_command(server: str, options: list[str], *, insecure: bool) -> list[str]:
    """Return the command line of the page's process; FailedPrecondition if it is missing."""
    missing = [one for one in _NEEDED if importlib.util.find_spec(one) is None]
    if missing:
        raise FailedPrecondition(
            f"the page is not installed here ({', '.join(missing)} missing); "
            "install it with: pip install 'lookalike[web]'"
        )
    command = [sys.executable, "-m", "lookalike.web", "--server", server, *options]
    return [*command, "--insecure"] if insecure else command


@dataclass(frozen=True)
class PageOptions:
    """What `serve` was told about the page."""

    server: str
    """The server's address for the page; empty: where it listens."""
    options: list[str]
    insecure: bool


def _repeated(option: str, values: list[str]) -> list[str]:
    return [part for value in values for part in (option, value)]


def take_web_options(args: list[str]) -> tuple[list[str], PageOptions | None]:
    """Take --web and the options that begin so out of the arguments of `serve`.

    Returns the other arguments, and what is said of the page; None if it is not wanted.
    """
    rest: list[str] = []
    values: dict[str, list[str]] = {f"--web-{name}": [] for name in _PAGE_OPTIONS}
    is_wanted = False
    left = iter(args)
    for arg in left:
        option, has_value, value = arg.partition("=")
        if arg == "--web":
            is_wanted = True
        elif option in values:
            if not has_value:
                value = next(left, "")
            if not value:
                raise UsageError(f"{option} needs a value")
            values[option].append(value)
            is_wanted = True
        else:
            rest.append(arg)
    if not is_wanted:
        return rest, None
    server = values.pop("--web-server")
    options = [
        part
        for option, given in values.items()
        for part in _repeated(option.replace("--web-", "--"), given)
    ]
    return rest, PageOptions((server or [""])[-1], options, "--insecure" in rest)


def serve_with_page(server: list[str], page_options: PageOptions) -> int:
    """Run a server and the page for it; return the server's exit code.

    This process stays the parent of both. SIGTERM and SIGINT go to the server, which ends
    as it would alone; the page ends with the server, or when this process is gone. A page
    that ends by itself does not take the server along.
    """
    page_command("", [], insecure=False)  # fails now rather than once the server is up
    asked: list[int] = []
    children: list[subprocess.Popen[str]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        for one in children:
            if one.poll() is None:
                one.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)  # before there is a server to be left behind
    child = subprocess.Popen(server, stdout=subprocess.PIPE, text=True, start_new_session=True)
    children.append(child)
    if asked:
        child.send_signal(asked[-1])
    page: _Page | None = None
    assert child.stdout is not None
    for line in child.stdout:
        print(line, end="", flush=True)
        ready = READY_LINE.match(line)
        if ready is not None and page is None:
            address = page_options.server or _reachable(ready["address"])
            page = _Page(
                page_command(address, page_options.options, insecure=page_options.insecure)
            )
    code = child.wait()
    if page is not None:
        page.stop()
    return code if code >= 0 else 128 - code


def _reachable(address: str) -> str:
    """Return where a server that listens on all addresses is found from this machine."""
    host, _, port = address.rpartition(":")
    return f"{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]'}.get(host, host) }:{port}"


class _Page:
    """The page's process. It ends when its stdin does, so it cannot outlive this one."""

    def __init__(self, command: list[str]) -> None:
        self._is_stopping = False
        self._process = subprocess.Popen(
            [*command, "--while-stdin"], stdin=subprocess.PIPE, start_new_session=True
        )
        self._watcher = threading.Thread(target=self._watch, name="lookalike-page", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Stop it: SIGTERM, and SIGKILL if it does not end."""
        self._is_stopping = True
        self._process.terminate()
        self._watcher.join(_STOP_S)
        if self._process.poll() is None:
            self._process.kill()
            self._watcher.join()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _watch(self) -> None:
        code = self._process.wait()
        if not self._is_stopping:
            print(f"lookalike: the page has ended ({code}); the server goes on", file=sys.stderr)
