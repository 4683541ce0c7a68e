"""How the CIFAR-10 classifier and its record were made: `python -m utils.workshop.train_images` (or `make train`).

Like `utils.workshop.train`: seeded, with a progress bar, resumed from `build/train/` when it was interrupted. Each step
depends on (seed, step) alone. The loss is plain cross-entropy: label smoothing or temperature would reshape the
very logits this course looks at. All choices were made on 5,000 training images held out for validation.
"""

import argparse
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import DATA, ROOT
from ..images import (
    GARBAGE,
    Classifier,
    Images,
    classify,
    decode,
    load_cifar10,
    make_garbage,
    read_parquet,
    to_bytes,
)
from ..records import FOLDER, fingerprint

NAME = "cifar10-resnet"
RECORD = FOLDER / "cifar10-logits"
RECORD_AT = (0, 30, 100, 300, 900)  # and the last step
VALIDATION = 5000
UNKNOWN = ("tiny-imagenet", "textures", "mnist")  # sets of unknown pictures on record
GARBAGE_FROM = 2000  # garbage is made of the first so many test images
QUALITY = 75  # of the JPEG copies the classifier was trained on


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the training run."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    epochs: int = 12
    batch: int = 256
    rate: float = 0.3  # highest, after a fifth of the steps
    momentum: float = 0.9
    decay: float = 5e-4  # of the convolutions and the head's matrix
    shift: int = 3  # pixels
    seed: int = 0

    def steps(self, images: int) -> int:
        return self.epochs * (images // self.batch)


def split_off(images: Images, seed: int, held_out: int = VALIDATION) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the validation images."""
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(images.labels)))
    return order[held_out:], order[:held_out]


def training_batch(images: Images, pool: Tensor, recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """The augmented pictures (float32 [B, 3, H, W]) and labels of one step; depends on (seed, step) alone.

    Every epoch passes over the `pool` once in a new order. A picture is mirrored in every other epoch
    (alternating flips: Jordan, arXiv 2404.00498), and shifted by up to `recipe.shift` pixels.
    """
    epoch, position = divmod(step, len(pool) // recipe.batch)
    order = np.random.default_rng([recipe.seed, 2, epoch]).permutation(len(pool))
    index = pool[order[position * recipe.batch : (position + 1) * recipe.batch]]
    coin = np.random.default_rng([recipe.seed, 3]).integers(0, 2, len(images.labels))[index]
    rng = np.random.default_rng([recipe.seed, 4, step])
    return augment(images.pixels[index], (coin + epoch) % 2 == 1, recipe.shift, rng), images.labels[index]


def augment(pixels: Tensor, mirror: np.ndarray, shift: int, rng: np.random.Generator) -> Tensor:
    """Mirror some pictures [N, 3, H, W], shift each by up to `shift` pixels, its edges reflected."""
    n, _, height, width = pixels.shape
    padded = nn.functional.pad(pixels.float(), (shift,) * 4, mode="reflect")
    rows = np.arange(height) + rng.integers(0, 2 * shift + 1, (n, 1))
    columns = np.arange(width) + rng.integers(0, 2 * shift + 1, (n, 1))
    columns = np.where(mirror[:, None], columns[:, ::-1], columns)
    return padded[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def build(recipe: Recipe) -> Classifier:
    torch.manual_seed(recipe.seed)
    return Classifier(recipe.widths).to(memory_format=torch.channels_last)


def descent(parameters, recipe: Recipe, total: int):
    """SGD with Nesterov's momentum, and its rate: up for a fifth of the `total` steps, then down to 0."""
    parameters = list(parameters)
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, recipe.rate, recipe.momentum, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.2 * total), max(0, total - step) / (0.8 * total))
    )
    return optimizer, schedule


def train(images: Images, recipe: Recipe, watched: dict[str, Tensor], progress: bool = True, scratch=None):
    """Train the classifier; returns it with its weights rounded to float16, and `{step: {set: logits}}`.

    `watched` names the pixels whose logits are taken along the way, `scratch` the file an interrupted run
    is resumed from.
    """
    pool, held_out = split_off(images, recipe.seed, min(VALIDATION, len(images.labels) // 10))
    model, total = build(recipe), recipe.steps(len(pool))
    optimizer, schedule = descent(model.parameters(), recipe, total)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first, log = resume(scratch, parts)
    bar = tqdm(range(first, total + 1), initial=first, total=total + 1, desc=NAME, disable=not progress)
    for step in bar:
        if step in (*RECORD_AT, total) and step not in log:
            log[step] = {name: classify(rounded(model, recipe), pixels) for name, pixels in watched.items()}
        if step == total:
            break
        pixels, labels = training_batch(images, pool, recipe, step)
        loss = nn.functional.cross_entropy(model(pixels), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % (len(pool) // recipe.batch) == 0:
            save_scratch(scratch, step + 1, parts, log)
            if progress:
                good = accuracy(classify(rounded(model, recipe), images.pixels[held_out]), images.labels[held_out])
                tqdm.write(f"step {step + 1}: loss {loss.item():.3f}, validation accuracy {good:.4f}")
    return rounded(model, recipe), log


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest logit is the label's."""
    return (logits.argmax(-1) == labels).double().mean().item()


def rounded(model: Classifier, recipe: Recipe) -> Classifier:
    """A copy with its weights rounded to float16, as they are shipped: what is measured is what you get."""
    copy = Classifier(recipe.widths).to(memory_format=torch.channels_last)
    weights = model.state_dict().items()
    copy.load_state_dict({key: v.half().float() if v.is_floating_point() else v for key, v in weights})
    return copy.eval().requires_grad_(False)


def save_scratch(scratch: Path | None, step: int, parts: dict, log: dict) -> None:
    """Everything needed to go on after an interruption; written beside, then moved, so it is never half a file."""
    if scratch is None:
        return
    scratch.parent.mkdir(parents=True, exist_ok=True)
    state = {key: part.state_dict() for key, part in parts.items()}
    torch.save({"step": step, "log": log, **state}, scratch.with_suffix(".new"))
    scratch.with_suffix(".new").replace(scratch)


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


def as_jpeg(pixels: Tensor) -> Tensor:
    """RGB pictures after a JPEG's round trip, so that compression cannot tell one set from another."""
    if pixels.shape[1] != 3:
        raise ValueError(f"as_jpeg needs three colour channels; got {pixels.shape[1]}")
    files = [io.BytesIO() for _ in pixels]
    for picture, file in zip(pixels.permute(0, 2, 3, 1).numpy(), files, strict=True):
        Image.fromarray(picture).save(file, "JPEG", quality=QUALITY)
    return decode(file.getvalue() for file in files)


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


def labels_of(test: Images, others: dict[str, Images]) -> dict[str, Tensor]:
    """What the recorded pictures are labelled as, uint8; a mixed pair has two labels."""
    labels = {name: images.labels.to(torch.uint8) for name, images in {"test": test, **others}.items()}
    first = labels["test"][:GARBAGE_FROM]
    labels["mixed pairs"] = torch.stack([first, first[partners(GARBAGE_FROM)]], 1)
    return {f"labels/{name}": values for name, values in labels.items()}


def export(model: Classifier, recipe: Recipe, card: dict) -> None:
    """Write the classifier's folder: float16 safetensors, its configuration, and how it was made."""
    folder = DATA / "models" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"widths": recipe.widths, "classes": 10}) + "\n")
    (folder / "recipe.json").write_text(json.dumps({**asdict(recipe), **card}, indent=1) + "\n")


def write_record(tensors: dict[str, Tensor], card: dict) -> None:
    """`data/recorded/cifar10-logits.safetensors`, and beside it the card that `utils.records.recorded` checks."""
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, RECORD.with_suffix(".safetensors"))
    card = {**card, "sha256": {name: fingerprint(tensor) for name, tensor in sorted(tensors.items())}}
    RECORD.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")


def against_copies(model: Classifier, lossless: Images, copies: Images, validation: Tensor) -> dict[str, Tensor]:
    """Logits of training images read lossless and from the JPEG copies the classifier was trained on, in one order.

    Which copy belongs to which image is read off the names; `validation` marks those held out of training.
    """
    place = {name: i for i, name in enumerate(copies.names)}
    index = torch.tensor([place[name] for name in lossless.names])
    return {
        "lossless": classify(model, lossless.pixels),
        "lossless, as JPEG": classify(model, copies.pixels[index]),
        "labels/lossless": lossless.labels.to(torch.uint8),
        "validation/lossless": torch.isin(index, validation).to(torch.uint8),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--others", nargs="*", default=[], metavar="NAME=FILE", help="unknown pictures, as parquet")
    parser.add_argument("--lossless", metavar="FILE", help="training images that are no JPEG copies, as parquet")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    (images, line), (test, _) = load_cifar10("train"), load_cifar10("test")
    if images is None:
        print(f"{line}; the bundled classifier and its record stay as they are")
        return
    others = {name: read_pictures(file) for name, file in (other.split("=", 1) for other in arguments.others)}
    recipe, scratch = Recipe(), ROOT / "build" / "train" / f"{NAME}.pt"
    model, log = train(images, recipe, watched_sets(test, others), scratch=scratch)
    _, held_out = split_off(images, recipe.seed)
    validation = accuracy(classify(model, images.pixels[held_out]), images.labels[held_out])
    measured = {"validation": validation, "test": accuracy(classify(model, test.pixels), test.labels)}
    print(f"{NAME}: validation accuracy {validation:.4f}, test accuracy {measured['test']:.4f}")
    if not (set(UNKNOWN) <= set(others) and arguments.lossless):
        print(f"data/ stays as it is: its record also needs --lossless, and --others {' '.join(UNKNOWN)}")
        return
    sets = recorded_sets(test, others)
    tensors = {name: classify(model, pixels) for name, (pixels, _) in sets.items()}
    tensors |= labels_of(test, others)
    tensors |= {f"training/{step}/{name}": logits for step, sets_ in log.items() for name, logits in sets_.items()}
    tensors |= against_copies(model, read_pictures(arguments.lossless, name="jpeg_path"), images, held_out)
    known = {name: {"pixels": what, "sha256 of pixels": fingerprint(pixels)} for name, (pixels, what) in sets.items()}
    classes = {name: unknown.classes for name, unknown in others.items()}
    write_record(tensors, {"model": NAME, "sets": known, "classes": classes})
    export(model, recipe, {"trained on": images.source, **measured})


if __name__ == "__main__":
    main()
