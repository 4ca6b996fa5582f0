"""Vectors of CLIP, SigLIP and DINOv2 are those of transformers' own full path."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from lookalike.backends import registry
from lookalike.backends.embed.base import Embedder, EmbedderOptions, TextEmbedder
from lookalike.backends.types import RgbImage
from tiny_clip import CONTEXT, SIDE, SIGLIP_CONTEXT, tiny_clip, tiny_dino, tiny_siglip

pytestmark = pytest.mark.clip

KINDS: dict[str, Callable[[Path], Path]] = {
    "clip": tiny_clip,
    "siglip": tiny_siglip,
    "dino": tiny_dino,
}
TEXTS = ["a", "", "two dogs", "a photo of seven ships at sea", "Größe 😀 \x00", "long " * 100]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in KINDS.items()}


@pytest.fixture(scope="module")
def embedders(folders: dict[str, Path]) -> dict[str, Embedder]:
    return {name: opened(folder) for name, folder in folders.items()}


def opened(folder: Path, **extra: object) -> Embedder:
    options = EmbedderOptions(model=str(folder), device="cpu", threads=1, extra=extra)
    return registry.embedders.resolve("clip").open(options)


def texty(embedder: Embedder) -> TextEmbedder:
    assert isinstance(embedder, TextEmbedder)
    return embedder


def pictures(count: int, seed: int = 1) -> list[RgbImage]:
    """Make smooth pictures of many shapes, among them the odd ones."""
    print("seed", seed)
    random = np.random.default_rng(seed)
    shapes = [(40, 60), (60, 40), (SIDE, SIDE), (300, 200), (1, 1), (3, 50), (50, 3), (5, 60)]
    shapes += [(int(h), int(w)) for h, w in random.integers(1, 400, (count, 2))]
    images = []
    for height, width in shapes[:count]:
        small = random.integers(0, 256, (-(-height // 8), -(-width // 8), 3))
        images.append(np.kron(small, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8))
    return images


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    return np.asarray(np.sum(a64 * b64, axis=1) / norms)


def spread(vectors: NDArray[np.float32]) -> float:
    """Return the mean cosine of neighbours: how far apart different inputs are."""
    return float(cosines(vectors[1:], vectors[:-1]).mean())


def theirs(folder: Path, name: str, images: list[RgbImage]) -> NDArray[np.float32]:
    """Embed pictures one by one the way transformers' documentation does."""
    from PIL import Image

    classes = {
        "clip": ("CLIPModel", "CLIPImageProcessorPil"),
        "siglip": ("SiglipModel", "SiglipImageProcessorPil"),
        "dino": ("Dinov2Model", "BitImageProcessorPil"),
    }
    model_class, processor_class = classes[name]
    model = getattr(transformers, model_class).from_pretrained(folder).eval()
    processor = getattr(transformers, processor_class).from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for image in images:
            inputs = processor(images=Image.fromarray(image), return_tensors="pt")
            call = getattr(model, "get_image_features", model)
            rows.append(pooled(call(**inputs)))
    return np.concatenate(rows)


def pooled(output: Any) -> NDArray[np.float32]:
    tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return np.asarray(tensor.numpy(), np.float32)


@pytest.mark.parametrize("name", KINDS)
def test_pictures_get_the_vectors_of_transformers_own_path(
    name: str, folders: dict[str, Path], embedders: dict[str, Embedder]
) -> None:
    images = pictures(24)
    ours, expected = embedders[name].embed_images(images), theirs(folders[name], name, images)
    assert ours.dtype == np.float32
    assert ours.shape == (24, embedders[name].dim)
    assert spread(expected) < 0.995, "else the next line would prove nothing"
    assert cosines(ours, expected).min() >= 0.99999


def test_clip_texts_get_the_vectors_of_transformers_own_path(
    folders: dict[str, Path], embedders: dict[str, Embedder]
) -> None:
    model = transformers.CLIPModel.from_pretrained(folders["clip"]).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folders["clip"])
    with torch.no_grad():
        one_by_one = [tokenizer([t], truncation=True, return_tensors="pt") for t in TEXTS]
        expected = np.concatenate([pooled(model.get_text_features(**t)) for t in one_by_one])
    ours = texty(embedders["clip"]).embed_texts(TEXTS).vectors
    assert spread(expected) < 0.9
    assert cosines(ours, expected).min() >= 0.99999


def test_siglip_texts_are_padded_to_the_full_length(
    folders: dict[str, Path], embedders: dict[str, Embedder]
) -> None:
    model = transformers.SiglipModel.from_pretrained(folders["siglip"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["siglip"])

    def embed(**padding: Any) -> NDArray[np.float32]:
        tokens = tokenizer(TEXTS[2:3], truncation=True, return_tensors="pt", **padding)
        with torch.no_grad():
            return pooled(model.get_text_features(**tokens))

    right = embed(padding="max_length", max_length=SIGLIP_CONTEXT)
    ours = texty(embedders["siglip"]).embed_texts(TEXTS[2:3]).vectors
    assert cosines(right, embed()).min() < 0.999, "else padding would not matter"
    assert cosines(ours, right).min() >= 0.99999


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_alone_gets_the_vector_it_gets_in_a_batch(
    name: str, embedders: dict[str, Embedder]
) -> None:
    embedder, images = embedders[name], pictures(32, seed=2)
    alone = np.concatenate([embedder.embed_images([image]) for image in images])
    assert cosines(embedder.embed_images(images), alone).min() >= 0.99999


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_text_alone_gets_the_vector_it_gets_in_a_batch(
    name: str, embedders: dict[str, Embedder]
) -> None:
    embedder = texty(embedders[name])
    alone = np.concatenate([embedder.embed_texts([text]).vectors for text in TEXTS])
    assert cosines(embedder.embed_texts(TEXTS).vectors, alone).min() >= 0.99999


@pytest.mark.parametrize(("name", "context"), [("clip", CONTEXT), ("siglip", SIGLIP_CONTEXT)])
def test_a_text_longer_than_the_model_reads_is_flagged(
    name: str, context: int, embedders: dict[str, Embedder]
) -> None:
    fits = "a" * (context - 2)  # a token for each letter, and the two marks
    found = texty(embedders[name]).embed_texts([fits, fits + "b", fits + "bcdef", "x"])
    assert found.truncated == [False, True, True, False]
    assert np.isfinite(found.vectors).all()


def test_eight_threads_prepare_what_one_prepares(embedders: dict[str, Embedder]) -> None:
    images = pictures(64, seed=3)
    for embedder in embedders.values():
        alone = [embedder.prepare(image) for image in images]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(embedder.prepare, images))
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
        assert {p.shape for p in alone} == {(3, SIDE, SIDE)}


def test_only_models_with_text_are_text_embedders(embedders: dict[str, Embedder]) -> None:
    known = {name: isinstance(embedder, TextEmbedder) for name, embedder in embedders.items()}
    assert known == {"clip": True, "siglip": True, "dino": False}
    base = registry.embedders.resolve("clip")
    assert all(isinstance(embedder, base) for embedder in embedders.values())


def test_dimension_and_decode_side_come_from_the_checkpoint(
    embedders: dict[str, Embedder], tmp_path: Path
) -> None:
    assert {n: e.dim for n, e in embedders.items()} == {"clip": 16, "siglip": 32, "dino": 32}
    assert {e.decode_side for e in embedders.values()} == {2 * SIDE}
    unresized = tiny_clip(tmp_path / "unresized", do_resize=False)
    assert opened(unresized).decode_side == 0, "a picture that is not resized must not shrink"


def test_a_picture_shrunk_to_the_decode_side_keeps_its_vector(
    embedders: dict[str, Embedder],
) -> None:
    from PIL import Image

    for embedder in embedders.values():
        random = np.random.default_rng(5)
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        large = coarse.resize((640, 480), Image.Resampling.BICUBIC)
        side = embedder.decode_side
        small = large.resize((side * 4 // 3, side), Image.Resampling.BOX)
        vectors = embedder.embed_images([np.asarray(large), np.asarray(small)])
        assert cosines(vectors[:1], vectors[1:]).min() > 0.999


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (20, 9_000)])
def test_a_very_long_picture_costs_little_memory(
    shape: tuple[int, int], embedders: dict[str, Embedder]
) -> None:
    import tracemalloc

    image = np.full((*shape, 3), 77, np.uint8)
    tracemalloc.start()
    try:
        prepared = embedders["clip"].prepare(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert prepared.shape == (3, SIDE, SIDE)
    assert peak < 4 * 2**20, "whole, it would be resized to 32 x 1920000 pixels"


def test_a_long_picture_is_cut_where_the_centre_crop_cuts_it(
    folders: dict[str, Path], embedders: dict[str, Embedder]
) -> None:
    ramp = np.linspace(0, 255, 4000).astype(np.uint8)
    images = [np.repeat(np.tile(ramp, (40, 1))[:, :, None], 3, axis=2)]
    images.append(np.ascontiguousarray(images[0].transpose(1, 0, 2)))
    ours = embedders["clip"].embed_images(images)
    assert cosines(ours, theirs(folders["clip"], "clip", images)).min() > 0.9999


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.99), ("fp16", 0.999)])
def test_half_precision_stays_close(
    precision: str, least: float, folders: dict[str, Path], embedders: dict[str, Embedder]
) -> None:
    half = texty(opened(folders["clip"], precision=precision))
    images = pictures(8)
    found = half.embed_images(images)
    whole = texty(embedders["clip"])
    assert found.dtype == np.float32
    assert cosines(found, whole.embed_images(images)).min() > least
    texts = half.embed_texts(TEXTS).vectors
    assert cosines(texts, whole.embed_texts(TEXTS).vectors).min() > least


def test_the_old_layout_of_the_hub_loads_the_same(
    folders: dict[str, Path], embedders: dict[str, Embedder], tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for name in ("config.json", "model.safetensors"):
        (old / name).write_bytes((folders["clip"] / name).read_bytes())
    processor = json.loads((folders["clip"] / "processor_config.json").read_text())
    shape = processor["image_processor"]
    kept = {k: shape[k] for k in ("do_resize", "do_center_crop", "image_mean", "image_std")}
    old_style = {"feature_extractor_type": "CLIPFeatureExtractor", "size": SIDE, "crop_size": SIDE}
    preprocessor = {**kept, **old_style, "do_normalize": True, "resample": 3}
    (old / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    tokens = json.loads((folders["clip"] / "tokenizer.json").read_text())
    (old / "vocab.json").write_text(json.dumps(tokens["model"]["vocab"]))
    (old / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT}
    (old / "tokenizer_config.json").write_text(json.dumps(config))
    loaded, images = texty(opened(old)), pictures(6)
    whole = texty(embedders["clip"])
    assert np.array_equal(loaded.embed_images(images), whole.embed_images(images))
    mine, its = loaded.embed_texts(TEXTS), whole.embed_texts(TEXTS)
    assert np.array_equal(mine.vectors, its.vectors)


def test_nothing_in_gives_nothing_out(embedders: dict[str, Embedder]) -> None:
    assert embedders["dino"].embed_prepared([]).shape == (0, 32)
    found = texty(embedders["clip"]).embed_texts([])
    assert (found.vectors.shape, found.truncated) == ((0, 16), [])


def test_the_thread_that_computes_gets_the_thread_count(folders: dict[str, Path]) -> None:
    before = torch.get_num_threads()
    options = EmbedderOptions(model=str(folders["dino"]), device="cpu", threads=3)
    embedder = registry.embedders.resolve("clip").open(options)
    assert torch.get_num_threads() == before, "the thread that loads keeps its own"
    seen = []

    def compute() -> None:
        embedder.embed_images(pictures(1))
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert seen == [3]


def test_loading_leaves_no_thread_behind(folders: dict[str, Path]) -> None:
    before = set(threading.enumerate())
    opened(folders["clip"]).close()
    assert set(threading.enumerate()) <= before
