"""Finds a checkpoint on disk or on the hub, judges its files, and fingerprints them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from lookalike.backends.errors import ModelInvalid

_SINGLE = "model.safetensors"
_SHARDS = "model.safetensors.index.json"
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
_VOCABULARY = (
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
)
_PAIR = {"vocab.json", "merges.txt"}
"""Are a vocabulary together."""
_SETTINGS = (
    "added_tokens.json",
    "config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    *_PAIR,
    *_PREPROCESSING,
    *_VOCABULARY,
)
"""Every file beside the weights that changes a vector."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose weights are whole safetensors files."""

    folder: Path
    name: str
    """For messages: the hub name, or the folder's last part; never a path."""
    weights: tuple[Path, ...]

    @classmethod
    def find(cls, model: str, *, offline: bool = False, revision: str | None = None) -> Self:
        """Take the folder `model`, or fetch the hub's files of that name, and check them.

        Raises ModelInvalid where there is none, where weights are missing, cut
        short or pickled. Nothing is unpickled and no code of a checkpoint is run.
        """
        if not model:
            raise ModelInvalid(
                "This embedder needs a checkpoint. Set its model to a folder, or to a name of "
                "the hub such as openai/clip-vit-base-patch32."
            )
        path = Path(model)
        if path.is_dir():
            folder, name = path, path.resolve().name
        elif _HUB_NAME.fullmatch(model):
            folder, name = _fetch(model, offline, revision), model
        else:
            raise ModelInvalid(
                f"There is no model folder {path.name!r}. Check the path; the folder must be "
                "readable by the server.",
                model=path.name,
            )
        if not (folder / "config.json").is_file():
            _refuse(name, "has no config.json", "Copy the checkpoint's folder as a whole.")
        return cls(folder, name, _whole_weights(folder, name))

    @property
    def has_vocabulary(self) -> bool:
        """Whether a tokenizer can be read; without one, transformers would make an empty one."""
        found = {name for name in _SETTINGS if (self.folder / name).is_file()}
        return not found.isdisjoint(_VOCABULARY) or found >= _PAIR

    @property
    def has_preprocessing(self) -> bool:
        return any((self.folder / name).is_file() for name in _PREPROCESSING)

    def contents(self) -> Contents:
        """Read every file that changes a vector. Raises OSError."""
        settings = [p for name in sorted(_SETTINGS) if (p := self.folder / name).is_file()]
        lines = []
        for path in [*settings, *self.weights]:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{path.name} {digest}\n")
        return Contents("".join(lines))


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint's files hold, whatever its name."""

    lines: str
    """Name and SHA-256 of each file."""

    def fingerprint(self, *facts: str) -> str:
        """Return 16 hex digits of SHA-256 over weights, settings and `facts`."""
        total = hashlib.sha256(json.dumps(facts).encode())
        total.update(self.lines.encode())
        return total.hexdigest()[:16]


def refuse_incomplete(
    name: str, missing: Iterable[str], mismatched: Iterable[tuple[object, ...]]
) -> None:
    """Raise ModelInvalid, naming the first tensors, unless both are empty.

    transformers fills such tensors with random numbers and only logs it.
    `mismatched` holds (tensor, shape in the file, shape in the model).
    """
    missing = sorted(missing)
    if missing:
        _refuse(
            name,
            f"lacks {len(missing)} of the model's tensors ({_first(missing)})",
            "Its weights and its config.json do not belong together, or the weights are of "
            "another kind of model. Download the checkpoint again, as a whole.",
        )
    wrong = sorted(
        f"{tensor}: {_sides(file)}, not {_sides(model)}" for tensor, file, model in mismatched
    )
    if wrong:
        _refuse(
            name,
            f"has {len(wrong)} tensors of another shape than its config.json says "
            f"({_first(wrong)})",
            "Use the config.json that was saved with these weights.",
        )


def _fetch(model: str, offline: bool, revision: str | None) -> Path:
    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                local_files_only=offline,
                allow_patterns=[*_SETTINGS, _SINGLE, _SHARDS, "model-*.safetensors"],
            )
        )
    except (OSError, ValueError) as error:
        where = "not on this machine" if offline else "not a folder here, and could not be fetched"
        raise ModelInvalid(
            f"The model {model!r} is {where}. Check the name, or fetch it beforehand where there "
            f"is a connection: hf download {model} --local-dir my-model; then set the model to "
            "that folder.",
            model=model,
        ) from error


def _whole_weights(folder: Path, name: str) -> tuple[Path, ...]:
    paths = tuple(folder / part for part in _weight_names(folder, name))
    for path in paths:
        if not path.is_file():
            _refuse(
                name, f"lacks {path.name}", "Download the checkpoint again, with all its parts."
            )
        try:
            with safe_open(path, "np") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            _refuse(
                name,
                f"has a damaged or cut-off weights file, {path.name} ({error})",
                "Download it again.",
                error,
            )
    return paths


def _weight_names(folder: Path, name: str) -> list[str]:
    if (folder / _SINGLE).is_file():
        return [_SINGLE]
    if (folder / _SHARDS).is_file():
        try:
            parts = sorted(set(json.loads((folder / _SHARDS).read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _refuse(name, f"has an unreadable {_SHARDS}", "Download it again.", error)
        if not parts or not all(isinstance(p, str) and p == Path(p).name for p in parts):
            _refuse(name, f"has an unreadable {_SHARDS}", "Download it again.")
        return parts
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        _refuse(
            name,
            "has its weights as a Python pickle only, which can run code and is never loaded",
            'Where you trust it, convert it once: python -c "from transformers import AutoModel; '
            "AutoModel.from_pretrained('OLD').save_pretrained('NEW')\"; then copy the other files "
            "of OLD to NEW and set the model to NEW.",
        )
    _refuse(name, f"has no {_SINGLE}", "Download the checkpoint again, with its weights.")


def _refuse(name: str, what: str, cure: str, cause: BaseException | None = None) -> NoReturn:
    raise ModelInvalid(f"The checkpoint {name!r} {what}. {cure}", model=name) from cause


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _sides(shape: object) -> str:
    return "x".join(map(str, shape)) if isinstance(shape, Iterable) else str(shape)
