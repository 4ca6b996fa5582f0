"""A checkpoint of the size of CLIP ViT-B/32 with random weights, and what a picture costs it."""

from __future__ import annotations

import json
from pathlib import Path

GFLOP = 8.82
"""Of one picture of 224 x 224: 4.363 G multiply-adds in linear layers and the convolution and
0.046 in the attention, twice that in operations. Counted with hooks."""


def make(folder: Path, seed: int = 0) -> Path:
    """Save the checkpoint into a folder in the layout of the hub; 600 MB.

    Random weights show the speed and the numerics, not what a picture is of.
    """
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    if (folder / "made").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig()).eval().save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    _write_tokenizer(folder)
    (folder / "made").touch()
    return folder


def _write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of bytes with as many entries as the real one."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [*map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable)))]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += [f"zz{i}" for i in range(49408 - 2 - len(tokens))]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    end = "<|endoftext|>"
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "unk_token": end}
    settings |= {"bos_token": "<|startoftext|>", "eos_token": end, "pad_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
