"""How the CIFAR-10 classifiers and their records were made: `python -m utils.workshop.train_images` (or `make train`).

Like `utils.workshop.train`: seeded, with a progress bar, resumed from `build/train/` when it was interrupted. Each step
depends on (seed, step) alone. The loss is plain cross-entropy: label smoothing or temperature would reshape the
very logits this course looks at. The same 2,000 training images are held out of every seed, for validation.

What makes it fast on a processor: convolutions in bfloat16 (the head, the loss and everything that is measured
in float32), channels last, pictures of 24 × 24 pixels for the first 30 of 64 epochs, and a first layer that is not
learned but whitens small patches, an idea of Page's that Jordan (arXiv 2404.00498) carried on, with alternating flips.
More epochs follow at a constant rate, on pictures that are also turned, zoomed and recoloured, and what is shipped is
the mean of the weights along the last of them (Izmailov et al., 1803.05407).
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn
from tqdm.auto import tqdm

from .. import DATA, ROOT
from ..images import (
    GARBAGE,
    QUALITY,
    FeatureClassifier,
    Images,
    as_jpeg,
    centred,
    classify,
    load_cifar10,
    make_garbage,
    read_features,
    read_parquet,
    to_bytes,
)
from ..records import FOLDER, fingerprint
from .whole import whole

SEEDS = (1, 2, 3)
RECORD_AT = (0, 30, 100, 300, 900)  # and at the end
LOOK_EVERY = 4  # epochs, at the validation images
SETTLE = 40  # batches, from which a mean of weights takes its batch norms' statistics
VALIDATION = 2000
DRAWN = 5000  # training images whose features are on record
UNKNOWN = ("tiny-imagenet", "textures", "mnist")  # sets of unknown pictures on record
GARBAGE_FROM = 2000  # garbage is made of the first so many test images


@dataclass(frozen=True)
class Recipe:
    """What decides the training run; how far pictures are turned and recoloured stands with `turn` and `recolour`."""

    seed: int = 1
    widths: tuple[int, ...] = (64, 256, 256)
    features: int = 64
    epochs: int = 64
    coarse: int = 30  # of them, the first, see pictures of `coarse_side` × `coarse_side` pixels
    coarse_side: int = 24
    batch: int = 500
    rate: float = 0.4  # highest, after a fifth of those epochs
    constant: int = 24  # more epochs, at a constant rate, on pictures that are also turned, zoomed and recoloured
    constant_rate: float = 0.1
    averaged: int = 16  # of them, the last: the mean of the weights along these is what is shipped
    momentum: float = 0.9
    decay: float = 5e-4  # of the convolutions and the head's matrix
    shift: int = 4  # pixels
    hole: int = 12  # pixels, the side of a square that is painted grey
    bfloat16: bool = True  # inside the convolutions; a processor without it takes about twice as long

    @property
    def name(self) -> str:
        return f"cifar10-{self.seed}"

    def steps(self, images: int) -> int:
        return (self.epochs + self.constant) * (images // self.batch)


def split_off(images: Images, held_out: int = VALIDATION) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the validation images, the same for every seed."""
    order = torch.from_numpy(np.random.default_rng([0, 1]).permutation(len(images.labels)))
    return order[held_out:], order[:held_out]


def training_batch(images: Images, pool: Tensor, recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """The augmented pictures (float32 [B, 3, H, W]) and labels of one step; depends on (seed, step) alone.

    Every epoch passes over the `pool` once in a new order. A picture is mirrored in every other epoch
    (alternating flips: Jordan, arXiv 2404.00498), shifted by up to `recipe.shift` pixels, and has one square painted
    grey (cutout: DeVries and Taylor, 1708.04552). After `recipe.epochs` it is also recoloured, half of them turned.
    """
    epoch, position = divmod(step, len(pool) // recipe.batch)
    order = np.random.default_rng([recipe.seed, 2, epoch]).permutation(len(pool))
    index = pool[order[position * recipe.batch : (position + 1) * recipe.batch]]
    coin = np.random.default_rng([recipe.seed, 3]).integers(0, 2, len(images.labels))[index]
    rng = np.random.default_rng([recipe.seed, 4, step])
    moved = augment(images.pixels[index], (coin + epoch) % 2 == 1, recipe.shift, rng)
    if epoch >= recipe.epochs:
        moved = recolour(turn(moved, rng), rng)
    return cut_out(moved, recipe.hole, rng), images.labels[index]


def augment(pixels: Tensor, mirror: np.ndarray, shift: int, rng: np.random.Generator) -> Tensor:
    """Mirror some pictures [N, 3, H, W], shift each by up to `shift` pixels, its edges reflected."""
    n, _, height, width = pixels.shape
    padded = nn.functional.pad(pixels.float(), (shift,) * 4, mode="reflect")
    rows = np.arange(height) + rng.integers(0, 2 * shift + 1, (n, 1))
    columns = np.arange(width) + rng.integers(0, 2 * shift + 1, (n, 1))
    columns = np.where(mirror[:, None], columns[:, ::-1], columns)
    return padded[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def turn(pixels: Tensor, rng: np.random.Generator, degrees: float = 15, zoom: float = 0.2) -> Tensor:
    """Pictures [N, 3, H, W]; a random half of them is turned, by up to so many degrees, and zoomed by e^±zoom."""
    half = torch.from_numpy(rng.permutation(len(pixels))[: len(pixels) // 2])
    angle = torch.from_numpy(np.deg2rad(rng.uniform(-degrees, degrees, len(half))))
    scale = torch.from_numpy(np.exp(rng.uniform(-zoom, zoom, len(half))))
    across, along = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([across, -along, 0 * scale, along, across, 0 * scale], 1).view(-1, 2, 3).float()
    straight = pixels[half]
    grid = nn.functional.affine_grid(rows, [*straight.shape], align_corners=False)
    turned = nn.functional.grid_sample(straight, grid, padding_mode="reflection", align_corners=False)
    return pixels.index_copy(0, half, turned)


def recolour(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures [N, 3, H, W], each of another contrast (± 30 %), brightness (± 25 of 255) and saturation (± 40 %)."""
    contrast, brightness, saturation = (
        torch.from_numpy(rng.uniform(-most, most, (len(pixels), 1, 1, 1))).float() for most in (0.3, 25, 0.4)
    )
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = mean + (1 + contrast) * (pixels - mean) + brightness
    grey = pixels.mean(1, keepdim=True)
    return (grey + (1 + saturation) * (pixels - grey)).clamp(0, 255)


def cut_out(pixels: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """Pictures [N, 3, H, W], in each a square of `side` × `side` pixels, anywhere in it, grey."""
    n, _, height, width = pixels.shape
    row, column = np.arange(height)[:, None], np.arange(width)
    top, left = (rng.integers(0, size - side + 1, (n, 1, 1)) for size in (height, width))
    inside = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)  # [N, H, W]
    return pixels.masked_fill(torch.from_numpy(inside)[:, None], 120.0)


def shrink(pixels: Tensor, recipe: Recipe, epoch: int) -> Tensor:
    """Pictures [N, 3, H, W] at the size that is trained on in that epoch, float32; in the later ones as they are."""
    if epoch >= recipe.coarse:
        return pixels.float()
    return nn.functional.interpolate(pixels.float(), size=recipe.coarse_side, mode="bilinear", antialias=True)


def build(recipe: Recipe, pixels: Tensor) -> FeatureClassifier:
    """The untrained classifier; its first layer is made of the pictures [N, 3, H, W] and stays as it is."""
    torch.manual_seed(recipe.seed)
    model = FeatureClassifier(recipe.widths, recipe.features)
    model.patches.weight.data = whitening(centred(pixels))
    return model.to(memory_format=torch.channels_last)


def whitening(values: Tensor) -> Tensor:
    """Filters [24, 3, 2, 2] for centred pictures [N, 3, H, W]: the principal axes of 2 × 2 patches, and the opposites.

    Each is scaled to variance 1 over the patches, except for axes on which hardly anything varies.
    """
    patches = nn.functional.unfold(values, 2, stride=3).permute(0, 2, 1).reshape(-1, 12).double()
    variances, axes = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (axes / (variances + 5e-4).sqrt()).T.float().reshape(12, 3, 2, 2)
    return torch.cat([filters, -filters])


def loss_of(model: FeatureClassifier, pixels: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy in nats; the head and the logits stay in float32."""
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
        features = model.features(pixels)
    return nn.functional.cross_entropy(model.head(features.float()), labels)


def descent(parameters, recipe: Recipe, per_epoch: int):
    """SGD with Nesterov's momentum, and its rate: up for a fifth of the epochs, down to 0, and then constant."""
    total, constant = recipe.epochs * per_epoch, recipe.constant_rate / recipe.rate
    parameters = [p for p in parameters if p.requires_grad]
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, recipe.rate, recipe.momentum, nesterov=True)

    def factor(step: int) -> float:
        return min((step + 1) / (0.2 * total), (total - step) / (0.8 * total)) if step < total else constant

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train(images: Images, recipe: Recipe, watched: dict[str, Tensor], progress: bool = True, scratch=None):
    """Train the classifier; returns it with its weights rounded to float16, and `{step: {set: logits}}`.

    `watched` names the pixels whose logits are taken along the way, at the size that is being trained on; `scratch`
    is the file an interrupted run is resumed from, at the start of the epoch it was in.
    """
    pool, held_out = split_off(images, min(VALIDATION, len(images.labels) // 10))
    model = build(recipe, images.pixels[pool[:5000]])
    average = AveragedModel(model)
    total, per_epoch = recipe.steps(len(pool)), len(pool) // recipe.batch
    optimizer, schedule = descent(model.parameters(), recipe, per_epoch)
    parts = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}
    first, log = resume(scratch, parts)
    for step in tqdm(range(first, total), initial=first, total=total, desc=recipe.name, disable=not progress):
        epoch = step // per_epoch
        if step in RECORD_AT and step not in log:
            past = max(step - 1, 0) // per_epoch  # the epoch of the last step done
            log[step] = {name: look(model, pixels, recipe, past) for name, pixels in watched.items()}
        pixels, labels = training_batch(images, pool, recipe, step)
        loss = loss_of(model, shrink(pixels, recipe, epoch), labels, recipe)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step + 1 >= total - recipe.averaged * per_epoch:
            average.update_parameters(model)
        if (step + 1) % per_epoch == 0:
            save_scratch(scratch, step + 1, parts, log)
            if progress and (epoch + 1) % LOOK_EVERY == 0:
                now = settled(average, images, pool, recipe) if average.n_averaged else model
                logits, named = look(now, images.pixels[held_out], recipe, epoch), images.labels[held_out]
                held = f"{nn.functional.cross_entropy(logits, named):.4f}, accuracy {accuracy(logits, named):.4f}"
                tqdm.write(f"epoch {epoch + 1}: loss {loss.item():.3f}; validation loss {held}")
    mean = settled(average, images, pool, recipe)
    log[total] = {name: look(mean, pixels, recipe, recipe.epochs) for name, pixels in watched.items()}
    return rounded(mean, recipe), log


def settled(average: AveragedModel, images: Images, pool: Tensor, recipe: Recipe) -> FeatureClassifier:
    """The mean of the weights, and the statistics of its batch norms taken anew.

    No training step ever used those weights, so the running statistics belong to others. Held-out accuracy is higher
    with pictures drawn as in the first epoch than with turned and recoloured ones, or with ones without a grey square.
    """
    update_bn((training_batch(images, pool, recipe, step)[0] for step in range(SETTLE)), average.module)
    return average.module


def look(model: FeatureClassifier, pixels: Tensor, recipe: Recipe, epoch: int) -> Tensor:
    """Logits of the classifier as it stands, for pictures of the size of that epoch."""
    return classify(rounded(model, recipe), to_bytes(shrink(pixels, recipe, epoch)))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest logit is the label's."""
    return (logits.argmax(-1) == labels).double().mean().item()


def rounded(model: FeatureClassifier, recipe: Recipe) -> FeatureClassifier:
    """A copy with its weights rounded to float16, as they are shipped: what is measured is what you get."""
    copy = FeatureClassifier(recipe.widths, recipe.features).to(memory_format=torch.channels_last)
    weights = model.state_dict().items()
    copy.load_state_dict({key: v.half().float() if v.is_floating_point() else v for key, v in weights})
    return copy.eval().requires_grad_(False)


def save_scratch(scratch: Path | None, step: int, parts: dict, log: dict) -> None:
    """Everything needed to go on after an interruption. OSError if there is no room; the file before it stays."""
    if scratch is None:
        return
    state = {key: part.state_dict() for key, part in parts.items()}
    with whole(scratch) as file:
        torch.save({"step": step, "log": log, **state}, file)


def resume(scratch: Path | None, parts: dict) -> tuple[int, dict]:
    """Load an interrupted run, if there is one; returns the step to go on from and the logits so far."""
    if scratch is None or not scratch.exists():
        return 0, {}
    state = torch.load(scratch, weights_only=True)
    for key, part in parts.items():
        part.load_state_dict(state[key])
    return state["step"], state["log"]


def read_pictures(path: str | Path, name: str = "") -> Images:
    """Pictures of any parquet file in the hub's layout, with the names of the classes from the hub's description.

    `name`, a column to take the pictures' names from instead of `img.path`. ValueError without `img` and `label`.
    """
    schema = pq.read_schema(path)
    if not {"img", "label"} <= {*schema.names}:
        raise ValueError(f"{path} needs the columns img and label; it has {', '.join(schema.names)}")
    about = json.loads((schema.metadata or {}).get(b"huggingface", "{}"))
    classes = tuple(about.get("info", {}).get("features", {}).get("label", {}).get("names", ()))
    images = read_parquet(path, "/".join(Path(path).parts[-2:]), classes)
    return images._replace(names=pd.read_parquet(path, columns=[name])[name].tolist()) if name else images


def partners(n: int) -> Tensor:
    """For each of `n` pictures another one: the next in a random circle, so nobody meets itself."""
    circle = torch.from_numpy(np.random.default_rng([0, *b"mixed pairs"]).permutation(n))
    return circle.roll(-1)[circle.argsort()]


def mixed_pairs(pixels: Tensor) -> Tensor:
    """Each picture laid half and half over another one, see `partners`."""
    return to_bytes((pixels.float() + pixels[partners(len(pixels))].float()) / 2)


def watched_sets(test: Images, others: dict[str, Images]) -> dict[str, Tensor]:
    """The pictures whose logits are taken along training: 2,000 test images, and 400 of each unknown kind."""
    noise = as_jpeg(make_garbage("uniform noise", test.pixels[:400]))
    return {"test": test.pixels[:2000], "uniform noise": noise, **{k: v.pixels[:400] for k, v in others.items()}}


def recorded_sets(test: Images, others: dict[str, Images]) -> dict[str, tuple[Tensor, str]]:
    """Every set whose logits are recorded: its pixels, and what they are. Garbage passes through the same JPEG."""
    first = test.pixels[:GARBAGE_FROM]
    made = f"made of the first {GARBAGE_FROM:,} test images, seed 0, JPEG quality {QUALITY}"
    garbage = {kind: make_garbage(kind, first) for kind in GARBAGE} | {"mixed pairs": mixed_pairs(first)}
    garbage = {kind: (as_jpeg(pixels), made) for kind, pixels in garbage.items()}
    unknown = {name: (images.pixels, images.source) for name, images in others.items()}
    return {"test": (test.pixels, test.source), **garbage, **unknown}


def training_sets(images: Images, lossless: Images) -> dict[str, tuple[Images, str]]:
    """Training images: a fixed draw of those learned from, and pictures read lossless and as copies, in one order.

    Which copy belongs to which lossless image is read off the names.
    """
    pool, _ = split_off(images, min(VALIDATION, len(images.labels) // 10))
    drawn = pool[:DRAWN]  # in the order of `split_off`, which is random
    place = {name: i for i, name in enumerate(images.names)}
    index = torch.tensor([place[name] for name in lossless.names])
    copies = Images(images.pixels[index], images.labels[index], lossless.names, images.classes, images.source)
    train = Images(images.pixels[drawn], images.labels[drawn], [], images.classes, images.source)
    return {"train": (train, f"{len(drawn):,} of the images learned from: {images.source}"),
            "lossless": (lossless, lossless.source), "lossless, as JPEG": (copies, images.source)}  # fmt: skip


def labels_of(test: Images, others: dict[str, Images]) -> dict[str, Tensor]:
    """What the recorded pictures are labelled as, uint8; a mixed pair has two labels."""
    labels = {name: images.labels.to(torch.uint8) for name, images in {"test": test, **others}.items()}
    first = labels["test"][:GARBAGE_FROM]
    labels["mixed pairs"] = torch.stack([first, first[partners(len(first))]], 1)
    return {f"labels/{name}": values for name, values in labels.items()}


def held_out_of(images: Images, lossless: Images) -> Tensor:
    """1 for each lossless picture that was held out of training, else 0; uint8."""
    _, held_out = split_off(images, min(VALIDATION, len(images.labels) // 10))
    names = {images.names[i] for i in held_out}
    return torch.tensor([name in names for name in lossless.names], dtype=torch.uint8)


def export(model: FeatureClassifier, recipe: Recipe, card: dict) -> None:
    """Write the classifier's folder: float16 safetensors, its configuration, and how it was made."""
    folder = DATA / "models" / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
    with whole(folder / "model.safetensors") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    config = {"widths": recipe.widths, "features": recipe.features, "classes": 10}
    (folder / "config.json").write_text(json.dumps(config) + "\n", "utf-8")
    (folder / "recipe.json").write_text(json.dumps({**asdict(recipe), **card}, indent=1) + "\n", "utf-8")


def write_record(name: str, tensors: dict[str, Tensor], card: dict) -> None:
    """`data/recorded/NAME.safetensors`, and beside it the card that `utils.records.recorded` checks."""
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    with whole(FOLDER / f"{name}.safetensors") as file:
        file.write(save(tensors))
    card = {**card, "sha256": {key: fingerprint(tensor) for key, tensor in sorted(tensors.items())}}
    (FOLDER / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")


def record(model: FeatureClassifier, recipe: Recipe, log: dict, images: Images, test: Images, others: dict[str, Images],
           lossless: Images) -> dict[str, Tensor]:  # fmt: skip
    """Put on record what the classifier makes of every set: logits float32, features float16, labels uint8."""
    more = training_sets(images, lossless)
    sets = recorded_sets(test, others) | {name: (known.pixels, what) for name, (known, what) in more.items()}
    tensors = labels_of(test, others | {name: known for name, (known, _) in more.items()})
    for name, (pixels, _) in tqdm(sets.items(), desc="record"):
        features, tensors[name] = read_features(model, pixels)
        if not name.startswith("lossless"):  # of those, only the accuracy is asked
            tensors[f"features/{name}"] = features.half()
    along = {f"training/{step}/{name}": f for step, of_set in log.items() for name, f in of_set.items()}
    tensors |= {name: logits.half() for name, logits in along.items()}
    tensors["validation/lossless"] = held_out_of(images, lossless)
    known = {name: {"pixels": what, "sha256 of pixels": fingerprint(pixels)} for name, (pixels, what) in sets.items()}
    classes = {name: unknown.classes for name, unknown in others.items()}
    write_record(recipe.name, tensors, {"model": recipe.name, "sets": known, "classes": classes})
    return tensors


def measure(tensors: dict[str, Tensor]) -> dict[str, float]:
    """Accuracies of a record: on the test copies, and on lossless training images held out and their copies."""
    held_out = tensors["validation/lossless"].bool()
    parts = {"test": slice(None), "train": slice(None), "lossless": held_out, "lossless, as JPEG": held_out}
    return {name: accuracy(tensors[name][part], tensors[f"labels/{name}"][part]) for name, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--others", nargs="*", default=[], metavar="NAME=FILE", help="unknown pictures, as parquet")
    parser.add_argument("--lossless", metavar="FILE", help="training images that are no JPEG copies, as parquet")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    (images, line), (test, _) = load_cifar10("train"), load_cifar10("test")
    if images is None:
        print(f"{line}; the bundled classifiers and their records stay as they are")
        return
    others = {name: read_pictures(file) for name, file in (other.split("=", 1) for other in arguments.others)}
    whole = set(UNKNOWN) <= set(others) and arguments.lossless
    lossless = read_pictures(arguments.lossless, name="jpeg_path") if whole else None
    for recipe in (Recipe(seed) for seed in arguments.seeds):
        scratch = ROOT / "build" / "train" / f"{recipe.name}.pt"
        model, log = train(images, recipe, watched_sets(test, others), scratch=scratch)
        if whole:
            measured = measure(record(model, recipe, log, images, test, others, lossless))
            export(model, recipe, {"trained on": images.source, **measured})
        else:
            measured = {"test": accuracy(classify(model, test.pixels), test.labels)}
            print(f"data/ stays as it is: its record also needs --lossless, and --others {' '.join(UNKNOWN)}")
        print(f"{recipe.name}: accuracy " + ", ".join(f"{name} {value:.4f}" for name, value in measured.items()))


if __name__ == "__main__":
    main()
