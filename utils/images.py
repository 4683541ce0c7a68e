"""Images, garbage made from them, and a small classifier whose logits are read as energies.

Pixels are uint8 tensors [N, C, H, W]. A classifier's logits `f_y(x)` [N, classes] give `p(y|x)` by softmax,
`V(x) = log Σ_y exp f_y(x)` is their log-partition and `E(x) = −V(x)` the energy of the image, in nats.
Sources: Grathwohl et al. (arXiv 1912.03263) read `e^V` as an unnormalised density of the image; Liu et al.
(arXiv 2010.03759) use `E` to tell known images from unknown ones.
"""

import io
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter
from sklearn import datasets
from torch import Tensor, nn

from . import data_file, hub, stats
from .energy import potentials
from .stats import Estimate

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HUB_ID, REVISION = "uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2"
FOLDER = "SPILLED_ENERGY_CIFAR10"  # environment variable: a local copy in the hub's layout
QUALITY = 75  # of the JPEG copies the bundled classifier was trained on


class Images(NamedTuple):
    """Some pictures of one size."""

    pixels: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    names: list[str]  # file names, "" where there is none
    classes: tuple[str, ...]  # what the labels stand for
    source: str  # where they come from, in one line


# Reading pictures


def decode(file: bytes) -> np.ndarray:
    """A picture file as uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(file)) as picture:
        return np.asarray(picture.convert("RGB"))


def read_parquet(path: str | Path, source: str = "", name: str = "") -> Images:
    """Pictures from a parquet file in the hub's layout: columns `img` (bytes, path) and `label`.

    `name`, a column to take the pictures' names from instead of `img.path`.
    """
    import pyarrow.parquet as pq

    table, path = pq.read_table(path), Path(path)
    if not {"img", "label"} <= set(table.column_names):
        raise ValueError(f"{path} needs the columns img and label; it has {', '.join(table.column_names)}")
    rows = table.column("img").to_pylist()
    pixels = torch.from_numpy(np.stack([decode(row["bytes"]) for row in rows])).permute(0, 3, 1, 2).contiguous()
    names = table.column(name).to_pylist() if name else [row["path"] or "" for row in rows]
    labels, classes = torch.tensor(table.column("label").to_pylist()), class_names(table.schema)
    return Images(pixels, labels, names, classes, source or f"{path.parent.name}/{path.name}")


def class_names(schema) -> tuple[str, ...]:
    """What the labels stand for, from the hub's description of a parquet file; () where there is none."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", "{}"))
    return tuple(about.get("info", {}).get("features", {}).get("label", {}).get("names", ()))


def load_cifar10(split: str) -> tuple[Images | None, str]:
    """CIFAR-10's "train" or "test" images, and one line on where they come from (or why there are none).

    From the folder named by `SPILLED_ENERGY_CIFAR10`, else from the hub at a pinned revision unless
    `SPILLED_ENERGY_MODELS=bundled` forbids it. Never from the original host, which is slow.
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", not {split!r}')
    folder = os.environ.get(FOLDER)
    if folder:
        return read_split(Path(folder).expanduser(), split, f"CIFAR-10 {split}, local copy")
    if os.environ.get("SPILLED_ENERGY_MODELS") == "bundled":
        return None, "CIFAR-10's images are not at hand (bundled models and records were asked for)"
    return from_hub(split)


def read_split(folder: Path, split: str, source: str) -> tuple[Images, str]:
    """The one parquet file of a split somewhere in a folder of the hub's layout, and one line on it."""
    found = sorted(folder.rglob(f"{split}-*.parquet"))
    if len(found) != 1:
        raise FileNotFoundError(f"{folder} ({FOLDER}) should hold one {split}-*.parquet; it has {len(found)}")
    images = read_parquet(found[0], source)
    return images, f"{source}: {len(images.labels):,} images"


def from_hub(split: str) -> tuple[Images | None, str]:
    """The split from the hub or its cache; a hub that does not answer costs seconds."""
    folder = hub.cached(HUB_ID, REVISION, "dataset")
    if not folder:
        folder, why = hub.download(HUB_ID, REVISION, "dataset")
    if not folder:
        return None, f"CIFAR-10's images are not at hand ({why})"
    return read_split(folder, split, f"CIFAR-10 {split}, {HUB_ID}@{REVISION[:7]}")


# The classifier


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3×3 convolution, batch normalisation, rectifier."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """`h + g(h)`, with `g` two convolutions."""

    def __init__(self, width: int):
        super().__init__()
        self.branch = nn.Sequential(conv(width, width), conv(width, width))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


class Classifier(nn.Module):
    """A compact residual network (He et al. 1512.03385): uint8 pixels [N, 3, H, W] → logits [N, classes].

    Each width after the first halves the resolution and adds one residual block; then the mean over
    positions, and a linear head with a free gauge: nothing in the loss sees a common shift of its logits.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128), classes: int = 10):
        super().__init__()
        blocks = [conv(3, widths[0])]
        for narrow, wide in pairwise(widths):
            blocks += [conv(narrow, wide, stride=2), Residual(wide)]
        self.body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], classes)

    def features(self, pixels: Tensor) -> Tensor:
        """The vector `h(x)` [N, width] that the head reads."""
        centred = (pixels.float() - 120) / 64  # about mean 0, deviation 1 over CIFAR-10
        return self.body(centred.contiguous(memory_format=torch.channels_last))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))


def load_classifier(folder: str | Path | None = None) -> Classifier:
    """The bundled CIFAR-10 classifier (or another folder of the same kind), ready to classify."""
    folder = data_file("models/cifar10-resnet") if folder is None else Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; `python -m utils.workshop.train_images` makes one")
    config = json.loads((folder / "config.json").read_text())
    model = Classifier(tuple(config["widths"]), config["classes"])
    model.load_state_dict({key: v.float() for key, v in load_file(folder / "model.safetensors").items()})
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def classify(model: nn.Module, pixels: Tensor, batch: int = 500) -> Tensor:
    """Logits [N, classes] of pixels [N, C, H, W], float32, a batch at a time."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        raise ValueError(f"pixels must be uint8 [N, C, H, W]; got {pixels.dtype} {[*pixels.shape]}")
    return torch.cat([model(part) for part in pixels.split(batch)])


# Garbage: each takes pixels [N, C, H, W] and a numpy generator, and returns as many pictures of that size.


def to_bytes(values) -> Tensor:
    """Real values as uint8, rounded and clipped to 0 … 255."""
    return torch.as_tensor(values).round().clamp(0, 255).to(torch.uint8)


def uniform_noise(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Every value 0 … 255 equally likely."""
    return torch.from_numpy(rng.integers(0, 256, pixels.shape, dtype=np.uint8))


def gaussian_noise(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Independent normal values with the pictures' own mean and deviation."""
    return to_bytes(rng.normal(pixels.float().mean(), pixels.float().std(), pixels.shape))


def constant(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """One random colour all over."""
    return uniform_noise(pixels[:, :, :1, :1], rng).expand(pixels.shape).contiguous()


def blur(pixels: Tensor, rng: np.random.Generator | None = None, sigma: float = 3.0) -> Tensor:
    """The picture out of focus: a Gaussian of `sigma` pixels."""
    return to_bytes(gaussian_filter(pixels.float().numpy(), (0, 0, sigma, sigma), mode="nearest"))


def shuffle_blocks(pixels: Tensor, rng: np.random.Generator, blocks: int = 4) -> Tensor:
    """The picture cut into `blocks` × `blocks` tiles, each picture's tiles in an order of its own."""
    n, c, height, width = pixels.shape
    if height % blocks or width % blocks:
        raise ValueError(f"blocks must divide the size {height} × {width}; {blocks} does not")
    h, w = height // blocks, width // blocks
    tiles = pixels.reshape(n, c, blocks, h, blocks, w).permute(0, 2, 4, 1, 3, 5).reshape(n, blocks**2, c, h, w)
    order = torch.from_numpy(np.argsort(rng.random((n, blocks**2)), axis=1))
    tiles = tiles[torch.arange(n)[:, None], order].reshape(n, blocks, blocks, c, h, w)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(pixels.shape).contiguous()


def invert(pixels: Tensor, rng: np.random.Generator | None = None) -> Tensor:
    """The negative."""
    return 255 - pixels


def partners(n: int, rng: np.random.Generator) -> Tensor:
    """For each of `n` pictures another one: the next in a random circle, so nobody meets itself."""
    circle = torch.from_numpy(rng.permutation(n))
    return circle.roll(-1)[circle.argsort()]


def blend(pixels: Tensor, others: Tensor, amount: float) -> Tensor:
    """`(1 − amount)·pixels + amount·others`: from a picture (0) to what it is turned into (1)."""
    return to_bytes((1 - amount) * pixels.float() + amount * others.float())


def mix(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Each picture laid half and half over another one, see `partners`."""
    return blend(pixels, pixels[partners(len(pixels), rng)], 0.5)


GARBAGE = {
    "uniform noise": uniform_noise, "Gaussian noise": gaussian_noise, "one colour": constant, "blurred": blur,
    "shuffled blocks": shuffle_blocks, "inverted": invert, "mixed pairs": mix,
}  # fmt: skip


def make_garbage(kind: str, pixels: Tensor, seed: int = 0) -> Tensor:
    """One kind of `GARBAGE` made of `pixels` [N, C, H, W], the same for the same seed."""
    if kind not in GARBAGE:
        raise ValueError(f"kind must be one of {', '.join(GARBAGE)}; got {kind!r}")
    return GARBAGE[kind](pixels, garbage_rng(kind, seed))


def corrupt(pixels: Tensor, kind: str, amount: float, seed: int = 0) -> Tensor:
    """Pictures part of the way to one kind of garbage: `amount` from 0 (as they are) to 1."""
    return blend(pixels, make_garbage(kind, pixels, seed), amount)


def as_jpeg(pixels: Tensor, quality: int = QUALITY) -> Tensor:
    """RGB pictures after a JPEG's round trip, so that compression cannot tell one set from another."""
    if pixels.shape[1] != 3:
        raise ValueError(f"as_jpeg needs three colour channels; got {pixels.shape[1]}")
    travelled = []
    for picture in pixels.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        travelled.append(decode(file.getvalue()))
    return torch.from_numpy(np.stack(travelled)).permute(0, 3, 1, 2).contiguous()


def garbage_rng(kind: str, seed: int = 0) -> np.random.Generator:
    """The dice of one kind of garbage: no two kinds share them."""
    return np.random.default_rng([seed, *kind.encode()])


# How well a score tells unknown pictures from known ones


def suspicion(logits: Tensor) -> pd.DataFrame:
    """One oriented score a column (higher = more suspicious), one picture a row, in nats, from logits [N, classes].

    By their sources: −V, the energy (2010.03759), and its terms, for −V = −m − log classes − K; the largest logit
    −max f (1911.11132); the largest probability −max log p (1610.02136); and the entropy H.
    """
    logits = logits.double()  # in float32, thousands of probabilities would tie at 1
    p = potentials(logits)
    scores = {"−V": -p.log_partition, "−max f": -logits.amax(-1), "−max log p": -p.max_logprob, "H": p.entropy,
              "−m": -p.mean_logit, "−K": -p.self_certainty}  # fmt: skip
    return pd.DataFrame({symbol: score.numpy() for symbol, score in scores.items()})


class Separation(NamedTuple):
    """How well a score tells unknown from known pictures, each number with its 95 % interval."""

    auroc: Estimate  # the chance that an unknown picture is more suspicious than a known one
    fpr95: Estimate  # share of unknown pictures let in by the threshold that lets in 95 % of the known


def separation(known, unknown, resamples: int = 400) -> Separation:
    """AUROC and FPR95 of an oriented score (higher = more suspicious) on `known` [N] and `unknown` [M] pictures.

    FPR95 in the direction of Liu et al.'s code: the threshold accepts 95 % of the *known*. (Other toolboxes
    find 95 % of the unknown and count the known that are flagged, as `stats.fpr95` does unless told; the numbers
    differ.) Pictures are drawn in 200 groups; garbage and the test image it was made of share their place in
    their sets, and so their group. ValueError on NaN or no pictures.
    """
    if not len(known) or not len(unknown):
        raise ValueError("separation needs known and unknown pictures; one of the two is empty")
    place = np.concatenate([np.arange(len(known)), np.arange(len(unknown))])
    answers = np.concatenate([known, unknown]), np.repeat([False, True], [len(known), len(unknown)]), place % 200
    return Separation(
        stats.auroc(*answers, resamples=resamples), stats.fpr95(*answers, accept_right=True, resamples=resamples)
    )


# Live pictures that need no download: scikit-learn's handwritten digits


def load_digits() -> Images:
    """1,797 handwritten digits of 8 × 8 grey pixels, from scikit-learn."""
    data = datasets.load_digits()
    pixels, labels = to_bytes(data.images * (255 / 16)).unsqueeze(1), torch.from_numpy(data.target)
    return Images(pixels, labels, [""] * len(pixels), tuple("0123456789"), "scikit-learn's digits")


class DigitClassifier(nn.Sequential):
    """One hidden layer: uint8 pixels [N, 1, 8, 8] → logits [N, 10]."""

    def __init__(self, width: int = 64):
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels.float() / 255)


def train_digits(images: Images, frequency=None, steps: int = 400, rate: float = 1.0, seed: int = 0) -> DigitClassifier:
    """Train a digit classifier by full-batch gradient descent, in a second or two.

    `frequency` [N], how often each picture is visited in comparison with the others (default: all alike).
    """
    torch.manual_seed(seed)
    model = DigitClassifier()
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    weight = torch.ones(len(images.labels)) if frequency is None else torch.as_tensor(frequency).float()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(images.pixels), images.labels, reduction="none")
        optimizer.zero_grad()
        (loss @ weight / weight.sum()).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)
