"""What a server that leaves, or that comes, lets in: the calls' side of handing over."""

from __future__ import annotations

import time
from collections.abc import Callable

from grpc_health.v1 import health

from lookalike.backends.errors import LookalikeError, Unavailable
from lookalike.server.rpc import listening
from lookalike.server.rpc.gates import Gates, going_down
from lookalike.server.rpc.upload import Uploads

_LAST_READS_S = 0.5
"""How long the last searches have. Calls that come meanwhile are refused, and try again
within 0.25 s, three times as a rule; what takes longer is cut off and asked again."""
_LAST_WORDS_S = 0.1
"""For answers that are on their way."""
_SOON_S = 0.25
_OPENING_S = (1.0, 2.0)
"""Changes wait for the other server to open the folder. gRPC asks three times more: after
1, 2 and 2 s, as the time to come again grows with the time that it has taken so far."""


def _moving(retry_s: float = _SOON_S) -> LookalikeError:
    return Unavailable(
        "One server takes the place of another; call again in a moment.", retry_after_s=retry_s
    )


def _opening_since(began: float) -> Callable[[], LookalikeError]:
    least, most = _OPENING_S
    return lambda: _moving(min(least + time.monotonic() - began, most))


class Doors:
    """Which calls come in, kind by kind. One thread at a time."""

    def __init__(self, gates: Gates, uploads: Uploads, status: health.HealthServicer) -> None:
        self._gates, self._uploads, self._status = gates, uploads, status
        self.port = 0

    # ------------------------------------------------------------- who comes

    def hold_writes(self) -> None:
        """Refuse changes until `open`: another server still answers from before them."""
        for gate in (self._gates.writes, self._gates.uploads):
            gate.close(_moving)

    def take_all(self) -> None:
        """Have all new connections come here, though another still listens."""
        listening.take_all(self.port)

    def open(self) -> None:
        """Let everything in, again."""
        self._uploads.resume()
        for gate in self._gates.all:
            gate.open()

    # ------------------------------------------------------------ who leaves

    def share(self) -> None:
        """Let another process listen at this address, too."""
        listening.share(self.port)

    def end_lasting(self, grace_s: float) -> bool:
        """Let calls that read for long end; return whether all did."""
        self._gates.lasting.close(going_down)
        return self._gates.lasting.wait(grace_s)

    def end_changes(self, grace_s: float) -> bool:
        """Let uploads and then other changes end; searches go on. Return whether all did."""
        refusal = _opening_since(time.monotonic())
        self._gates.uploads.close(refusal)
        self._uploads.drain(grace_s)
        is_over = self._gates.uploads.wait(grace_s)
        if not is_over:
            self._uploads.cut()
        self._gates.writes.close(refusal)
        return self._gates.writes.wait(grace_s) and is_over

    def end_all(self) -> None:
        """Let the last searches end. Returns when the process can be ended."""
        self._status.enter_graceful_shutdown()
        for gate in (self._gates.reads, self._gates.watchers):
            gate.close(_moving)
        self._gates.reads.wait(_LAST_READS_S)
        time.sleep(_LAST_WORDS_S)
