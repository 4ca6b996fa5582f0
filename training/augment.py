"""Change a batch of pictures as the wild does, in batched tensor operations.

Runs where the batch lies (CPU or GPU). None of the changes but the box moves the target:
what a picture shows is the same in gray, under a caption or turned a little, and a student
that learns so finds copies too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_LUMA = torch.tensor([0.299, 0.587, 0.114])
_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
# ITU T.81 annex K, tables K.1 (luminance) and K.2 (chrominance)
_K1 = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=torch.float32,
)
_K2 = torch.full((8, 8), 99.0)
_K2[:4, :4] = torch.tensor(
    [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
).float()


@dataclass(frozen=True)
class Chances:
    """How often each change is made to a picture."""

    flip: float = 0.5
    turn: float = 0.12
    shrink: float = 0.08
    colour: float = 0.5
    gray: float = 0.08
    blur: float = 0.1
    jpeg: float = 0.15
    text: float = 0.08


CALM = Chances(turn=0, shrink=0, colour=0, gray=0, blur=0, jpeg=0, text=0)


class Augment:
    """Cuts boxes out of stored pictures and changes them; seeded by its generator."""

    def __init__(self, chances: Chances, generator: torch.Generator, device: str = "cpu") -> None:
        self._chances, self._rng, self._device = chances, generator, device
        self._texts = _texts(64).to(device) if chances.text else None

    def __call__(self, pixels: Tensor, boxes: Tensor, side: int) -> Tensor:
        """Return (n, 3, side, side) float32 in 0..1 of (n, s, s, 3) uint8 and 0..1 boxes."""
        x = self._cut(pixels.permute(0, 3, 1, 2), boxes, side)
        x = self._blur(x)
        x = self._colour(x)
        x = self._text(x)
        return self._jpeg(x).clamp_(0, 1)

    def _draw(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        drawn = torch.rand(count, generator=self._rng) * (high - low) + low
        return drawn.to(self._device)

    def _chosen(self, count: int, chance: float) -> Tensor:
        return torch.nonzero(torch.rand(count, generator=self._rng) < chance)[:, 0].to(self._device)

    def _cut(self, pixels: Tensor, boxes: Tensor, side: int) -> Tensor:
        n, c = len(pixels), self._chances
        half = (boxes[:, 2:] - boxes[:, :2]).to(self._device)
        centre = (boxes[:, 2:] + boxes[:, :2]).to(self._device) - 1
        shrunk = self._chosen(n, c.shrink)
        half[shrunk] *= self._draw(len(shrunk), 1.1, 1.6)[:, None]
        angle = torch.zeros(n, device=self._device)
        turned = self._chosen(n, c.turn)
        angle[turned] = self._draw(len(turned), -math.pi / 10, math.pi / 10)
        mirror = torch.ones(n, device=self._device)
        mirror[self._chosen(n, c.flip)] = -1
        cos, sin = torch.cos(angle), torch.sin(angle)
        theta = torch.stack(
            [
                torch.stack([half[:, 0] * cos * mirror, -half[:, 0] * sin, centre[:, 0]], 1),
                torch.stack([half[:, 1] * sin * mirror, half[:, 1] * cos, centre[:, 1]], 1),
            ],
            1,
        )
        ground = self._draw(n * 3).reshape(n, 3, 1, 1)
        ground *= (self._draw(n) < 0.5).float()[:, None, None, None]  # half of them black
        if self._device != "cpu":
            return _sample(pixels.to(self._device), theta, ground, side)
        odd = torch.zeros(n, dtype=torch.bool)
        odd[shrunk], odd[turned] = True, True
        x = torch.empty(n, 3, side, side)
        if odd.any():
            x[odd] = _sample(pixels[odd], theta[odd], ground[odd], side)
        for row in torch.nonzero(~odd)[:, 0].tolist():  # five times cheaper, the same but edges
            x[row] = _resize(pixels[row], boxes[row], bool(mirror[row] < 0), side)
        return x

    def _blur(self, x: Tensor) -> Tensor:
        rows = self._chosen(len(x), self._chances.blur)
        if len(rows):
            sigma = float(self._draw(1, 0.4, 1.6)) * x.shape[-1] / 96
            reach = max(1, math.ceil(2 * sigma))
            places = torch.arange(-reach, reach + 1, device=x.device)
            kernel = torch.exp(-((places / sigma) ** 2) / 2)
            kernel = (kernel / kernel.sum()).expand(3, 1, -1)
            part = F.pad(x[rows], (reach, reach, reach, reach), mode="reflect")
            part = F.conv2d(part, kernel[:, :, None, :], groups=3)
            x[rows] = F.conv2d(part, kernel[:, :, :, None], groups=3)
        return x

    def _colour(self, x: Tensor) -> Tensor:
        """Brightness, contrast, saturation and a tint as one 3 x 4 matrix a picture."""
        n, c = len(x), self._chances
        if not c.colour:
            return x
        on = (self._draw(n) < c.colour).float()
        bright = 1 + on * (self._draw(n, 0.5, 1.5) - 1)
        contrast = 1 + on * (self._draw(n, 0.6, 1.4) - 1)
        saturation = 1 + on * (self._draw(n, 0.4, 1.6) - 1)
        saturation[self._chosen(n, c.gray)] = 0
        tint = 1 + on[:, None] * (self._draw(3 * n, 0.9, 1.1).reshape(n, 3) - 1)
        eye = torch.eye(3, device=x.device)
        luma = _LUMA.to(x.device).expand(3, 3)
        mix = saturation[:, None, None] * eye + (1 - saturation)[:, None, None] * luma
        mix = mix * (bright * contrast)[:, None, None] * tint[:, :, None]
        shift = (0.5 * (1 - contrast))[:, None].expand(n, 3)
        flat = torch.baddbmm(shift[:, :, None], mix, x.flatten(2))
        return flat.reshape(x.shape).clamp_(0, 1)

    def _text(self, x: Tensor) -> Tensor:
        rows = self._chosen(len(x), self._chances.text)
        if len(rows) and self._texts is not None:
            which = torch.randint(len(self._texts), (len(rows),), generator=self._rng)
            marks = F.interpolate(
                self._texts[which.to(self._device)], size=x.shape[-2:], mode="area"
            )
            ink = torch.where(self._draw(len(rows)) < 0.5, 1.0, 0.0)[:, None, None, None]
            part = x[rows]
            part = part + marks[:, 1:] * (1 - ink - part)  # the stroke around the letters
            x[rows] = part + marks[:, :1] * (ink - part)
        return x

    def _jpeg(self, x: Tensor) -> Tensor:
        rows = self._chosen(len(x), self._chances.jpeg)
        if len(rows) and x.shape[-1] % 16 == 0:
            x[rows] = jpeg(x[rows], self._draw(len(rows), 15, 75))
        return x


def _sample(pixels: Tensor, theta: Tensor, ground: Tensor, side: int) -> Tensor:
    """Sample affine views of (n, 3, s, s) uint8; outside the picture lies `ground`."""
    # Twice as many samples as pixels, then their mean: no aliasing when it shrinks.
    fine = 2 if side < 120 else 1
    size = [len(pixels), 3, side * fine, side * fine]
    grid = F.affine_grid(theta, size, align_corners=False)
    source = pixels.float().contiguous() / 255
    x = F.grid_sample(source - ground, grid, align_corners=False) + ground
    return F.avg_pool2d(x, fine) if fine > 1 else x


def _resize(pixels: Tensor, box: Tensor, mirror: bool, side: int) -> Tensor:
    stored = pixels.permute(1, 2, 0).numpy()
    corners = tuple((box * len(stored)).tolist())
    view = np.asarray(
        Image.fromarray(stored).resize((side, side), Image.Resampling.BILINEAR, box=corners)
    )
    x = torch.from_numpy(view[:, ::-1].copy() if mirror else view.copy())
    return x.permute(2, 0, 1).float().div_(255)


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """Return x as JPEG would give it back: 4:2:0, 8 x 8 blocks, annex K tables."""
    k = torch.arange(8, dtype=torch.float32, device=x.device)
    basis = torch.cos((2 * k[None, :] + 1) * k[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    ycc = torch.einsum("ij,njhw->nihw", _YCC.to(x.device), x * 255)
    luma = _quantise(ycc[:, :1] - 128, basis, _K1.to(x.device), scale) + 128
    small = F.avg_pool2d(ycc[:, 1:], 2)
    chroma = _quantise(small, basis, _K2.to(x.device), scale)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    back = torch.linalg.inv(_YCC).to(x.device)
    rgb = torch.einsum("ij,njhw->nihw", back, torch.cat([luma, chroma], 1))
    return rgb / 255


def _quantise(x: Tensor, basis: Tensor, table: Tensor, scale: Tensor) -> Tensor:
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    steps = (table * scale[:, None, None]).clamp(1, 255).round()[:, None, None, None]
    spectrum = basis @ blocks @ basis.T
    blocks = basis.T @ (torch.round(spectrum / steps) * steps) @ basis
    return blocks.transpose(3, 4).reshape(n, c, h, w)


def _texts(count: int, side: int = 128) -> Tensor:
    """Draw (count, 2, side, side) masks: letters, and their outline."""
    rng = np.random.default_rng(3)
    letters = np.array(list("ABCDEFGHIKLMNOPRSTUVWaeionrst 0123456789"))
    masks = []
    for _ in range(count):
        words = "".join(rng.choice(letters, int(rng.integers(4, 14))))
        size, stroke = int(rng.integers(9, 30)), int(rng.integers(0, 3))
        place = (int(rng.integers(16, side - 16)), int(rng.integers(8, side - 8)))
        font, pair = ImageFont.load_default(size=size), []
        for width in (0, stroke):
            mask = Image.new("L", (side, side))
            ImageDraw.Draw(mask).text(
                place, words, anchor="mm", font=font, fill=255, stroke_width=width
            )
            pair.append(np.asarray(mask, np.float32) / 255)
        masks.append(np.stack(pair))
    return torch.from_numpy(np.stack(masks))
