"""A model whose weights, size and preparation a test chooses: as a plug-in and in process."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from lookalike.backends.embed.base import EmbedderOptions
from lookalike.backends.testing.fakes import FakeEmbedder
from lookalike.backends.types import Prepared, Vectors, normalize

SPACE, DELAY, LOG = "CHANGING_SPACE", "CHANGING_DELAY_S", "CHANGING_LOG"
WIDE = "wide"
"""In the name of a space: vectors have 24 numbers instead of 16."""


class ChangingEmbedder(FakeEmbedder):
    """Equal pictures get equal vectors in one space, and unrelated ones in two."""

    def __init__(self, space: str, delay_s: float = 0.0, log: str = "") -> None:
        super().__init__()
        self.space = f"changing/{space}"
        self.dim = 24 if WIDE in space else 16
        self.delay_s = delay_s
        self._salt = sum(space.encode())
        self._log = log

    @classmethod
    def open(cls, options: EmbedderOptions) -> Self:
        return cls(os.environ[SPACE], float(os.environ.get(DELAY, "0")), os.environ.get(LOG, ""))

    def embed_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        self.batches.append(len(batch))
        time.sleep(self.delay_s * len(batch))
        if self._log:
            with Path(self._log).open("a") as file:
                file.write(f"{len(batch)}\n")
        seeds = [int.from_bytes(prepared.tobytes()[:6], "big") for prepared in batch]
        rows = [
            np.random.default_rng([self._salt, seed]).standard_normal(self.dim) for seed in seeds
        ]
        return normalize(np.asarray(rows, np.float32))


def as_plugin(folder: Path) -> dict[str, str]:
    """Make a folder from which a process has the embedder "changing"; return its environment."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "changing_plugin.py").write_text(Path(__file__).read_text())
    about = folder / "changing_plugin-1.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: changing-plugin\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        "[lookalike.embedders]\nchanging = changing_plugin:ChangingEmbedder\n"
    )
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    return {"PYTHONPATH": os.pathsep.join(path)}


def environment(space: str, delay_s: float = 0.0, log: Path | None = None) -> dict[str, Any]:
    """Return what the process must have in its environment for a space."""
    return {SPACE: space, DELAY: str(delay_s), LOG: str(log or "")}
