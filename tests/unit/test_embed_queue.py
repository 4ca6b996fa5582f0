"""One thread computes; what waits forms batches; nothing hangs and nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from functools import partial

import numpy as np
import pytest

from lookalike.backends.embed.base import (
    Embedder,
    EmbedderOptions,
    PatchEmbedder,
    PatchVectors,
    TextVectors,
    Window,
)
from lookalike.backends.errors import (
    DeadlineExceeded,
    Draining,
    ImageUndecodable,
    Internal,
    LookalikeError,
    ModelLacksModality,
    Overloaded,
)
from lookalike.backends.testing.fakes import FakeEmbedder
from lookalike.backends.types import Prepared, Vectors
from lookalike.server import embed_queue
from lookalike.server.domain import Embedded
from lookalike.server.embed_queue import EmbedQueue

PATIENCE_S = 20.0


class GatedEmbedder(FakeEmbedder, PatchEmbedder):
    """Computes when the test opens the gate; notes what came in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Semaphore(0)
        self.seen: list[tuple[str, list[int]]] = []
        self.threads: set[str] = set()
        self.poison: Callable[[int], Exception | float | None] = lambda mark: None

    def embed_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        marks = [int(prepared[0]) for prepared in batch]
        self._enter("images", marks)
        vectors = np.ones((len(batch), self.dim), np.float32)
        for row, mark in enumerate(marks):
            verdict = self.poison(mark)
            if isinstance(verdict, Exception):
                raise verdict
            vectors[row] *= mark if verdict is None else np.float32(verdict)
        return vectors

    def embed_texts(self, texts: Sequence[str]) -> TextVectors:
        self._enter("texts", [int(text) for text in texts])
        return super().embed_texts(texts)

    def embed_patches(self, batch: Sequence[Prepared]) -> PatchVectors:
        marks = [int(prepared[0]) for prepared in batch]
        self._enter("patches", marks)
        grids = np.ones((len(batch), 2, 3, 4), np.float32)
        for row, mark in enumerate(marks):
            verdict = self.poison(mark)
            if isinstance(verdict, Exception):
                raise verdict
            grids[row] *= mark if verdict is None else np.float32(verdict)
        return grids

    def patch_window(self, height: int, width: int) -> Window:
        return Window(0.0, 0.0, 1.0, 1.0)

    def _enter(self, kind: str, marks: list[int]) -> None:
        self.seen.append((kind, marks))
        self.threads.add(threading.current_thread().name)
        assert self.gate.acquire(timeout=PATIENCE_S), "the test forgot to open the gate"

    def open_wide(self) -> None:
        self.gate.release(10_000)


def marked(mark: int) -> Prepared:
    return np.full(1, mark, np.float32)


def until(claim: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


@pytest.fixture
def embedder() -> GatedEmbedder:
    return GatedEmbedder()


@pytest.fixture
def queue(embedder: GatedEmbedder) -> Iterator[EmbedQueue]:
    queue = EmbedQueue(embedder, max_waiting=100, name="test")
    yield queue
    embedder.open_wide()
    queue.close()


def busy(queue: EmbedQueue, embedder: GatedEmbedder) -> Future[Embedded]:
    """Put one picture, mark 1000, into the model, and leave it there."""
    future = queue.submit_image(marked(1000), deadline=None)
    until(lambda: len(embedder.seen) == 1)
    return future


def add(queue: EmbedQueue, *marks: int, bulk: bool = False) -> list[Future[Embedded]]:
    return [queue.submit_image(marked(m), deadline=None, bulk=bulk) for m in marks]


def first_value(future: Future[Embedded]) -> float:
    return float(future.result(PATIENCE_S).vector[0])


# ------------------------------------------------------------------ batches


def test_a_lone_query_is_computed_at_once(queue: EmbedQueue, embedder: GatedEmbedder) -> None:
    embedder.open_wide()
    assert first_value(queue.submit_image(marked(7), deadline=None)) == 7
    assert embedder.seen == [("images", [7])]


def test_what_waits_while_the_model_computes_forms_batches(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    busy(queue, embedder)
    futures = add(queue, *range(1, 20))
    embedder.open_wide()
    assert [first_value(f) for f in futures] == list(range(1, 20))
    batches = [marks for _, marks in embedder.seen[1:]]
    assert batches == [list(range(1, 9)), list(range(9, 17)), [17, 18, 19]]


def test_eight_concurrent_callers_share_model_calls() -> None:
    embedder = FakeEmbedder(delay_s=0.01)
    queue = EmbedQueue(embedder, max_waiting=100)

    def call(number: int) -> None:
        for turn in range(10):
            image = embedder.prepare(np.full((2, 2, 3), number * 10 + turn, np.uint8))
            queue.submit_image(image, deadline=None).result(PATIENCE_S)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    queue.close()
    assert sum(embedder.batches) == 80
    assert len(embedder.batches) <= 40, f"batches were {embedder.batches}"


def test_answers_belong_to_their_questions_under_load() -> None:
    embedder = FakeEmbedder()
    queue = EmbedQueue(embedder, max_waiting=10_000)
    prepared = [embedder.prepare(np.full((1, 1, 3), n, np.uint8)) for n in range(200)]
    alone = np.concatenate([embedder.embed_prepared([one]) for one in prepared])
    expected = {f"text {n}": embedder.embed_texts([f"text {n}"]).vectors[0] for n in range(200)}

    def call(number: int) -> None:
        futures = [queue.submit_image(p, deadline=None, bulk=number % 2 == 0) for p in prepared]
        texts = {text: queue.submit_text(text, deadline=None) for text in expected}
        for future, vector in zip(futures, alone, strict=True):
            assert np.array_equal(future.result(PATIENCE_S).vector, vector)
        for text, future in texts.items():
            assert np.array_equal(future.result(PATIENCE_S).vector, expected[text])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    queue.close()
    assert queue.stats.items == 8 * 400
    assert queue.stats.waiting == 0


def test_texts_and_pictures_never_share_a_batch_and_keep_their_order(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    busy(queue, embedder)
    futures = add(queue, 1)
    futures += [queue.submit_text("2", deadline=None)]
    futures += add(queue, 3)
    futures += [queue.submit_text("4", deadline=None)]
    embedder.open_wide()
    wait(futures, PATIENCE_S)
    assert embedder.seen[1:] == [("images", [1, 3]), ("texts", [2, 4])]


def test_a_text_that_was_cut_is_flagged(queue: EmbedQueue, embedder: GatedEmbedder) -> None:
    embedder.open_wide()
    short, long = (queue.submit_text("1" * n, deadline=None) for n in (5, 200))
    assert not short.result(PATIENCE_S).truncated
    assert long.result(PATIENCE_S).truncated


def test_one_named_thread_does_all_the_computing(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    embedder.open_wide()
    with ThreadPoolExecutor(8) as pool:
        wait([f for fs in pool.map(lambda n: add(queue, n, n), range(20)) for f in fs])
    assert embedder.threads == {"embed-test"}


def test_a_vector_does_not_keep_its_batch_in_memory(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    embedder.open_wide()
    vector = queue.submit_image(marked(1), deadline=None).result(PATIENCE_S).vector
    assert vector.base is None
    assert vector.dtype == np.float32
    assert vector.shape == (16,)


# ------------------------------------------------------------------ whose turn


def test_queries_go_before_uploads_that_came_earlier(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    busy(queue, embedder)
    futures = add(queue, *range(1, 11), bulk=True) + add(queue, 50)
    embedder.open_wide()
    wait(futures, PATIENCE_S)
    assert [m for _, m in embedder.seen[1:]] == [[50], list(range(1, 9)), [9, 10]]


def test_uploads_are_not_starved_by_queries(queue: EmbedQueue, embedder: GatedEmbedder) -> None:
    busy(queue, embedder)
    futures = add(queue, 500, bulk=True) + add(queue, *range(1, 90))
    embedder.open_wide()
    wait(futures, PATIENCE_S)
    turn = [marks for _, marks in embedder.seen].index([500])
    assert 5 < turn <= 9, f"the upload had turn {turn} of {len(embedder.seen)}"


# ------------------------------------------------------------------ company for uploads


def test_uploads_wait_for_those_that_are_coming_and_go_in_fours(
    queue: EmbedQueue, embedder: GatedEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_queue, "_COMPANY_S", 10 * PATIENCE_S)
    embedder.open_wide()
    with queue.coming():
        futures = add(queue, 1, 2, 3, 4, bulk=True)
        assert [first_value(f) for f in futures] == [1, 2, 3, 4]
    assert [m for _, m in embedder.seen] == [[1, 2, 3, 4]]


def test_an_upload_that_nobody_follows_is_computed_at_once(
    queue: EmbedQueue, embedder: GatedEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_queue, "_COMPANY_S", 10 * PATIENCE_S)
    embedder.open_wide()
    with queue.coming():
        (first,) = add(queue, 1, bulk=True)
    assert first_value(first) == 1


def test_a_query_does_not_wait_for_the_company_of_uploads(
    queue: EmbedQueue, embedder: GatedEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_queue, "_COMPANY_S", 10 * PATIENCE_S)
    embedder.open_wide()
    with queue.coming():
        (upload,) = add(queue, 1, bulk=True)
        (query,) = add(queue, 2)
        assert first_value(query) == 2
        assert not upload.done()
    assert first_value(upload) == 1


def test_an_upload_does_not_wait_for_one_that_never_comes(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    embedder.open_wide()
    with queue.coming():
        (first,) = add(queue, 1, bulk=True)
        assert first_value(first) == 1


def test_an_upload_that_cannot_be_prepared_keeps_nobody_waiting(
    queue: EmbedQueue, embedder: GatedEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_queue, "_COMPANY_S", 10 * PATIENCE_S)
    embedder.open_wide()
    first: list[Future[Embedded]] = []

    def prepare() -> None:
        with queue.coming():
            first.extend(add(queue, 1, bulk=True))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        prepare()
    assert first_value(first[0]) == 1


# ------------------------------------------------------------------ patches


def test_patches_form_batches_of_their_own_and_wait_like_other_queries(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    busy(queue, embedder)
    uploads = add(queue, 70, bulk=True)
    patches = [queue.submit_patches(marked(m), deadline=None) for m in (1, 2)]
    images = add(queue, 3)
    embedder.open_wide()
    wait(uploads, PATIENCE_S)
    wait(images, PATIENCE_S)
    assert embedder.seen[1:] == [("patches", [1, 2]), ("images", [3]), ("images", [70])]
    for mark, future in zip((1, 2), patches, strict=True):
        grid = future.result(PATIENCE_S)
        assert grid.shape == (2, 3, 4)
        assert grid.base is None, "it does not keep its batch in memory"
        assert (grid == mark).all()
    until(lambda: queue.stats.items == 5)


def test_patches_expire_are_cancelled_and_fail_alone(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    verdicts: dict[int, Exception | float] = {3: ValueError("bad"), 4: float("nan")}
    embedder.poison = verdicts.get
    busy(queue, embedder)
    late = queue.submit_patches(marked(1), deadline=time.monotonic() - 1)
    left = queue.submit_patches(marked(2), deadline=None)
    bad, unusable, good = (queue.submit_patches(marked(m), deadline=None) for m in (3, 4, 5))
    assert left.cancel()
    embedder.open_wide()
    assert (good.result(PATIENCE_S) == 5).all()
    for future, error in ((late, DeadlineExceeded), (bad, Internal), (unusable, Internal)):
        with pytest.raises(error):
            future.result(PATIENCE_S)
    assert ("patches", [3, 4, 5]) in embedder.seen, "the cancelled and the late are not computed"


def test_patches_take_places_in_a_full_queue_and_are_drained(embedder: GatedEmbedder) -> None:
    queue = EmbedQueue(embedder, max_waiting=2)
    running = busy(queue, embedder)
    waiting = [queue.submit_patches(marked(m), deadline=None) for m in (1, 2)]
    for refused in (queue.submit_patches, queue.submit_image):
        with pytest.raises(Overloaded, match="2 inputs wait"):
            refused(marked(3), deadline=None)
    closing = threading.Thread(target=queue.close)
    closing.start()
    time.sleep(0.05)
    embedder.open_wide()
    closing.join(PATIENCE_S)
    assert first_value(running) == 1000
    for future in waiting:
        with pytest.raises(Draining):
            future.result(PATIENCE_S)


# ------------------------------------------------------------------ giving up


def test_expired_inputs_are_dropped_before_the_model(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    busy(queue, embedder)
    late = queue.submit_image(marked(1), deadline=time.monotonic() + 0.01)
    dead = queue.submit_text("2", deadline=time.monotonic() - 1)
    good = queue.submit_image(marked(3), deadline=time.monotonic() + 60)
    time.sleep(0.02)
    embedder.open_wide()
    for future in (late, dead):
        with pytest.raises(DeadlineExceeded):
            future.result(PATIENCE_S)
    assert first_value(good) == 3
    assert embedder.seen[1:] == [("images", [3])]
    assert queue.stats.expired == 2


def test_cancelled_inputs_are_dropped_before_the_model(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    running = busy(queue, embedder)
    left, right = add(queue, 1, 2)
    assert left.cancel()
    assert not running.cancel(), "it is computed already"
    embedder.open_wide()
    assert first_value(right) == 2
    assert first_value(running) == 1000
    with pytest.raises(CancelledError):
        left.result(PATIENCE_S)
    assert embedder.seen[1:] == [("images", [2])]


def test_dropped_inputs_take_no_place_in_a_batch(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    busy(queue, embedder)
    futures = add(queue, *range(1, 13))
    for future in futures[:4]:
        future.cancel()
    embedder.open_wide()
    wait(futures, PATIENCE_S)
    assert embedder.seen[1:] == [("images", list(range(5, 13)))]


def test_a_full_queue_refuses_queries_with_a_time_to_wait(embedder: GatedEmbedder) -> None:
    queue = EmbedQueue(embedder, max_waiting=3)
    first = queue.submit_image(marked(9), deadline=None)
    time.sleep(0.2)  # makes the measured time of one input about 0.2 s
    embedder.gate.release()
    first.result(PATIENCE_S)
    queue.submit_image(marked(9), deadline=None)
    until(lambda: len(embedder.seen) == 2)
    waiting = [*add(queue, 1, 2), queue.submit_text("3", deadline=None)]
    for refused in (
        partial(queue.submit_image, marked(4), deadline=None),
        partial(queue.submit_text, "4", deadline=None),
    ):
        with pytest.raises(Overloaded, match="3 inputs wait") as caught:
            refused()
        assert caught.value.retry_after_s is not None
        assert 0.3 < caught.value.retry_after_s < 10
    uploads = add(queue, 5, 6, 7, 8, bulk=True)
    embedder.open_wide()
    wait([*waiting, *uploads], PATIENCE_S)
    queue.submit_image(marked(9), deadline=None).result(PATIENCE_S)
    queue.close()


def test_uploads_do_not_take_the_places_of_queries(embedder: GatedEmbedder) -> None:
    queue = EmbedQueue(embedder, max_waiting=1)
    busy(queue, embedder)
    add(queue, *range(50), bulk=True)
    add(queue, 99)
    embedder.open_wide()
    queue.close()


# ------------------------------------------------------------------ faults


def test_a_poisoned_input_fails_alone(queue: EmbedQueue, embedder: GatedEmbedder) -> None:
    embedder.poison = lambda mark: ValueError("bad pixels") if mark == 3 else None
    busy(queue, embedder)
    futures = add(queue, 1, 2, 3, 4)
    embedder.open_wide()
    assert [first_value(f) for f in (futures[0], futures[1], futures[3])] == [1, 2, 4]
    with pytest.raises(Internal) as caught:
        futures[2].result(PATIENCE_S)
    assert "bad pixels" not in caught.value.message, "what libraries say stays in the log"
    assert isinstance(caught.value.__cause__, ValueError)
    until(lambda: queue.stats.items == 4)
    assert queue.stats.failed == 1


def test_an_error_of_ours_arrives_as_it_is(queue: EmbedQueue, embedder: GatedEmbedder) -> None:
    error = ImageUndecodable("It has no pixels.")
    embedder.poison = lambda mark: error
    embedder.open_wide()
    with pytest.raises(ImageUndecodable) as caught:
        queue.submit_image(marked(1), deadline=None).result(PATIENCE_S)
    assert caught.value is error


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_unusable_vectors_fail_alone(
    value: float, queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    embedder.poison = lambda mark: value if mark == 2 else None
    busy(queue, embedder)
    futures = add(queue, 1, 2, 3)
    embedder.open_wide()
    assert (first_value(futures[0]), first_value(futures[2])) == (1, 3)
    with pytest.raises(Internal, match="no usable vector"):
        futures[1].result(PATIENCE_S)
    assert len(embedder.seen) == 2, "it is known which one it is: no second try"


def test_vectors_of_another_shape_are_an_error_not_an_answer() -> None:
    class Short(FakeEmbedder):
        def embed_prepared(self, batch: Sequence[Prepared]) -> Vectors:
            return np.ones((len(batch), 3), np.float32)

    queue = EmbedQueue(Short(), max_waiting=1)
    with pytest.raises(Internal):
        queue.submit_image(marked(1), deadline=None).result(PATIENCE_S)
    queue.close()


def test_a_failing_callback_does_not_stop_the_model(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    def fail(_: Future[Embedded]) -> None:
        raise RuntimeError("in a callback")

    future = busy(queue, embedder)
    future.add_done_callback(fail)
    embedder.open_wide()
    assert first_value(queue.submit_image(marked(5), deadline=None)) == 5


def test_a_callback_may_submit_more(queue: EmbedQueue, embedder: GatedEmbedder) -> None:
    more: list[Future[Embedded]] = []
    busy(queue, embedder)
    expired = queue.submit_image(marked(1), deadline=time.monotonic() - 1)
    expired.add_done_callback(lambda _: more.extend(add(queue, 2)))
    embedder.open_wide()
    until(lambda: bool(more))
    assert first_value(more[0]) == 2


def test_a_model_without_text_refuses_text() -> None:
    class Blind(Embedder):
        space, dim = "blind/1", 16

        @classmethod
        def open(cls, options: EmbedderOptions) -> Blind:
            return cls()

        prepare = FakeEmbedder.prepare
        embed_prepared = FakeEmbedder.embed_prepared

    queue = EmbedQueue(Blind(), max_waiting=1)
    with pytest.raises(ModelLacksModality):
        queue.submit_text("a dog", deadline=None)
    queue.close()


# ------------------------------------------------------------------ closing


def test_closing_finishes_the_batch_in_hand_and_fails_the_rest(
    queue: EmbedQueue, embedder: GatedEmbedder
) -> None:
    running = busy(queue, embedder)
    waiting = [*add(queue, 1), *add(queue, 2, bulk=True), queue.submit_text("3", deadline=None)]
    cancelled = add(queue, 4)[0]
    cancelled.cancel()
    closer = threading.Thread(target=queue.close)
    closer.start()
    until(lambda: refuses(queue))
    embedder.open_wide()
    closer.join(PATIENCE_S)
    assert not closer.is_alive()
    assert first_value(running) == 1000
    for future in waiting:
        with pytest.raises(Draining):
            future.result(0)
    assert cancelled.cancelled()
    assert len(embedder.seen) == 1


def refuses(queue: EmbedQueue) -> bool:
    try:
        queue.submit_image(marked(0), deadline=0.0)
    except Draining:
        return True
    return False


def test_closing_twice_and_after_nothing_returns() -> None:
    before = threading.active_count()
    queue = EmbedQueue(FakeEmbedder(), max_waiting=1)
    queue.close()
    queue.close()
    assert threading.active_count() == before
    with pytest.raises(Draining):
        queue.submit_image(marked(1), deadline=None)


def test_every_future_ends_when_closing_amid_traffic() -> None:
    queue = EmbedQueue(FakeEmbedder(delay_s=0.001), max_waiting=10_000)
    futures: list[Future[Embedded]] = []
    prepared = FakeEmbedder().prepare(np.zeros((1, 1, 3), np.uint8))

    def call() -> None:
        while True:
            try:
                futures.append(queue.submit_image(prepared, deadline=None))
            except LookalikeError:
                return

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    queue.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not wait(futures, 1).not_done
    assert any(future.exception() is None for future in futures)


@pytest.mark.parametrize(("asked", "batches"), [(False, 2), (True, 1)], ids=["bulk", "asked"])
def test_a_model_has_enough_uploads_sooner_while_it_answers_queries(
    queue: EmbedQueue, embedder: GatedEmbedder, asked: bool, batches: int
) -> None:
    futures = [queue.submit_image(marked(1000), deadline=None, bulk=not asked)]
    until(lambda: len(embedder.seen) == 1)
    futures += add(queue, *range(1, batches * embedder.max_batch), bulk=True)
    before = queue.has_enough
    futures += add(queue, 500, bulk=True)
    after = queue.has_enough
    embedder.open_wide()
    wait(futures, PATIENCE_S)
    assert (before, after, queue.has_enough) == (False, True, False)
