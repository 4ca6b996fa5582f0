from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike.client.local_server import LocalServer
from made_pictures import encoded, jpeg, scene

CONFIG = """
[models]
default = "builtin"

[models.clip]
embedder = "fake-for-docs"
"""

EMBEDDER = """
import numpy as np

from lookalike.backends.embed.base import PatchEmbedder, Window
from lookalike.backends.testing.fakes import FakeEmbedder


class FakeForDocs(FakeEmbedder, PatchEmbedder):
    patches_know_texts = True

    def embed_patches(self, batch):
        grids = [np.random.default_rng(seed.tolist()).normal(size=(4, 4, self.dim)) for seed in batch]
        grids = np.stack(grids)
        return (grids / np.linalg.norm(grids, axis=-1, keepdims=True)).astype(np.float32)

    def patch_window(self, height, width):
        return Window(0.0, 0.0, 1.0, 1.0)
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server; its model "clip", which the pages use for texts, is a fake with patches."""
    folder = tmp_path_factory.mktemp("docs-server")
    plugin = folder / "plugin" / "fake_for_docs-1.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-for-docs\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text(
        "[lookalike.embedders]\nfake-for-docs = fake_for_docs:FakeForDocs\n"
    )
    (plugin.parent / "fake_for_docs.py").write_text(EMBEDDER)
    (folder / "lookalike.toml").write_text(CONFIG)
    paths = [str(plugin.parent), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        started = LocalServer(folder / "data", "--config", str(folder / "lookalike.toml"))
        started.start()
    try:
        yield started.address
    finally:
        started.stop()


@pytest.fixture
def reader(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put the test where a reader of the pages is: beside photos/, with a server. Its address."""
    photos = tmp_path / "photos"
    for name, seed in {"one": 1, "two": 2, "cats/cat-1": 3, "cats/cat-2": 4}.items():
        path = photos / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed))
    (tmp_path / "new-photos").mkdir()
    (tmp_path / "new-photos" / "new.jpg").write_bytes(jpeg(5))
    (tmp_path / "new-photos" / "broken.jpg").write_bytes(jpeg(5)[:500])
    (tmp_path / "large.png").write_bytes(encoded(scene(9, 500, 400), "PNG", compress_level=0))
    for name, seed in {"cat": 6, "shoe": 7, "boot": 8}.items():
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(seed))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOKALIKE_ADDRESS", server)
    return server
