"""Over the wire, a checkpoint's patches say which parts of two pictures agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="pip install 'lookalike[clip]'")
pytest.importorskip("transformers", reason="pip install 'lookalike[clip]'")

from lookalike.client import Client, NewItem
from lookalike.client.errors import FailedPrecondition
from lookalike.client.local_server import LocalServer
from made_pictures import encoded
from tiny_clip import tiny_clip, tiny_dino, tiny_siglip

pytestmark = pytest.mark.clip

SIDE = 256
"""Of the pictures, px; patches are as large as the models' grids make them."""


def sharp_clip(folder: Path) -> Path:
    return tiny_clip(folder, side=64)


MODELS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "clip": (sharp_clip, 8),
    "siglip": (tiny_siglip, 4),
    "dino": (tiny_dino, 4),
}
"""How each is made, and how many patches it has along a side."""


def noise(rng: np.random.Generator, side: int, cell: int) -> NDArray[np.uint8]:
    colours = rng.integers(0, 256, (side // cell, side // cell, 3))
    return np.kron(colours, np.ones((cell, cell, 1))).astype(np.uint8)


def pair(rng: np.random.Generator, patch: int, grid: int) -> tuple[list[bytes], list[list[float]]]:
    """Return two pictures that share half of their sides, and where; on the patches of both.

    Random weights know nothing of things that are shifted by less than a patch.
    """
    files, places, count = [], [], grid // 2 + grid // 8
    thing = noise(rng, count * patch, patch // 2)
    for _ in range(2):
        picture = noise(rng, SIDE, patch // 2)
        row, column = rng.integers(0, grid - count + 1, 2).tolist()
        top, left = row * patch, column * patch
        picture[top : top + count * patch, left : left + count * patch] = thing
        files.append(encoded(picture, "PNG"))
        places.append([column / grid, row / grid, count / grid, count / grid])
    return files, places


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return intersection over union."""
    shared = 1.0
    for axis in (0, 1):
        last = min(one[axis] + one[axis + 2], other[axis] + other[axis + 2])
        shared *= max(0.0, last - max(one[axis], other[axis]))
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def is_hotter(heat: NDArray[np.float32], place: Sequence[float]) -> bool:
    """Return whether there is more heat at a place than elsewhere."""
    rows, columns = heat.shape
    left, top, width, height = place
    down = (np.arange(rows)[:, np.newaxis] + 0.5) / rows
    right = (np.arange(columns) + 0.5) / columns
    inside = (abs(down - top - height / 2) < height / 2) & (
        abs(right - left - width / 2) < width / 2
    )
    return bool(heat[inside].mean() > heat[~inside].mean())


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of one server with all models, for loading torch takes its time."""
    folder = tmp_path_factory.mktemp("patches")
    lines = ['[models]\ndefault = "builtin"']
    for name, (make, _) in MODELS.items():
        model = make(folder / name)
        lines.append(f'[models.{name}]\nembedder = "clip"\nmodel = "{model}"\ndevice = "cpu"')
    config = folder / "lookalike.toml"
    config.write_text("\n".join(lines))
    with (
        LocalServer(folder / "data", "--config", str(config)) as server,
        Client(server.address, timeout_s=300) as opened,
    ):
        for name in MODELS:
            opened.create_collection(name, model=name)
        yield opened


@pytest.mark.timeout(600)  # the first call of each loads its model
@pytest.mark.parametrize("name", MODELS)
def test_the_same_thing_is_found_where_it_was_put(name: str, client: Client) -> None:
    seed = 20240607
    print("seed", seed)
    rng, grid = np.random.default_rng(seed), MODELS[name][1]
    good = hot = 0
    for _ in range(8):
        (query, item), (here, there) = pair(rng, SIDE // grid, grid)
        client.upsert([NewItem("it", image=item)], collection=name)
        found = client.explain("it", image=query, collection=name)
        for side, place, heat in (
            ("query_region", here, found.query_map),
            ("item_region", there, found.item_map),
        ):
            match = found.matches[0] if found.matches else None
            good += match is not None and overlap(getattr(match, side), place) > 0.5
            hot += is_hotter(heat, place)
    assert hot >= 14, f"{hot} of 16 maps, {good} of 16 boxes"
    assert good >= 11, f"{good} of 16 boxes"


@pytest.mark.timeout(600)
def test_a_text_has_a_place_in_a_picture_for_clip_alone(client: Client) -> None:
    picture = encoded(noise(np.random.default_rng(7), SIDE, 16), "PNG")
    for name in MODELS:
        client.upsert([NewItem("said", image=picture)], collection=name)
    found = client.explain("said", text="a red shoe", collection="clip")
    assert found.item_map.max() == 1
    assert found.query_map.size == 0
    assert found.tier == ""
    with pytest.raises(FailedPrecondition, match="cannot tell where"):
        client.explain("said", text="a red shoe", collection="siglip")
    with pytest.raises(FailedPrecondition, match="pictures only"):
        client.explain("said", text="a red shoe", collection="dino")
