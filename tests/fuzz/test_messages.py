"""Hostile messages to every method of a real server: refused in words, harming nobody.

A failure prints seed and number; `messages.Hostile(seed).call(number)` makes the call again
(but for its page token, if it has one: those come from the server).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from fuzz.messages import Call, Hostile, methods
from fuzz.outside import MIB, Control, Outside, server
from fuzz.siege import Siege, growth, judged

SHORT = 3_000
FEW = 600
MOST_CPU_S = 2.0
"""Of one call; 0.2 s were seen, for the first that has to load something."""
MOST_GROWTH = 64 * MIB
FORGETFUL = """
from lookalike.server.rpc import search
def forgets(*args):
    raise KeyError("a defect")
search.check_batch = forgets
"""


def number(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    with server(tmp_path) as running:
        yield running


def besieged(outside: Outside, count: int) -> Siege:
    """Send `count` messages, a fifth of them before its memory is looked at."""
    seed = number("PROVE_SEED", random.randrange(10**9))
    print(f"PROVE_SEED={seed}")
    siege = Siege(outside, seed)
    with Control(outside.address) as control:
        siege.run(0, count // 5)
        before = outside.process.rss
        siege.run(siege.next, count - count // 5)
    after = outside.process.rss
    print(f"{siege.messages} messages, {growth(before, after)}, {dict(siege.answers)}")
    assert siege.wrong == []
    assert control.wrong == []
    assert control.times, "nobody asked in the meantime"
    assert after - before <= MOST_GROWTH, growth(before, after)
    log = outside.log()
    assert "Traceback" not in log
    assert " ERROR " not in log
    return siege


def test_hostile_messages_are_refused_in_words(outside: Outside) -> None:
    siege = besieged(outside, SHORT)
    assert siege.answers["OK"] > SHORT // 20, "calls that all fail at once try nothing"
    assert siege.answers["INVALID_ARGUMENT"] > SHORT // 5


@pytest.mark.prove
@pytest.mark.timeout(0)
def test_many_hostile_messages_are_refused_in_words(outside: Outside) -> None:
    besieged(outside, number("PROVE_MESSAGES", 500_000))


def test_no_hostile_message_costs_much(outside: Outside) -> None:
    seed = number("PROVE_SEED", random.randrange(10**9))
    print(f"PROVE_SEED={seed}")
    siege = Siege(outside, seed)
    spent = sorted(siege.alone(0, FEW), reverse=True)
    print(spent[:5])
    assert siege.wrong == []
    assert spent[0][0] <= MOST_CPU_S, spent[0]


def test_every_method_gets_hostile_messages() -> None:
    hostile = Hostile(1)
    calls = [hostile.call(i) for i in range(4000)]
    assert {call.method.path for call in calls} == {method.path for method in methods()}
    assert {"/lookalike.v1.AdminService/Verify", "/grpc.health.v1.Health/Check"} <= {
        method.path for method in methods()
    }


def test_one_seed_makes_the_same_calls_again() -> None:
    def made(seed: int) -> list[Call]:
        return [Hostile(seed).call(i) for i in range(100)]

    assert made(7) == made(7)
    assert made(7) != made(8)


def test_a_defect_would_be_seen(tmp_path: Path) -> None:
    with server(tmp_path, plant=FORGETFUL) as running:
        siege = Siege(running, 1)
        siege.run(0, 500)
        assert any("INTERNAL" in wrong for wrong in siege.wrong)


def test_bytes_that_are_no_message_are_the_callers_fault(outside: Outside) -> None:
    def refusal(kind: str, path: str, given: Any) -> Any:
        with pytest.raises(grpc.RpcError) as caught:
            list(getattr(channel, kind)(path)(given, timeout=10))
        assert judged(caught.value, path) == ""
        return caught.value.code()

    search, upload = "/lookalike.v1.SearchService/Search", "/lookalike.v1.IndexService/UploadItems"
    health = "/grpc.health.v1.Health/"
    with grpc.insecure_channel(outside.address) as channel:
        code = grpc.StatusCode
        assert refusal("unary_unary", search, b"\xff") is code.INVALID_ARGUMENT
        assert refusal("stream_stream", upload, iter([b"\xff"])) is code.INVALID_ARGUMENT
        assert refusal("unary_unary", health + "Check", b"\xff") is code.NOT_FOUND
        assert refusal("unary_unary", health + "List", b"") is code.UNIMPLEMENTED
    assert "Traceback" not in outside.log()
