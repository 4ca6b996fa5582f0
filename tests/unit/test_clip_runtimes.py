"""Runtimes and precisions: what they give, how one is chosen, and which are refused."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from typer.testing import CliRunner

from lookalike.backends import registry
from lookalike.backends.embed import _clip_choice, _clip_openvino, _clip_runtime
from lookalike.backends.embed._clip_choice import PLAIN, Way
from lookalike.backends.embed.base import CheckedEmbedder, EmbedderOptions, TextEmbedder
from lookalike.backends.embed.drawn import drawn
from lookalike.backends.embed.parity import cosines
from lookalike.backends.errors import BackendUnavailable, InvalidArgument, ModelInvalid
from lookalike.backends.types import Vectors
from lookalike.server.__main__ import app
from tiny_clip import tiny_clip, tiny_dino, tiny_siglip

pytestmark = pytest.mark.clip
TEXTS = ["a dog", "x", "seven ships at sea, and a gull"]
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not here")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def opened(model: Path, cache: Path | None = None, **extra: object) -> CheckedEmbedder:
    options = EmbedderOptions(str(model), "cpu", 1, extra, cache=cache)
    embedder = registry.embedders.resolve("clip").open(options)
    assert isinstance(embedder, CheckedEmbedder)
    return embedder


# ------------------------------------------------------------------- OpenVINO


@needs_openvino
@pytest.mark.parametrize("make", [tiny_clip, tiny_siglip, tiny_dino])
def test_openvino_gives_the_vectors_of_torch(make: Any, tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    plain = opened(model, runtime="torch", precision="fp32")
    other = opened(model, runtime="openvino", precision="fp32")
    assert other.numerics == {"runtime": "openvino", "precision": "fp32", "parity": "checked"}
    assert plain.numerics["parity"] == "reference"
    pictures = drawn(9, 64, 80)
    assert cosines(plain.embed_images(pictures), other.embed_images(pictures)).min() >= 0.99999
    assert isinstance(plain, TextEmbedder) == isinstance(other, TextEmbedder)
    if isinstance(plain, TextEmbedder) and isinstance(other, TextEmbedder):
        mine, theirs = other.embed_texts(TEXTS), plain.embed_texts(TEXTS)
        assert cosines(mine.vectors, theirs.vectors).min() >= 0.99999
        assert mine.truncated == theirs.truncated


@needs_openvino
def test_openvino_reports_to_nobody(clip: Path) -> None:
    opened(clip, runtime="openvino", precision="fp32").close()
    assert sys.modules["openvino_telemetry"] is None


@needs_openvino
def test_a_damaged_conversion_is_made_again(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ways = {"runtime": "openvino", "precision": "fp32"}
    pictures = drawn(3, 64, 80)
    first = opened(clip, tmp_path, **ways).embed_images(pictures)
    assert "checkpoint converted" in caplog.text
    caplog.clear()
    assert np.array_equal(opened(clip, tmp_path, **ways).embed_images(pictures), first)
    assert "checkpoint converted" not in caplog.text
    [weights] = tmp_path.glob("openvino-*/image.bin")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 0x40
    weights.write_bytes(data)
    assert np.array_equal(opened(clip, tmp_path, **ways).embed_images(pictures), first)
    assert "damaged" in caplog.text
    assert "checkpoint converted" in caplog.text
    caplog.clear()
    opened(clip, tmp_path, **ways)
    assert "damaged" not in caplog.text


@needs_openvino
def test_patches_are_those_of_torch_whatever_computes_the_vectors(clip: Path) -> None:
    grids = []
    for runtime in ("torch", "openvino"):
        embedder: Any = opened(clip, runtime=runtime, precision="bf16")
        grids.append(embedder.embed_patches([embedder.prepare(p) for p in drawn(2, 64, 64)]))
        embedder.close()
    np.testing.assert_array_equal(*grids)


# ------------------------------------------------------------------ the choice


def test_a_model_that_is_quick_as_it_is_needs_no_choice(clip: Path, tmp_path: Path) -> None:
    embedder = opened(clip, tmp_path)
    assert Way(embedder.numerics["runtime"], embedder.numerics["precision"]) == PLAIN
    assert not list(tmp_path.iterdir())


def test_the_choice_is_measured_once_and_remembered_with_its_figures(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(_clip_choice, "_QUICK_S", 0.0)
    first = opened(clip, tmp_path)
    tried = caplog.text.count("runtime tried")
    assert tried >= 1
    [file] = tmp_path.glob("choice-*.json")
    record = json.loads(file.read_text())["record"]
    assert len(record["figures"]) == tried
    assert {"cpu", "torch", "threads", "openvino"} <= record["machine"].keys()
    fastest = min((f for f in record["figures"] if not f["not_used"]), key=lambda f: f["ms"])
    chosen = (record["runtime"], record["precision"])
    assert (fastest["runtime"], fastest["precision"]) == chosen
    assert (first.numerics["runtime"], first.numerics["precision"]) == chosen
    caplog.clear()
    again = opened(clip, tmp_path)
    assert again.numerics == first.numerics
    assert "runtime tried" not in caplog.text, "it is remembered"
    file.write_text(file.read_text().replace('"runtime": "', '"runtime": "x', 1))
    assert opened(clip, tmp_path).numerics["runtime"] in ("torch", "openvino")
    assert "runtime tried" in caplog.text, "a damaged record is measured again"


def test_what_own_pictures_refuse_is_not_chosen_again(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_clip_choice, "_QUICK_S", 0.0)
    monkeypatch.setattr(_clip_choice, "_has_bf16", lambda: True)
    monkeypatch.setattr(_clip_openvino, "is_installed", lambda: False)
    # bf16 wins by a clock that lets it.
    slow = {"fp32": 0.2, "bf16": 0.1}
    monkeypatch.setattr(
        _clip_choice.Chooser,
        "_timed",
        lambda self, runtime: slow["fp32" if "float32" in str(runtime._dtype) else "bf16"],
    )
    half: Any = opened(clip, tmp_path)
    assert half.numerics["precision"] == "bf16"
    real = half._runtime.images
    half._runtime.images = lambda pixels: np.roll(real(pixels), 1, axis=1)
    assert half.verify(drawn(40, 48, 48)).faults
    assert opened(clip, tmp_path).numerics["precision"] == "fp32"


def test_what_is_below_its_bar_is_not_chosen(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(_clip_choice, "_QUICK_S", 0.0)
    monkeypatch.setattr(_clip_choice, "_has_bf16", lambda: True)
    monkeypatch.setattr(_clip_openvino, "is_installed", lambda: False)
    real = _clip_runtime.TorchRuntime.images

    def spoiled(self: Any, pixels: Any) -> Vectors:
        vectors = real(self, pixels)
        return vectors if "float32" in str(self._dtype) else vectors[:, ::-1].copy()

    monkeypatch.setattr(_clip_runtime.TorchRuntime, "images", spoiled)
    assert opened(clip).numerics["precision"] == "fp32"
    assert "precision=bf16 images_per_s=" in caplog.text
    assert "not used: lowest cosine" in caplog.text
    with pytest.raises(ModelInvalid, match="too far from fp32"):
        opened(clip, runtime="torch", precision="bf16")


def test_without_the_library_openvino_says_what_to_install(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for name, value in (("runtime", "openvino"), ("precision", "int8")):
        options = EmbedderOptions(str(clip), "cpu", 1, {name: value})
        with pytest.raises(BackendUnavailable, match=r"pip install 'lookalike\[openvino\]'"):
            registry.embedders.resolve("clip").open(options)
    assert opened(clip).numerics["runtime"] == "torch"


# --------------------------------------------------------------- the parity gate


def test_what_stood_the_gate_shares_the_space_of_fp32(clip: Path) -> None:
    plain = opened(clip, runtime="torch", precision="fp32")
    half = opened(clip, runtime="torch", precision="bf16")
    assert half.space == plain.space
    assert len(half.also) == 2, "and its own, of collections that were made under force"
    assert plain.also == {plain.space}


def test_a_verdict_on_own_pictures_outweighs_the_check_at_the_start(
    clip: Path, tmp_path: Path
) -> None:
    half = opened(clip, tmp_path, runtime="torch", precision="bf16")
    assert half.numerics["parity"] == "checked"
    healthy: Any = half._runtime  # type: ignore[attr-defined]
    rng = np.random.default_rng(3)
    real = healthy.images
    healthy.images = lambda pixels: real(pixels) + rng.normal(size=(len(pixels), half.dim)) * 0.05
    verdict = half.verify(drawn(40, 48, 48))
    assert verdict.faults

    with pytest.raises(ModelInvalid, match=r"too far from fp32 \(lowest cosine") as refused:
        opened(clip, tmp_path, runtime="torch", precision="bf16")
    assert "force_precision" in refused.value.message
    forced = opened(clip, tmp_path, runtime="torch", precision="bf16", force_precision=True)
    assert forced.numerics["parity"] == "forced"
    assert forced.space not in opened(clip, runtime="torch", precision="fp32").also, "never mixed"
    assert forced.also == {forced.space}

    assert not forced.verify(drawn(40, 48, 48)).faults
    again = opened(clip, tmp_path, runtime="torch", precision="bf16")
    assert again.numerics["parity"] == "verified"
    assert forced.space in again.also, "what was made under force can still be searched"
    assert again.space == opened(clip, runtime="torch", precision="fp32").space


def test_few_pictures_give_no_verdict(clip: Path) -> None:
    with pytest.raises(InvalidArgument, match="Too few"):
        opened(clip, runtime="torch", precision="fp32").verify(drawn(31, 32, 32))


def test_int8_is_refused_until_it_was_verified(clip: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    with pytest.raises(ModelInvalid, match="never compared"):
        opened(clip, tmp_path, precision="int8")
    forced = opened(clip, tmp_path, precision="int8", force_precision=True)
    plain = opened(clip, runtime="torch", precision="fp32")
    assert forced.space not in plain.also
    verdict = forced.verify(drawn(48, 64, 64))
    print(verdict)
    if verdict.faults:
        with pytest.raises(ModelInvalid, match="too far"):
            opened(clip, tmp_path, precision="int8")
    else:
        again = opened(clip, tmp_path, precision="int8")
        assert again.numerics["parity"] == "verified"
        assert again.space == forced.space != plain.space


# ------------------------------------------------------------------ the command


@pytest.fixture
def settings(clip: Path, tmp_path: Path) -> Path:
    file = tmp_path / "lookalike.toml"
    file.write_text(
        f'[data]\npath = "{tmp_path / "data"}"\n[models.tiny]\nembedder = "clip"\n'
        f'model = "{clip}"\ndevice = "cpu"\nthreads = 1\nruntime = "torch"\nprecision = "bf16"\n'
    )
    return file


def test_the_command_compares_on_photographs_and_keeps_what_it_found(
    settings: Path, tmp_path: Path
) -> None:
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    for number, picture in enumerate(drawn(33, 64, 80)):
        Image.fromarray(picture).save(photos / f"{number}.jpg")
    (photos / "broken.jpg").write_bytes(b"not a picture")
    command = ["model", "verify", "--config", str(settings), "--photos", str(photos)]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["pictures"], found["passed"], found["own_pictures"]) == (33, True, True)
    assert (found["model"], found["runtime"], found["precision"]) == ("tiny", "torch", "bf16")
    assert 0.9999 < found["raw_min"] < 1
    assert list((tmp_path / "data" / "models").glob("verdict-*.json"))
    table = CliRunner().invoke(app, command)
    assert "passed" in table.stdout
    assert "same 10 nearest" in table.stdout


def test_the_command_fails_below_the_bar(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lookalike.backends.embed import parity

    strict = {**parity.BARS, "bf16": replace(parity.BARS["bf16"], raw_min=1.0)}
    monkeypatch.setattr(parity, "BARS", strict)
    done = CliRunner().invoke(app, ["model", "verify", "--config", str(settings)])
    assert done.exit_code == 1, done.output
    assert "refused" in done.stdout
    assert "below its bar: lowest cosine" in done.stdout


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--model", "tinny"], "no model 'tinny'"),
        (["--model", "builtin"], "one way only"),
        (["--photos", "/nowhere"], "no pictures"),
    ],
)
def test_the_command_says_what_it_cannot_do(args: list[str], told: str, settings: Path) -> None:
    done = CliRunner().invoke(app, ["model", "verify", "--config", str(settings), *args])
    assert done.exit_code == 2
    assert told in done.output
