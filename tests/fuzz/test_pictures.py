"""Pictures put together wrongly, through the decoding processes: no escape, no hang.

A failure prints seed and number; `mutations.mutated(random.Random(f"{seed}/{number}"),
SEEDS)` makes the same file again.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

import hostile_zoo
import picture_zoo as zoo
from fuzz import mutations
from lookalike.backends.errors import InvalidArgument
from lookalike.server.images import Allowance, Workers, _workers

REASONS = {"IMAGE_UNDECODABLE", "IMAGE_FORMAT_UNSUPPORTED", "IMAGE_TOO_LARGE", "IMAGE_TOO_COSTLY"}
MAX = 4_000_000
SHORT = 250


def number(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))


def seeds() -> list[bytes]:
    """Small files of every format and many modes, so that a mutation is quick to try."""
    small = Image.fromarray(zoo.scene(48, 32))
    found = [case.data for case in hostile_zoo.cases() if " of " in case.name]
    found = [data for data in found if len(data) < 20_000]
    for kind, options in (
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"restart_marker_blocks": 2}),
        ("WEBP", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("GIF", {"interlace": 0}),
        ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}), ("TIFF", {"compression": "packbits"}),
        ("AVIF", {"speed": 9}), ("PNG", {}), ("BMP", {}),
    ):  # fmt: skip
        found.append(zoo.encode(small, kind, **options))
    for packed in ("group3", "group4", "tiff_ccitt"):
        found.append(zoo.encode(small.convert("1"), "TIFF", compression=packed))
    return found


SEEDS = seeds()


class Judge:
    """Tries mutations and keeps what went wrong."""

    def __init__(self, seed: int, workers: Workers) -> None:
        self._seed = seed
        self._workers = workers
        self._guard = threading.Lock()
        self.answers: Counter[str] = Counter()
        self.escapes: list[str] = []
        self.slowest = 0.0

    def try_one(self, i: int) -> None:
        rng = random.Random(f"{self._seed}/{i}")
        data = mutations.mutated(rng, SEEDS)
        began = time.thread_time()
        try:
            picture = self._workers.decode(data, max_pixels=MAX, side=rng.choice((0, 24)))
            answer = "OK"
            if picture.image.size > 3 * MAX:
                self._escaped(i, f"{picture.image.shape} pixels")
        except InvalidArgument as error:
            answer = error.reason
            if answer not in REASONS or "ended the process" in error.message:
                self._escaped(i, error.message)
        except Exception as error:
            answer = type(error).__name__
            self._escaped(i, repr(error))
        with self._guard:
            self.answers[answer] += 1
            self.slowest = max(self.slowest, time.thread_time() - began)

    def _escaped(self, i: int, what: str) -> None:
        self.escapes.append(f"{self._seed}/{i}: {what}")


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(2, Allowance())
    yield made
    made.close()


def judged(workers: Workers, seed: int, count: int) -> Judge:
    print(f"PROVE_SEED={seed}")
    judge = Judge(seed, workers)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(judge.try_one, range(count)))
    print(dict(judge.answers), f"slowest in the server {judge.slowest:.2f} s of its processor")
    return judge


def test_mutated_pictures_get_answers(workers: Workers) -> None:
    judge = judged(workers, number("PROVE_SEED", random.randrange(10**9)), SHORT)
    assert judge.escapes == []
    assert judge.answers["OK"] > SHORT // 50, "mutations that all fail at once try nothing"
    assert judge.answers["IMAGE_UNDECODABLE"] > SHORT // 10


@pytest.mark.prove
@pytest.mark.timeout(0)
def test_many_mutated_pictures_get_answers(workers: Workers) -> None:
    count = number("PROVE_FUZZ", 20_000)
    judge = judged(workers, number("PROVE_SEED", random.randrange(10**9)), count)
    assert judge.escapes == []
    assert judge.answers["IMAGE_TOO_COSTLY"] <= count // 1000


def test_mutations_can_be_made_again() -> None:
    made = [[mutations.mutated(random.Random(f"1/{i}"), SEEDS) for i in range(50)] for _ in "ab"]
    assert made[0] == made[1]
    assert len(set(made[0])) > 45


def test_an_escape_would_be_seen(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: str) -> Exception:
        return KeyError(kind)

    monkeypatch.setattr(_workers, "damaged", refuse)
    assert judged(workers, 1, 40).escapes
