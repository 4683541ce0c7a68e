"""Images, garbage made from them, and a small classifier whose logits are read as energies.

Pixels are uint8 tensors [N, C, H, W]. A classifier's logits `f_y(x)` [N, classes] give `p(y|x)` by softmax;
`V(x) = log Σ_y exp f_y(x)`, in nats, is their log-partition, `E(x) = −V(x)` the energy of the image. Grathwohl et al.
(arXiv 1912.03263) read `e^V` as an unnormalised density; Liu et al. (2010.03759) tell unknown images by `E`.
"""

import io
import json
import os
from collections.abc import Callable
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

from . import data_file, stats
from .energy import potentials
from .fetch import hub

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HUB_ID, REVISION = "uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2"
QUALITY = 75  # of the JPEG copies of CIFAR-10 that the classifiers were trained on
FOLDER = "SPILLED_ENERGY_CIFAR10"  # environment variable: a local copy in the hub's layout


class Images(NamedTuple):
    """Some pictures of one size."""

    pixels: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    names: list[str]  # file names, "" where there is none
    classes: tuple[str, ...]  # what the labels stand for
    source: str  # where they come from, in one line


def decode(files) -> Tensor:
    """Picture files (bytes) of one size as uint8 [N, 3, H, W]."""
    pictures = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def as_jpeg(pixels: Tensor) -> Tensor:
    """RGB pictures after a JPEG's round trip, so that compression cannot tell one set from another.

    uint8 [N, 3, H, W], in and out. ValueError on another number of channels.
    """
    if pixels.shape[1] != 3:
        raise ValueError(f"as_jpeg needs three colour channels; got {pixels.shape[1]}")
    files = [io.BytesIO() for _ in pixels]
    for picture, file in zip(pixels.permute(0, 2, 3, 1).numpy(), files, strict=True):
        Image.fromarray(picture).save(file, "JPEG", quality=QUALITY)
    return decode(file.getvalue() for file in files)


def read_parquet(path: str | Path, source: str, classes: tuple[str, ...]) -> Images:
    """Pictures from a parquet file in the hub's layout: columns `img` (bytes, path) and `label`."""
    table = pd.read_parquet(path, columns=["img", "label"])
    names = [img["path"] or "" for img in table.img]
    return Images(decode(img["bytes"] for img in table.img), torch.tensor(table.label), names, classes, source)


def find_cifar10() -> tuple[Path | None, str]:
    """A folder with CIFAR-10 in the hub's layout, and where it is from; or None, and why there is none."""
    if os.environ.get(FOLDER):
        return Path(os.environ[FOLDER]).expanduser(), "local copy"
    if os.environ.get("SPILLED_ENERGY_MODELS") == "bundled":
        return None, "bundled models and records were asked for"
    folder = hub.cached(HUB_ID, REVISION, "dataset")
    folder, why = (folder, "") if folder else hub.download(HUB_ID, REVISION, "dataset")
    return folder, why or f"{HUB_ID}@{REVISION[:7]}"


def load_cifar10(split: str) -> tuple[Images | None, str]:
    """CIFAR-10's "train" or "test" images, and one line on where they come from (or why there are none).

    From the folder named by `SPILLED_ENERGY_CIFAR10`, else, unless `SPILLED_ENERGY_MODELS=bundled`, from the hub
    at a pinned revision. ValueError on another split, FileNotFoundError if the folder has not got it.
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", not {split!r}')
    folder, where = find_cifar10()
    if not folder:
        return None, f"CIFAR-10's images are not at hand ({where})"
    found = sorted(folder.rglob(f"{split}-*.parquet"))
    if len(found) != 1:
        raise FileNotFoundError(f"{folder} ({FOLDER}) should hold one {split}-*.parquet; it has {len(found)}")
    images = read_parquet(found[0], f"CIFAR-10 {split}, {where}", CLASSES)
    return images, f"{images.source}: {len(images.labels):,} images"


def conv(inputs: int, outputs: int, pool: int = 1) -> nn.Sequential:
    """3×3 convolution, the maximum over `pool` × `pool` positions, batch normalisation, GELU."""
    pooling = [nn.MaxPool2d(pool)] if pool > 1 else []
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), *pooling, nn.BatchNorm2d(outputs), nn.GELU())


def centred(pixels: Tensor) -> Tensor:
    """Pixels [N, 3, H, W] as float32 of about mean 0, deviation 1 over CIFAR-10, channels last in memory."""
    return ((pixels.float() - 120) / 64).contiguous(memory_format=torch.channels_last)


def views(values: Tensor) -> list[Tensor]:
    """Four of each picture [N, C, H, W]: moved by a pixel down and right, up and left, and the mirror image of both."""
    edged = nn.functional.pad(values, (1, 1, 1, 1), mode="reflect")
    moved = [edged[:, :, :-2, :-2], edged[:, :, 2:, 2:]]
    return moved + [view.flip(-1) for view in moved]


class FeatureClassifier(nn.Module):
    """A small convolutional network, uint8 pixels [N, 3, H, W] → features [N, d] → logits [N, classes].

    A fixed first layer compares 2 × 2 patches with the directions in which patches differ; then each width halves the
    resolution by a maximum over 2 × 2 positions and adds a second convolution. The features are the last one's means
    over positions and, outside training, over four `views` of the picture; the logits are linear in them.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 256, 256), features: int = 64, classes: int = 10):
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 2, bias=False).requires_grad_(False)
        blocks = [nn.GELU()]
        for narrow, wide in pairwise((24, *widths)):
            blocks += [conv(narrow, wide, pool=2), conv(wide, wide)]
        blocks[-1] = conv(widths[-1], features)
        self.body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(features, classes)

    def features(self, pixels: Tensor) -> Tensor:
        """What the head sees of the pictures, [N, d]."""
        values = centred(pixels)
        seen = [self.body(self.patches(view)) for view in ([values] if self.training else views(values))]
        return sum(seen) / len(seen)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))


def load_classifier(folder: Path | None = None) -> FeatureClassifier:
    """The bundled CIFAR-10 classifier, ready to classify, or that of another `folder`; FileNotFoundError without.

    `data_file("models/cifar10-2")` and `data_file("models/cifar10-3")` are two more trainings of the same recipe.
    """
    folder = folder or data_file("models/cifar10-1")
    model = FeatureClassifier(**json.loads((folder / "config.json").read_text("utf-8")))
    model.load_state_dict({key: v.float() for key, v in load_file(folder / "model.safetensors").items()})
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def classify(model: Callable[[Tensor], Tensor], pixels: Tensor, batch: int = 500) -> Tensor:
    """Logits [N, classes] of uint8 pixels [N, C, H, W], float32, a batch at a time; ValueError on other pixels."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        raise ValueError(f"pixels must be uint8 [N, C, H, W]; got {pixels.dtype} {[*pixels.shape]}")
    return torch.cat([model(part) for part in pixels.split(batch)])


@torch.no_grad()
def read_features(model: FeatureClassifier, pixels: Tensor, batch: int = 500) -> tuple[Tensor, Tensor]:
    """Features [N, d] and logits [N, classes] of uint8 pixels [N, 3, H, W], float32; ValueError on other pixels."""
    features = classify(model.features, pixels, batch)
    return features, model.head(features)


def to_bytes(values) -> Tensor:
    """Real values as uint8, rounded and clipped to 0 … 255."""
    return torch.as_tensor(values).round().clamp(0, 255).to(torch.uint8)


def uniform_noise(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Every value 0 … 255 equally likely."""
    return torch.from_numpy(rng.integers(0, 256, pixels.shape, dtype=np.uint8))


def shuffle_blocks(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures cut into 4 × 4 tiles, each picture's in an order of its own; H and W are multiples of 4."""
    n, _, height, width = pixels.shape
    size = (height // 4, width // 4)
    tiles = nn.functional.unfold(pixels.float(), size, stride=size)  # [N, values of a tile, 16]
    order = torch.from_numpy(rng.random((n, 1, 16)).argsort()).expand(tiles.shape)
    return nn.functional.fold(tiles.gather(2, order), (height, width), size, stride=size).to(torch.uint8)


GARBAGE = {  # makes as many pictures of pixels x, uint8 [N, C, H, W], and a random generator
    "uniform noise": uniform_noise,
    "Gaussian noise": lambda x, rng: to_bytes(rng.normal(x.double().mean(), x.double().std(), x.shape)),
    "one colour": lambda x, rng: uniform_noise(x[:, :, :1, :1], rng).expand(x.shape).contiguous(),
    "blurred": lambda x, _: to_bytes(gaussian_filter(x.float(), (0, 0, 3, 3), mode="nearest")),
    "shuffled blocks": shuffle_blocks,
    "inverted": lambda x, _: 255 - x,
}


def make_garbage(kind: str, pixels: Tensor, seed: int = 0) -> Tensor:
    """One kind of `GARBAGE` made of `pixels` [N, C, H, W], the same for the same seed; ValueError on another kind."""
    if kind not in GARBAGE:
        raise ValueError(f"kind must be one of {', '.join(GARBAGE)}; got {kind!r}")
    return GARBAGE[kind](pixels, np.random.default_rng([seed, *kind.encode()]))  # no two kinds share their dice


def corrupt(pixels: Tensor, kind: str, amount: float, seed: int = 0) -> Tensor:
    """Pictures part of the way to one kind of garbage: `amount` from 0 (as they are) to 1."""
    return to_bytes((1 - amount) * pixels.float() + amount * make_garbage(kind, pixels, seed).float())


def suspicion(logits: Tensor) -> pd.DataFrame:
    """One oriented score a column (higher = more suspicious), one picture a row, in nats, from logits [N, classes].

    By their sources: −V, the energy (2010.03759), and its terms, for −V = −m − log classes − K; the largest logit
    −max f (1911.11132); the largest probability −max log p (1610.02136); and the entropy H.
    """
    p = potentials(logits.double())  # in float32, thousands of probabilities would tie at 1
    scores = {"−V": -p.log_partition, "−max f": -logits.double().amax(-1), "−max log p": -p.max_logprob,
              "H": p.entropy, "−m": -p.mean_logit, "−K": -p.self_certainty}  # fmt: skip
    return pd.DataFrame({symbol: score.numpy() for symbol, score in scores.items()})


def side_by_side(known: int, unknown: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (True: unknown) and groups 0 … 199 of `known` pictures, then of `unknown` ones; ValueError without either.

    The n-th picture of both shares a group, and groups are what the bootstrap draws.
    """
    if not known or not unknown:
        raise ValueError("separation needs known and unknown pictures; one of the two is empty")
    place = np.concatenate([np.arange(known), np.arange(unknown)])
    return np.repeat([False, True], [known, unknown]), place % 200


class Separation(NamedTuple):
    """How well a score tells unknown from known pictures, each number with its 95 % interval."""

    auroc: stats.Estimate  # the chance that an unknown picture is more suspicious than a known one
    fpr95: stats.Estimate  # share of unknown pictures let in by the threshold that lets in 95 % of the known


def separation(known, unknown, resamples: int = 400) -> Separation:
    """AUROC and FPR95 of an oriented score (higher = more suspicious) on `known` [N] and `unknown` [M] pictures.

    FPR95 as in Liu et al.'s code: the threshold accepts 95 % of the *known* (others find 95 % of the unknown). Pictures
    are drawn in 200 groups, garbage with the test image it was made of. ValueError on NaN or no pictures.
    """
    answers = np.concatenate([known, unknown]), *side_by_side(len(known), len(unknown))
    fpr95 = stats.fpr95(*answers, accept_right=True, resamples=resamples)
    return Separation(stats.auroc(*answers, resamples=resamples), fpr95)


def load_digits() -> Images:
    """1,797 handwritten digits of 8 × 8 grey pixels, from scikit-learn: live pictures that need no download."""
    data = datasets.load_digits()
    pixels, labels = to_bytes(data.images * (255 / 16)).unsqueeze(1), torch.from_numpy(data.target)
    return Images(pixels, labels, [""] * len(pixels), tuple("0123456789"), "scikit-learn's digits")


class DigitClassifier(nn.Sequential):
    """Layers that read uint8 pixels as values from 0 to 1."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels.float() / 255)


def train_digits(images: Images, frequency=None, steps: int = 400, rate: float = 1.0, seed: int = 0) -> DigitClassifier:
    """One hidden layer [N, 1, 8, 8] → [N, 10], in seconds; `frequency` [N] says how often each picture is visited."""
    torch.manual_seed(seed)
    model = DigitClassifier(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    weight = torch.ones(len(images.labels)) if frequency is None else torch.as_tensor(frequency).float()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(images.pixels), images.labels, reduction="none")
        optimizer.zero_grad()
        (loss @ weight / weight.sum()).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)
