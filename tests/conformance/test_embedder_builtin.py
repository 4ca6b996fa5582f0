"""The built-in embedder and the fake keep the contract; the suite cannot be cheated."""

from __future__ import annotations

import pytest

from lookalike.backends.embed.base import EmbedderOptions
from lookalike.backends.errors import ModelInvalid
from lookalike.backends.registry import embedders
from lookalike.backends.testing.embed import EmbedderConformance
from lookalike.backends.testing.fakes import FakeEmbedder


class TestBuiltin(EmbedderConformance):
    embedder_cls = embedders.resolve("builtin")


class TestFake(EmbedderConformance):
    embedder_cls = FakeEmbedder


class _Cheat(EmbedderConformance):
    def test_no_pictures_give_no_rows(self, embedder: object) -> None:
        """Claims nothing."""


class _Honest(EmbedderConformance):
    @pytest.mark.xfail(reason="measured: differs by 1e-4")
    def test_order_in_a_batch_is_kept(self, embedder: object, pictures: object) -> None:
        raise AssertionError


def test_an_override_without_a_reason_is_caught() -> None:
    with pytest.raises(AssertionError, match="overridden without"):
        _Cheat().test_no_claim_is_overridden_without_a_reason()
    _Honest().test_no_claim_is_overridden_without_a_reason()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (EmbedderOptions(device="cuda"), "CPU only"),
        (EmbedderOptions(extra={"colour": 1, "beauty": 2}), "beauty, colour"),
    ],
)
def test_settings_that_it_has_not_are_refused_by_name(options: EmbedderOptions, said: str) -> None:
    with pytest.raises(ModelInvalid, match=said):
        embedders.resolve("builtin").open(options)


def test_a_checkpoint_name_is_ignored() -> None:
    assert embedders.resolve("builtin").open(EmbedderOptions(model="some/model")).dim == 384
