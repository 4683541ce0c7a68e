"""Pictures of 32 × 32 pixels that may stand on a page: own drawings, two photographs, digits, patterns, noise.

The classifier has only seen JPEG copies, so every picture here goes through the same JPEG.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from sklearn import datasets
from torch import Tensor

from ..images import as_jpeg

SIDE = 32
SKY, SEA, GRASS, ROAD = "#9cc4e8", "#1f4e79", "#5d8a3c", "#6b6b6b"
SHAPES = {  # on a canvas of 320 × 320: background, then (shape, coordinates, colour) from back to front
    "ship": (SKY, [
        ("rectangle", (0, 200, 320, 320), SEA), ("polygon", (50, 180, 280, 180, 245, 235, 85, 235), "#7a2e1d"),
        ("rectangle", (110, 130, 220, 180), "#f2f2f2"), ("rectangle", (170, 85, 195, 130), "#c0392b"),
    ]),
    "automobile": ("#cfd8dc", [
        ("rectangle", (0, 215, 320, 320), ROAD), ("polygon", (95, 150, 130, 100, 215, 100, 250, 150), "#8fb5d0"),
        ("rectangle", (40, 148, 285, 220), "#c0281f"), ("ellipse", (65, 190, 125, 250), "#151515"),
        ("ellipse", (205, 190, 265, 250), "#151515"), ("rectangle", (168, 102, 176, 150), "#c0281f"),
    ]),
    "airplane": (SKY, [
        ("polygon", (30, 165, 270, 145, 300, 160, 270, 178, 40, 190), "#e8e8e8"),
        ("polygon", (130, 165, 190, 165, 120, 260, 95, 260), "#b5b9bd"),
        ("polygon", (140, 155, 190, 152, 150, 80, 125, 80), "#c9cdd1"),
        ("polygon", (30, 170, 70, 168, 45, 105, 22, 105), "#b5b9bd"),
    ]),
    "house": (SKY, [
        ("rectangle", (0, 230, 320, 320), GRASS), ("rectangle", (80, 140, 240, 260), "#d9b382"),
        ("polygon", (60, 145, 160, 60, 260, 145), "#8c3b2a"), ("rectangle", (140, 190, 180, 260), "#5a3a22"),
        ("rectangle", (100, 165, 130, 195), "#34495e"), ("rectangle", (190, 165, 220, 195), "#34495e"),
    ]),
    "face": ("#f6f1e4", [
        ("ellipse", (40, 40, 280, 280), "#f4c542"), ("ellipse", (105, 110, 135, 150), "#222222"),
        ("ellipse", (185, 110, 215, 150), "#222222"), ("rectangle", (110, 200, 210, 215), "#222222"),
    ]),
}  # fmt: skip


def draw(name: str) -> Image.Image:
    """One of `SHAPES`, large."""
    background, shapes = SHAPES[name]
    canvas = Image.new("RGB", (320, 320), background)
    pen = ImageDraw.Draw(canvas)
    for shape, coordinates, colour in shapes:
        getattr(pen, shape)(coordinates, fill=colour)
    return canvas


def photographs() -> dict[str, Image.Image]:
    """Scikit-learn's two photographs: a temple in China, and a flower (see `sklearn.datasets.load_sample_images`)."""
    return dict(zip(("temple", "flower"), map(Image.fromarray, datasets.load_sample_images().images), strict=True))


def small(picture: Image.Image) -> Tensor:
    """The middle square of a picture, at 32 × 32 pixels and after the JPEG: uint8 [3, 32, 32]."""
    square = ImageOps.fit(picture.convert("RGB"), (SIDE, SIDE), Image.Resampling.BOX)
    return as_jpeg(torch.from_numpy(np.array(square)).permute(2, 0, 1)[None])[0]


def from_file(file) -> Tensor:
    """Your own picture, from a path or an open file, as the classifier sees it: the middle square, uint8 [3, 32, 32].

    Transparent places become white. ValueError if the file holds no picture, half of one, or one of over 178 million
    pixels.
    """
    try:
        picture = ImageOps.exif_transpose(Image.open(file)).convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError):  # the second is what a broken PNG gives
        raise ValueError("this file holds no picture that can be read here; save it as PNG or JPEG") from None
    return small(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture))


def gallery(seed: int = 0) -> dict[str, Tensor]:
    """Twelve pictures by name, uint8 [3, 32, 32]; the noise follows `seed`."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:SIDE, :SIDE]
    grey = {
        "digit 3": datasets.load_digits().images[3] * (255 / 16),
        "stripes": 255 * (x // 4 % 2),
        "chessboard": 255 * ((x // 8 + y // 8) % 2),
    }
    colour = {"noise": rng.integers(0, 256, (SIDE, SIDE, 3)), "one colour": np.full((SIDE, SIDE, 3), (60, 120, 200))}
    made = {name: Image.fromarray(np.asarray(values).astype(np.uint8)) for name, values in {**grey, **colour}.items()}
    return {name: small(picture) for name, picture in ({n: draw(n) for n in SHAPES} | photographs() | made).items()}
