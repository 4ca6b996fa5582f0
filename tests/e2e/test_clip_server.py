"""A server with a checkpoint gives the vectors that transformers itself gives."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lookalike.client import Client
from lookalike.client.local_server import LocalServer
from made_pictures import encoded, scene

pytestmark = pytest.mark.clip


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    b = b / np.linalg.norm(b, axis=1, keepdims=True)
    return np.asarray((a * b).sum(1))


def test_pictures_and_texts_equal_transformers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'lookalike[clip]'")
    transformers = pytest.importorskip("transformers", reason="pip install 'lookalike[clip]'")
    from PIL import Image

    from tiny_clip import tiny_clip

    model = tiny_clip(tmp_path / "tiny")
    # small enough that the decoder shrinks nothing: the pixels are the same on both sides
    pictures = [encoded(scene(i, 48, 40), "PNG") for i in range(32)]
    texts = ["a red shoe", "a cat", "two boats on a lake at dawn"]
    with LocalServer(tmp_path / "data", "--embedder", "clip", "--model", str(model)) as server:
        with Client(server.address) as client:
            together = client.embed(images=pictures).vectors
            alone = np.concatenate([client.embed(images=[p]).vectors for p in pictures])
            said = client.embed(texts=texts).vectors
    processor = transformers.AutoProcessor.from_pretrained(model, backend="pil")
    clip = transformers.CLIPModel.from_pretrained(model).eval()
    with torch.inference_mode():
        seen = processor(
            images=[Image.open(io.BytesIO(p)).convert("RGB") for p in pictures],
            return_tensors="pt",
        )
        image_features = clip.get_image_features(**seen)
        read = processor(text=texts, return_tensors="pt", padding=True)
        text_features = clip.get_text_features(**read)
    for features, ours in ((image_features, together), (text_features, said)):
        tensor = features if isinstance(features, torch.Tensor) else features.pooler_output
        assert cosine(np.asarray(tensor), ours).min() >= 0.9999
    assert cosine(together, alone).min() >= 0.99999


def test_a_checkpoint_without_one_tensor_is_refused_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="pip install 'lookalike[clip]'")
    from safetensors.numpy import load_file, save_file

    from tiny_clip import tiny_clip

    model = tiny_clip(tmp_path / "tiny")
    weights = model / "model.safetensors"
    tensors = load_file(weights)
    del tensors["visual_projection.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    done = subprocess.run(
        [
            sys.executable, "-m", "lookalike.server", "serve", "--embedder", "clip",
            "--model", str(model), "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0",
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "visual_projection.weight" in done.stderr
    assert "Traceback" not in done.stderr
