"""Patches of checkpoints: what they are made of, and which part of a picture they cover."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from lookalike.backends import registry
from lookalike.backends.embed.base import Embedder, EmbedderOptions, PatchEmbedder
from made_pictures import scene
from tiny_clip import SIDE, tiny_clip, tiny_dino, tiny_siglip

pytestmark = pytest.mark.clip

PICTURES = [scene(seed, 60, 40) for seed in range(3)]


def opened(folder: Path) -> Embedder:
    options = EmbedderOptions(model=str(folder), device="cpu", threads=1)
    return registry.embedders.resolve("clip").open(options)


def seer(folder: Path) -> PatchEmbedder:
    embedder = opened(folder)
    assert isinstance(embedder, PatchEmbedder)
    return embedder


def patches(embedder: PatchEmbedder) -> NDArray[np.float32]:
    return embedder.embed_patches([embedder.prepare(picture) for picture in PICTURES])


def pixels(embedder: Embedder) -> Any:
    return torch.from_numpy(np.stack([embedder.prepare(picture) for picture in PICTURES]))


def unit(tokens: Any, rows: int = SIDE // 8) -> NDArray[np.float32]:
    made = tokens.detach().numpy()
    made = made / np.linalg.norm(made, axis=-1, keepdims=True)
    return np.asarray(made.reshape(len(made), rows, rows, -1), np.float32)


def test_patches_of_clip_attend_to_themselves_and_lie_where_texts_do(tmp_path: Path) -> None:
    embedder = seer(tiny_clip(tmp_path))
    model = transformers.CLIPModel.from_pretrained(tmp_path).eval()

    def alone(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        return module.out_proj(module.v_proj(kwargs["hidden_states"])), None

    hook = model.vision_model.encoder.layers[-1].self_attn
    with torch.no_grad():
        usual = model.vision_model(pixels(embedder)).last_hidden_state
        hook.register_forward_hook(alone, with_kwargs=True)
        tokens = model.vision_model(pixels(embedder)).last_hidden_state
        expected = model.visual_projection(model.vision_model.post_layernorm(tokens))
    made = patches(embedder)
    np.testing.assert_allclose(made, unit(expected[:, 1:]), atol=1e-5)
    assert not np.allclose(usual, tokens, atol=1e-3), "else the claim would say nothing"
    assert made.shape == (3, 4, 4, embedder.dim)
    assert embedder.patches_know_texts


@pytest.mark.parametrize(
    ("make", "kind", "extra"), [(tiny_siglip, "SiglipModel", 0), (tiny_dino, "Dinov2Model", 1)]
)
def test_patches_of_others_are_the_last_hidden_states(
    make: Callable[[Path], Path], kind: str, extra: int, tmp_path: Path
) -> None:
    embedder = seer(make(tmp_path))
    model = getattr(transformers, kind).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        tokens = getattr(model, "vision_model", model)(pixels(embedder)).last_hidden_state
    np.testing.assert_allclose(patches(embedder), unit(tokens[:, extra:]), atol=1e-5)
    assert not embedder.patches_know_texts


def test_registers_are_no_patches(tmp_path: Path) -> None:
    tiny_dino(tmp_path)
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8
    )
    torch.manual_seed(1)
    transformers.Dinov2WithRegistersModel(config).save_pretrained(tmp_path)
    embedder = seer(tmp_path)
    model = transformers.Dinov2WithRegistersModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        tokens = model(pixels(embedder)).last_hidden_state
    assert tokens.shape[1] == 1 + 4 + 16
    np.testing.assert_allclose(patches(embedder), unit(tokens[:, 5:]), atol=1e-5)


def test_a_network_without_patches_embeds_all_the_same(tmp_path: Path) -> None:
    tiny_dino(tmp_path)
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1])
    torch.manual_seed(1)
    transformers.ConvNextModel(config).save_pretrained(tmp_path)
    embedder = opened(tmp_path)
    assert not isinstance(embedder, PatchEmbedder)
    assert embedder.embed_images(PICTURES).shape == (3, 32)


@pytest.mark.parametrize(
    "preprocessing",
    [
        {"size": {"shortest_edge": SIDE // 2}},  # the crop is filled up with black
        {"do_resize": False},
        {"size": {"height": 2 * SIDE, "width": 2 * SIDE}},
    ],
)
def test_patches_whose_places_are_not_known_are_not_offered(
    preprocessing: dict[str, Any], tmp_path: Path
) -> None:
    embedder = opened(tiny_clip(tmp_path, **preprocessing))
    assert not isinstance(embedder, PatchEmbedder)
    assert embedder.embed_images(PICTURES).shape == (3, 16)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (64, 64, (0, 0, 1, 1)),
        (64, 128, (0.25, 0, 0.5, 1)),
        (300, 100, (0, 1 / 3, 1, 1 / 3)),
        (10, 1000, (0.495, 0, 0.01, 1)),  # its far ends are cut off before
    ],
)
def test_a_centre_crop_covers_the_middle_square(
    height: int, width: int, expected: tuple[float, ...], tmp_path: Path
) -> None:
    window = seer(tiny_clip(tmp_path)).patch_window(height, width)
    np.testing.assert_allclose(window, expected, atol=0.01 * max(expected[2:]))


def test_a_crop_of_less_than_the_shorter_side_covers_less(tmp_path: Path) -> None:
    tiny_dino(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "size": {"shortest_edge": 40}}))
    window = seer(tmp_path).patch_window(100, 200)
    np.testing.assert_allclose(window, (0.3, 0.1, 0.4, 0.8), atol=1e-9)


def test_squashed_pictures_are_covered_whole(tmp_path: Path) -> None:
    assert seer(tiny_siglip(tmp_path)).patch_window(31, 400) == (0, 0, 1, 1)
