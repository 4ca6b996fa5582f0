"""Makes tiny checkpoints in the layout of the hub: CLIP, SigLIP and DINOv2, random weights.

A few hundred kilobytes each; the same seed gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIDE = 32
"""Shortest edge and crop of the pictures that the tiny models see, px."""
CONTEXT = 77
"""Tokens that the tiny CLIP reads."""
SIGLIP_CONTEXT = 16
"""Tokens that the tiny SigLIP reads."""
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def tiny_clip(folder: Path, seed: int = 0, side: int = SIDE, **preprocessing: Any) -> Path:
    """Save a CLIP of 16 dimensions into `folder`; `preprocessing` overrides the processor.

    It sees squares of `side` px in patches of 8 x 8.
    """
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    tower = {**_TOWER, "projection_dim": 16}
    end = len(_vocabulary()) - 1
    config = CLIPConfig(
        projection_dim=16,
        vision_config={"image_size": side, "patch_size": 8, **tower},
        text_config={
            "vocab_size": end + 1,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": end - 1,
            "eos_token_id": end,
            "pad_token_id": end,
            **tower,
        },
    )
    shape = {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        **preprocessing,
    }
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessorPil(**shape), _tokenizer(CONTEXT)).save_pretrained(folder)
    return folder


def tiny_siglip(folder: Path, seed: int = 0) -> Path:
    """Save a SigLIP of 32 dimensions (it has no projection) into `folder`."""
    import torch
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    end = len(_vocabulary()) - 1
    config = SiglipConfig(
        vision_config={"image_size": SIDE, "patch_size": 8, **_TOWER},
        text_config={
            "vocab_size": end + 1,
            "max_position_embeddings": SIGLIP_CONTEXT,
            "bos_token_id": end - 1,
            "eos_token_id": end,
            "pad_token_id": end,
            **_TOWER,
        },
    )
    torch.manual_seed(seed)
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    _tokenizer(SIGLIP_CONTEXT).save_pretrained(folder)
    return folder


def tiny_dino(folder: Path, seed: int = 0) -> Path:
    """Save a DINOv2, which sees pictures only, of 32 dimensions into `folder`."""
    import torch
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8
    )
    torch.manual_seed(seed)
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    return folder


def _tokenizer(context: int) -> Any:
    from transformers import CLIPTokenizer

    vocabulary = {token: number for number, token in enumerate(_vocabulary())}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=context)


def _vocabulary() -> list[str]:
    """Return one token for each byte, alone and at the end of a word, and the two marks."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [chr(256 + i) for i in range(256 - len(printable))]
    bytes_ = [*map(chr, printable), *rest]
    return [*bytes_, *(b + "</w>" for b in bytes_), "<|startoftext|>", "<|endoftext|>"]
