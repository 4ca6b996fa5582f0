"""The command line: `lookalike index photos`, `lookalike search cat.jpg`.

Results go to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 some
items failed, 4 server not reachable, 5 not found, 130 interrupted.
"""

from __future__ import annotations

import sys

from lookalike.client.cli._exit import guarded


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run one command; return its exit code. the server's own do not come back."""

    def command() -> int | None:
        if args and args[0] in ("serve", "config", "restore", "keys", "model"):
            from lookalike.client.cli.serve import hand_over

            hand_over(args)
        from lookalike.client.cli._app import make_app

        code = make_app()(args, standalone_mode=False, prog_name="lookalike")
        return code if isinstance(code, int) else None

    return guarded(command)
