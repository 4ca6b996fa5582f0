"""`python -m lookalike.web`: the page and the HTTP API of a lookalike server."""

from __future__ import annotations

import argparse
import sys

from lookalike.client._security import is_local
from lookalike.client.cli._settings import access
from lookalike.client.errors import FailedPrecondition, LookalikeError
from lookalike.web.backend import Backend
from lookalike.web.serving import bind, serve
from lookalike.web.settings import Settings

DEFAULT_LISTEN = "127.0.0.1:8080"
_ACCESS = {
    "--api-key-file": "a file with the key to call the server with",
    "--ca": "speak TLS; the CA of the server's certificate",
    "--client-certificate": "for servers that ask for one",
    "--client-key": "its private key",
}


def main(args: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(args)
    try:
        settings = Settings(
            server=options.server, names=tuple(options.name), access=access(vars(options))
        )
        Backend(settings).close()  # what cannot be meant is told now, not to the first visitor
        host, port = _address(options.listen)
        if not (options.insecure or is_local(f"{host}:{port}")):
            raise FailedPrecondition(
                f"The page on {options.listen} could be reached by other machines, and whoever "
                "reaches it may do what it may: it has no login. Put a proxy with TLS and a "
                "login before it, on this machine; --insecure listens all the same."
            )
        listener = bind(host, port)
        serve(settings, listener, while_stdin=options.while_stdin)
    except LookalikeError as error:
        sys.stderr.write(f"lookalike: {error.message}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lookalike web", description=__doc__.split(": ", 1)[1])
    parser.add_argument(
        "--server",
        default="127.0.0.1:50051",
        metavar="HOST:PORT",
        help="the lookalike server (default %(default)s)",
    )
    parser.add_argument(
        "--listen",
        default=DEFAULT_LISTEN,
        metavar="HOST:PORT",
        help="where browsers find the page (default %(default)s; port 0: any free)",
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a host name that browsers know the page by, besides localhost and addresses",
    )
    for name, meaning in _ACCESS.items():
        parser.add_argument(name, default="", metavar="FILE", help=meaning)
    parser.add_argument(
        "--server-name", default="", metavar="NAME", help="the name in the server's certificate"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="let other machines reach it; it has no login"
    )
    parser.add_argument("--while-stdin", action="store_true", help=argparse.SUPPRESS)
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise LookalikeError(f"--listen {text!r} is not HOST:PORT, such as {DEFAULT_LISTEN}.")
    return host.strip("[]") or "127.0.0.1", int(port)


if __name__ == "__main__":
    sys.exit(main())
