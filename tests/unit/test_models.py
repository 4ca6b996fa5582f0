"""Models load once, when asked for; unknown names get the nearest known one."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest

from lookalike.backends import registry
from lookalike.backends.embed.base import Embedder, EmbedderOptions
from lookalike.backends.errors import (
    Draining,
    ModelInvalid,
    ModelLacksModality,
    ModelNotFound,
    UnknownBackend,
)
from lookalike.backends.testing.fakes import FakeEmbedder
from lookalike.server.images import DECODER
from lookalike.server.models import LoadedModel, ModelConfig, Models


class Slow(FakeEmbedder):
    """Takes a while to load, fails as often as told, remembers every instance."""

    made: ClassVar[list[FakeEmbedder]] = []
    failures: ClassVar[list[Exception]] = []
    opening: ClassVar[threading.Event] = threading.Event()

    @classmethod
    def open(cls, options: EmbedderOptions) -> Slow:
        cls.opening.set()
        time.sleep(float(str(options.extra.get("load_s", 0))))
        if cls.failures:
            raise cls.failures.pop()
        cls.made.append(embedder := cls())
        return embedder


class Blind(Embedder):
    """Knows pictures only."""

    space, dim, decode_side = "blind/1", 16, 64

    @classmethod
    def open(cls, options: EmbedderOptions) -> Blind:
        return cls()

    prepare = FakeEmbedder.prepare
    embed_prepared = FakeEmbedder.embed_prepared


@pytest.fixture(autouse=True)
def embedders(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = {"slow": Slow, "blind": Blind, "fake": FakeEmbedder}
    real = registry.embedders.resolve
    monkeypatch.setattr(registry.embedders, "resolve", lambda n: classes.get(n) or real(n))
    Slow.made.clear()
    Slow.failures.clear()
    Slow.opening.clear()


def catalog(load_s: float = 0.0, default: str = "slow") -> Models:
    configs = {
        "zebra": ModelConfig("fake"),
        "slow": ModelConfig("slow", EmbedderOptions(extra={"load_s": load_s})),
        "blind": ModelConfig("blind"),
        "broken": ModelConfig("no-such-embedder"),
    }
    return Models(configs, default, max_waiting=10)


def test_listing_loads_nothing_and_starts_with_the_default() -> None:
    models = catalog()
    infos = models.list()
    assert [info.name for info in infos] == ["slow", "blind", "broken", "zebra"]
    assert [info.is_default for info in infos] == [True, False, False, False]
    assert not any(info.loaded or info.dimension or info.modalities for info in infos)
    assert Slow.made == []


def test_a_loaded_model_is_listed_with_what_is_known_now() -> None:
    models = catalog(default="blind")
    model = models.get("")
    info = models.list()[0]
    assert (info.name, info.loaded, info.dimension) == ("blind", True, 16)
    assert (info.modalities, info.device, info.space) == (("image",), "cpu", model.space)
    models.close()


def test_the_empty_name_is_the_default() -> None:
    models = catalog()
    assert models.get("") is models.get("slow")
    assert models.get("").name == models.default == "slow"
    models.close()


def test_the_space_names_the_model_and_the_decoder() -> None:
    models = catalog()
    assert models.get("slow").space == f"fake/1+{DECODER}"
    models.close()


def test_a_model_is_loaded_once_by_eight_callers() -> None:
    models = catalog(load_s=0.05)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(models.get, ["slow"] * 8))
    assert len(Slow.made) == 1
    assert all(model is got[0] for model in got)
    models.close()


def test_a_loading_model_does_not_hold_up_another_nor_the_list() -> None:
    models = catalog(load_s=1.0)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(models.get, "slow")
        assert Slow.opening.wait(10)
        models.get("zebra")
        models.list()
        assert not slow.done()
        slow.result(20)
    models.close()


def test_a_failed_load_is_tried_again_by_the_next_call() -> None:
    models = catalog()
    Slow.failures.append(ModelInvalid("It is broken."))
    with pytest.raises(ModelInvalid):
        models.get("slow")
    assert not models.list()[0].loaded
    assert models.get("slow").dim == 16
    models.close()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    models = catalog()
    with pytest.raises(ModelNotFound, match="Did you mean 'zebra'") as caught:
        models.get("zebar")
    assert "slow, blind, broken, zebra" in caught.value.message
    assert caught.value.metadata == {"model": "zebar"}


def test_a_server_without_models_says_so() -> None:
    models = Models({}, "", max_waiting=1)
    assert models.list() == []
    for name in ("", "clip"):
        with pytest.raises(ModelNotFound, match="no model"):
            models.get(name)


def test_an_embedder_that_does_not_exist_is_named() -> None:
    with pytest.raises(UnknownBackend, match="no-such-embedder"):
        catalog().get("broken")


def test_a_loaded_model_embeds_pictures_and_texts() -> None:
    models = catalog()
    model = models.get("slow")
    assert model.modalities == ("image", "text")
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    expected = FakeEmbedder().embed_images([image])[0]
    prepared = model.prepare(image)
    for bulk in (False, True):
        found = model.submit_image(prepared, deadline=None, bulk=bulk).result(20)
        assert np.array_equal(found.vector, expected)
    text = model.submit_text("a dog", deadline=None).result(20)
    assert np.array_equal(text.vector, FakeEmbedder().embed_texts(["a dog"]).vectors[0])
    assert models.stats()["slow"].items == 3
    models.close()


def test_a_model_of_pictures_refuses_text_by_name() -> None:
    models = catalog()
    model = models.get("blind")
    assert (model.modalities, model.decode_side) == (("image",), 64)
    with pytest.raises(ModelLacksModality, match="'blind'"):
        model.submit_text("a dog", deadline=None)
    models.close()


def test_closing_closes_queues_then_embedders() -> None:
    before = threading.active_count()
    models = catalog()
    model: LoadedModel = models.get("slow")
    models.close()
    models.close()
    assert Slow.made[0].is_closed
    assert threading.active_count() == before
    with pytest.raises(Draining):
        models.get("slow")
    with pytest.raises(Draining):
        model.submit_text("late", deadline=None)


def test_closing_while_a_model_loads_leaves_no_thread() -> None:
    before = threading.active_count()
    models = catalog(load_s=0.1)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(models.get, "slow")
        assert Slow.opening.wait(10)
        models.close()
        loading.exception(20)
    assert threading.active_count() == before
    assert all(embedder.is_closed for embedder in Slow.made)
