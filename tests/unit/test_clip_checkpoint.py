"""A checkpoint is whole, safe and known by its contents, or it is refused by name."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lookalike.backends import registry
from lookalike.backends.embed.base import Embedder, EmbedderOptions
from lookalike.backends.errors import BackendUnavailable, LookalikeError, ModelInvalid
from tiny_clip import tiny_clip, tiny_dino

pytestmark = pytest.mark.clip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def opened(model: Path | str, device: str = "cpu", **extra: Any) -> Embedder:
    options = EmbedderOptions(model=str(model), device=device, threads=1, extra=extra)
    return registry.embedders.resolve("clip").open(options)


def refusal(model: Path | str, **extra: Any) -> str:
    with pytest.raises(ModelInvalid) as caught:
        opened(model, **extra)
    message = caught.value.message
    if isinstance(model, Path):
        assert str(model.parent) not in message, "a message holds no path"
    return message


def rewrite(folder: Path, change: Any) -> None:
    """Load the weights as numpy arrays, let `change` edit the dict, save them."""
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# ------------------------------------------------------------------ refusals


def test_a_missing_tensor_is_refused_by_its_name(copy: Path) -> None:
    rewrite(copy, lambda tensors: tensors.pop("visual_projection.weight"))
    message = refusal(copy)
    assert "lacks 1 " in message
    assert "visual_projection.weight" in message


def test_many_missing_tensors_are_counted_and_the_first_named(copy: Path) -> None:
    rewrite(copy, lambda t: [t.pop(name) for name in list(t) if name.startswith("text_model")])
    message = refusal(copy)
    assert "text_model.embeddings.position_embedding.weight" in message
    assert message.count("text_model.") == 3


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(copy: Path) -> None:
    def shrink(tensors: Any) -> None:
        tensors["visual_projection.weight"] = tensors["visual_projection.weight"][:8].copy()

    rewrite(copy, shrink)
    message = refusal(copy)
    assert "visual_projection.weight: 8x32, not 16x32" in message


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_cut_off_weights_are_refused(copy: Path, kept: float) -> None:
    path = copy / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept != 0.5 else len(data) / 2)])
    message = refusal(copy)
    assert "damaged or cut-off" in message
    assert "model.safetensors" in message


def test_pickled_weights_are_never_loaded(copy: Path) -> None:
    import torch

    (copy / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, copy / "pytorch_model.bin")
    message = refusal(copy)
    assert "pickle" in message
    assert "save_pretrained" in message, "says how to convert"


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "model.safetensors"),
        ("processor_config.json", "preprocessor_config.json"),
        ("tokenizer.json", "tokenizer"),
    ],
)
def test_a_missing_file_is_named(copy: Path, gone: str, named: str) -> None:
    (copy / gone).unlink()
    assert named in refusal(copy)


def test_a_tokenizer_that_knows_no_word_is_refused(copy: Path) -> None:
    tokens = json.loads((copy / "tokenizer.json").read_text())
    kept = {"<|startoftext|>", "<|endoftext|>"}
    tokens["model"]["vocab"] = {k: v for k, v in tokens["model"]["vocab"].items() if k in kept}
    (copy / "tokenizer.json").write_text(json.dumps(tokens))
    assert "texts" in refusal(copy)


def test_weights_that_are_not_numbers_are_refused(copy: Path) -> None:
    rewrite(copy, lambda tensors: tensors["visual_projection.weight"].fill(float("nan")))
    assert "pictures" in refusal(copy)


def test_preprocessing_to_varying_shapes_is_refused(tmp_path: Path) -> None:
    folder = tiny_dino(tmp_path / "dino")
    edit(folder / "preprocessor_config.json", do_center_crop=False)
    assert "different shapes" in refusal(folder)


def test_code_of_a_checkpoint_is_never_run(copy: Path) -> None:
    (copy / "evil.py").write_text("raise SystemExit('ran')\nclass C: pass\n")
    edit(copy / "config.json", model_type="strange", auto_map={"AutoConfig": "evil.C"})
    assert "cannot be loaded" in refusal(copy)


def test_a_model_that_is_no_image_encoder_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "t5"}))
    assert refusal(copy)


def test_a_missing_shard_is_named(copy: Path) -> None:
    shards(copy, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    assert "model-00002-of-00002.safetensors" in refusal(copy)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", 5])
def test_shards_outside_the_folder_are_refused(copy: Path, name: object) -> None:
    shards(copy, [name])
    assert "model.safetensors.index.json" in refusal(copy)


def test_an_absent_folder_is_told_without_its_path(tmp_path: Path) -> None:
    assert "'nothing'" in refusal(tmp_path / "nothing")


def test_no_model_at_all_is_told_with_an_example() -> None:
    assert "openai/clip-vit-base-patch32" in refusal("")


def test_a_hub_name_without_a_copy_here_says_how_to_fetch_it() -> None:
    message = refusal("no-such-owner/no-such-model", offline=True)
    assert "hf download no-such-owner/no-such-model --local-dir" in message


def test_a_hub_name_loads_from_the_copy_here(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789012345678901234567890123456789"
    kept = tmp_path / "models--some-owner--tiny"
    shutil.copytree(whole, kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    expected = opened(whole).space
    assert opened("some-owner/tiny", offline=True).space == expected
    assert opened("some-owner/tiny", offline=True, revision=commit).space == expected
    assert "some-owner/tiny" in refusal("some-owner/tiny", offline=True, revision="other")


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_a_library_that_a_tokenizer_needs_is_named(copy: Path) -> None:
    edit(copy / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    assert "pip install sentencepiece" in refusal(copy)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"precison": "fp16"}, "Did you mean 'precision'?"),
        ({"precision": "int3"}, "fp32, bf16, fp16"),
        ({"precision": "INT8"}, "Did you mean 'int8'?"),
        ({"runtime": "onnx"}, "auto, torch, openvino"),
        ({"runtime": "open-vino"}, "Did you mean 'openvino'?"),
        ({"streams": 0}, "from 1 to 64"),
        ({"streams": True}, "from 1 to 64"),
        ({"offline": "no"}, "true or false"),
        ({"force_precision": 1}, "true or false"),
        ({"runtime": "torch", "precision": "int8"}, "runtime openvino"),
        ({"runtime": "openvino", "precision": "fp16"}, "Use bf16"),
    ],
)
def test_unknown_settings_are_refused_with_the_known_ones(
    whole: Path, extra: dict[str, object], told: str
) -> None:
    assert told in refusal(whole, **extra)


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:9"])
def test_a_device_that_is_not_there_is_refused(whole: Path, device: str) -> None:
    with pytest.raises(LookalikeError, match="device") as caught:
        opened(whole, device)
    assert isinstance(caught.value, ModelInvalid | BackendUnavailable)


def test_loading_prints_nothing(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened(whole)
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------ fingerprints


def test_the_fingerprint_is_of_the_contents_not_of_the_name(whole: Path, copy: Path) -> None:
    assert opened(whole).space == opened(copy).space


def test_the_fingerprint_knows_weights_preprocessing_words_and_precision(
    whole: Path, copy: Path, tmp_path: Path
) -> None:
    cropped = tiny_clip(tmp_path / "cropped", image_mean=[0.5, 0.5, 0.5])
    retrained = tiny_clip(tmp_path / "retrained", seed=1)
    edit(copy / "tokenizer_config.json", model_max_length=10)
    spaces = [opened(path).space for path in (whole, cropped, retrained, copy)]
    # Forced, bf16 and fp16 would have spaces of their own.
    alone = [opened(whole, runtime="torch", precision=name).also for name in ("bf16", "fp16")]
    spaces += [space for names in alone for space in names - {spaces[0]}]
    assert len(set(spaces)) == 6
    assert all(space.startswith("clip/") for space in spaces)


def test_files_that_change_no_vector_change_no_fingerprint(whole: Path, copy: Path) -> None:
    (copy / "README.md").write_text("hello")
    (copy / "pytorch_model.bin").write_bytes(b"ignored, for model.safetensors is there")
    assert opened(copy).space == opened(whole).space


def test_shards_load_like_one_file(whole: Path, copy: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    where = {}
    for part, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        file = f"model-{part + 1:05}-of-00002.safetensors"
        save_file({n: tensors[n] for n in names}, copy / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(names, file))
    index = {"metadata": {}, "weight_map": where}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    image = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
    one, two = opened(whole).embed_images([image]), opened(copy).embed_images([image])
    assert np.allclose(one, two, atol=1e-6)  # the tensors lie at other addresses


def shards(folder: Path, names: list[Any]) -> None:
    """Turn the single file into the first shard of an index that speaks of `names`."""
    index = {"weight_map": {str(number): name for number, name in enumerate(names)}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
