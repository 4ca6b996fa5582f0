"""Every file of the zoo gets an answer that it may get, soon, and ends no process."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import hostile_zoo
from lookalike.backends.errors import InvalidArgument
from lookalike.server.images import Allowance, Workers, decode
from lookalike.server.limits import Limits

MAX = Limits().max_image_pixels
CASES = list(hostile_zoo.cases())
MOST_CPU_S = 2.0


@pytest.fixture(scope="module")
def process() -> Iterator[Workers]:
    made = Workers(1, Allowance())
    yield made
    made.close()


def cpu_of(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | 2)


def test_the_zoo_is_large_and_has_each_file_once() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 250


@pytest.mark.parametrize("side", [0, 256])
def test_every_file_gets_an_answer_that_it_may_get(process: Workers, side: int) -> None:
    process.decode(zoo_picture(), max_pixels=MAX)
    [pid] = process.pids
    wrong = []
    for case in CASES:
        began = cpu_of(pid), time.process_time()
        try:
            process.decode(case.data, max_pixels=MAX, side=side)
            answer = hostile_zoo.OK
        except InvalidArgument as error:
            answer = error.reason
        assert process.pids == [pid], f"{case.name} ended its process"
        took = cpu_of(pid) - began[0] + time.process_time() - began[1]
        if answer not in case.answers or took > MOST_CPU_S:
            wrong.append((case.name, answer, sorted(case.answers), f"{took:.2f} s"))
    assert not wrong


def test_both_ways_of_decoding_give_the_same_answers(process: Workers) -> None:
    for case in CASES:
        answers = []
        for call in (process.decode, decode):
            try:
                answers.append(call(case.data, max_pixels=MAX, side=64).image.tobytes())
            except InvalidArgument as error:
                answers.append(repr((type(error), error.message)).encode())
        assert answers[0] == answers[1], case.name


def zoo_picture() -> bytes:
    return next(case.data for case in CASES if case.name == "WEBP of RGB")
