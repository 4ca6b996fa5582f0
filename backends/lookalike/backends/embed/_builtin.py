"""The built-in embedder: a small network of our own beside classic descriptors."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, Self

import numpy as np
import onnxruntime

from lookalike.backends.embed._form import SIDE, Form, constants
from lookalike.backends.embed._frame import without_margins
from lookalike.backends.embed._resize import squeeze
from lookalike.backends.embed.base import Embedder, EmbedderOptions
from lookalike.backends.errors import ModelInvalid
from lookalike.backends.types import Prepared, RgbImage, Vectors

_FILE: Final = "builtin.onnx"
"""What `python -m training join` makes: network, projection of the form, and how they join."""
_METHOD: Final = 2
"""Raised when a picture is prepared in another way."""


class BuiltinEmbedder(Embedder):
    """Finds pictures that show the same kind of thing, and pictures that look alike.

    `prepare` takes plain margins off, makes the picture a small square, which the network
    sees, and describes the form of it (see `Form`); all of it numpy. `embed_prepared` runs one ONNX
    graph: the network's 256 numbers of length 1 and 128 projected from the form, of length
    1, weighted and joined to a whole of length 1.
    """

    device = "cpu"
    decode_side = 2 * SIDE  # less, and a turned photograph of odd size drops below cosine 0.999
    max_batch = 32

    def __init__(self, threads: int = 0) -> None:
        """`threads` of the network; 0: one.

        A second one saves no time beside other work (1.37 ms a picture with two, 1.34 with one,
        on two cores of a Zen 4) and takes half as much again of the processor (2.1 ms, 1.3).
        """
        data = files(__package__).joinpath(_FILE).read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait for work by spinning take it from those that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"]
        )
        self.dim = int(self._session.get_outputs()[0].shape[1])
        digest = hashlib.sha256(data + constants().encode()).hexdigest()
        self.space = f"builtin/{_METHOD}-{digest[:12]}"
        self._form = Form()
        # One picture at a time: the steps of `prepare` are so small that threads which took them
        # side by side mostly waited for the interpreter's lock (twice the context switches a
        # picture, and 10 % more processor time, in an upload on two cores).
        self._turn = threading.Lock()
        self._kind = np.dtype(
            [("image", np.uint8, (SIDE, SIDE, 3)), ("form", np.float32, (Form.dim,))]
        )

    @classmethod
    def open(cls, options: EmbedderOptions) -> Self:
        """Load the network; takes a tenth of a second. Raises ModelInvalid for foreign settings."""
        if options.device not in ("auto", "cpu"):
            raise ModelInvalid(
                "The built-in embedder runs on the CPU only. Set its device to auto or cpu.",
                device=options.device,
            )
        if options.extra:
            raise ModelInvalid(
                "The built-in embedder has no settings of its own; take out: "
                f"{', '.join(sorted(options.extra))}."
            )
        return cls(options.threads)

    def prepare(self, image: RgbImage) -> Prepared:
        """Return the square (uint8) and the form (float32) as one record. Any thread."""
        with self._turn:
            square = squeeze(np.ascontiguousarray(without_margins(image)), SIDE)
            seen = np.rint(square).astype(np.uint8).transpose(1, 2, 0)
            prepared: Prepared = np.array((seen, self._form(square)), self._kind)
        return prepared

    def embed_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        """Return (n, 384) float32 of length 1. Any thread."""
        stacked: Any = np.stack(batch)
        fed = {name: np.ascontiguousarray(stacked[name]) for name in ("image", "form")}
        (vectors,) = self._session.run(None, fed)
        return np.asarray(vectors, np.float32)
