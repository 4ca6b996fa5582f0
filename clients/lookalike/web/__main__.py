"""`python -m lookalike.web`: the page and the HTTP API of a lookalike server."""

from __future__ import annotations

import argparse
import sys

from lookalike.client.errors import LookalikeError
from lookalike.web.serving import bind, serve
from lookalike.web.settings import Settings

DEFAULT_LISTEN = "127.0.0.1:8080"


def main(args: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(args)
    settings = Settings(server=options.server, names=tuple(options.name))
    try:
        listener = bind(*_address(options.listen))
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
    parser.add_argument("--while-stdin", action="store_true", help=argparse.SUPPRESS)
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise LookalikeError(f"--listen {text!r} is not HOST:PORT, such as {DEFAULT_LISTEN}.")
    return host.strip("[]") or "127.0.0.1", int(port)


if __name__ == "__main__":
    sys.exit(main())
