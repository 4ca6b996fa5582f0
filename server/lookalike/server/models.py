"""The models of one server: configured by name, loaded when first asked for."""

from __future__ import annotations

import difflib
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from lookalike.backends import registry
from lookalike.backends.embed.base import (
    Embedder,
    EmbedderOptions,
    PatchEmbedder,
    TextEmbedder,
    Window,
)
from lookalike.backends.errors import Draining, ModelLacksModality, ModelNotFound
from lookalike.backends.types import Prepared, RgbImage
from lookalike.server.domain import Embedded, ModelInfo
from lookalike.server.embed_queue import MANY_BYTES, EmbedQueue, PatchGrid, QueueStats
from lookalike.server.images import DECODER

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """An embedder's name in the registry, and how to open it."""

    embedder: str
    options: EmbedderOptions = field(default_factory=EmbedderOptions)


class LoadedModel:
    """A model and the queue in front of it. Any thread."""

    def __init__(
        self, name: str, embedder: Embedder, *, max_waiting: int, max_bytes: int = MANY_BYTES
    ) -> None:
        self.name = name
        self.dim = embedder.dim
        self.space = f"{embedder.space}+{DECODER}"
        """Fingerprint of all that makes a vector of a file: the model and the decoder."""
        self.numerics = dict(embedder.numerics)
        """How it computes, for people; see `Embedder.numerics`."""
        self.spaces = frozenset(f"{s}+{DECODER}" for s in (embedder.space, *embedder.also))
        """Those whose vectors can be compared with this model's, its own among them."""
        self.device = embedder.device
        self.decode_side = embedder.decode_side
        knows_text = isinstance(embedder, TextEmbedder)
        self.modalities: tuple[str, ...] = ("image", "text") if knows_text else ("image",)
        seer = embedder if isinstance(embedder, PatchEmbedder) else None
        self.knows_patches = seer is not None
        self.patches_know_texts = knows_text and seer is not None and seer.patches_know_texts
        """A text can be found among the patches of a picture."""
        self._embedder = embedder
        self._seer = seer
        self._queue = EmbedQueue(embedder, max_waiting=max_waiting, max_bytes=max_bytes, name=name)

    @property
    def stats(self) -> QueueStats:
        return self._queue.stats

    def fits(self, space: str) -> bool:
        """Say whether vectors of this space can be compared with those of this model."""
        return space in self.spaces

    @property
    def has_enough(self) -> bool:
        """See `EmbedQueue.has_enough`."""
        return self._queue.has_enough

    def prepare(self, image: RgbImage) -> Prepared:
        """Do the work on a picture that needs no model, in the caller's thread."""
        return self._embedder.prepare(image)

    def coming(self) -> AbstractContextManager[None]:
        """Prepare an upload and submit it within; see `EmbedQueue.coming`."""
        return self._queue.coming()

    def submit_image(
        self, prepared: Prepared, *, deadline: float | None, bulk: bool = False
    ) -> Future[Embedded]:
        """Queue a prepared picture; see `EmbedQueue.submit_image`."""
        return self._queue.submit_image(prepared, deadline=deadline, bulk=bulk)

    def submit_text(self, text: str, *, deadline: float | None) -> Future[Embedded]:
        """Queue a text; see `EmbedQueue.submit_text`. Raises ModelLacksModality also."""
        if "text" not in self.modalities:
            raise ModelLacksModality(
                f"The model {self.name!r} embeds pictures only. Ask with a picture, or use a "
                "model that knows text.",
                model=self.name,
            )
        return self._queue.submit_text(text, deadline=deadline)

    def submit_patches(self, prepared: Prepared, *, deadline: float | None) -> Future[PatchGrid]:
        """Queue a prepared picture for its patches; see `EmbedQueue.submit_patches`."""
        assert self.knows_patches
        return self._queue.submit_patches(prepared, deadline=deadline)

    def patch_window(self, height: int, width: int) -> Window:
        """Return the part of a picture of this size, px, that its patches cover."""
        assert self._seer is not None
        return self._seer.patch_window(height, width)

    def close(self) -> None:
        """Close the queue (see `EmbedQueue.close`), then the embedder."""
        self._queue.close()
        self._embedder.close()


class _Slot:
    """One configured model; `lock` is held while it is loaded or closed."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.lock = threading.Lock()
        self.model: LoadedModel | None = None


class Models:
    """All models of a server by name. Any thread.

    A model is loaded by the first call that asks for it, while others that ask for
    it wait; a failed load is tried again by the next call. `max_waiting` bounds
    the queries waiting for each model.
    """

    def __init__(
        self,
        configs: Mapping[str, ModelConfig],
        default: str,
        *,
        max_waiting: int,
        max_bytes: int = MANY_BYTES,
    ) -> None:
        self.default = default
        self._slots = {name: _Slot(config) for name, config in configs.items()}
        self._max_waiting, self._max_bytes = max_waiting, max_bytes
        self._closed = False

    def list(self) -> list[ModelInfo]:
        """Return the default, then the others by name, without loading any."""
        names = sorted(self._slots, key=lambda name: (name != self.default, name))
        return [self._info(name, self._slots[name].model) for name in names]

    def get(self, name: str) -> LoadedModel:
        """Return the model of this name, "" = the default, loaded.

        Raises ModelNotFound, Draining after `close`, and what `Embedder.open`
        raises: ModelInvalid, BackendUnavailable.
        """
        name = name or self.default
        slot = self._slots.get(name)
        if slot is None:
            raise self._unknown(name)
        if (model := slot.model) is not None and not self._closed:
            return model
        with slot.lock:
            if self._closed:
                raise Draining("The server is shutting down. Try again in a while.")
            if slot.model is None:
                slot.model = self._load(name, slot.config)
            return slot.model

    def have_enough(self) -> bool:
        """Whether some model has so many uploads waiting that no more need be prepared."""
        return any(s.model is not None and s.model.has_enough for s in self._slots.values())

    def stats(self) -> dict[str, QueueStats]:
        """Return the queue counters of each loaded model, by name."""
        return {name: s.model.stats for name, s in self._slots.items() if s.model is not None}

    def close(self) -> None:
        """Close queues and embedders; a load under way is waited for. More than once is fine."""
        self._closed = True
        for slot in self._slots.values():
            with slot.lock:
                if slot.model is not None:
                    slot.model.close()
                    slot.model = None

    def _load(self, name: str, config: ModelConfig) -> LoadedModel:
        start = time.monotonic()
        embedder = registry.embedders.resolve(config.embedder).open(config.options)
        model = LoadedModel(
            name, embedder, max_waiting=self._max_waiting, max_bytes=self._max_bytes
        )
        _log.info(
            "model loaded model=%s space=%s device=%s%s dim=%d s=%.1f",
            name,
            model.space,
            model.device,
            "".join(f" {key}={value}" for key, value in model.numerics.items()),
            model.dim,
            time.monotonic() - start,
        )
        return model

    def _info(self, name: str, model: LoadedModel | None) -> ModelInfo:
        is_default = name == self.default
        if model is None:
            return ModelInfo(name, 0, (), "", is_default, loaded=False, device="")
        return ModelInfo(
            name,
            model.dim,
            model.modalities,
            model.space,
            is_default,
            loaded=True,
            device=model.device,
            numerics=model.numerics,
            spaces=model.spaces,
        )

    def _unknown(self, name: str) -> ModelNotFound:
        if not self._slots:
            return ModelNotFound("This server has no model; bring vectors along.", model=name)
        near = difflib.get_close_matches(name, self._slots, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(info.name for info in self.list())
        return ModelNotFound(
            f"There is no model {name!r}.{hint} This server has: {known}.", model=name
        )
