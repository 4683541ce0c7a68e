"""Pictures, garbage, the classifier and its record: what is shipped is what was measured, on the pixels it names."""

import json
import os
import struct
import sys
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import test_hub
import torch
from PIL import Image
from test_hub import standin  # noqa: F401 (a fixture)

from utils import DATA, images, records, stats
from utils.energy import log_partition
from utils.gauge import shift
from utils.page import pictures, widgets
from utils.records import card, fingerprint, recorded
from utils.workshop import train_images

RNG = np.random.default_rng(0)
UNKNOWN = train_images.UNKNOWN
close = partial(torch.testing.assert_close, rtol=0, atol=1e-3)


def noise(n: int, rng) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8))


PICTURES = noise(24, RNG)


SEEDS = train_images.SEEDS
NAMES = [f"cifar10-{seed}" for seed in SEEDS]
each_seed = pytest.mark.parametrize("seed", SEEDS)


@pytest.fixture(scope="module")
def record():
    return recorded("cifar10-1"), card("cifar10-1")


@pytest.fixture(scope="module")
def model():
    return images.load_classifier()


@pytest.mark.parametrize("kind", ["uniform noise", "one colour"])
@pytest.mark.parametrize("name", NAMES)
def test_the_record_is_that_of_the_shipped_weights(name, kind):
    """On the kinds of garbage that are made of nothing, so that no photograph is needed to make them again."""
    made = images.make_garbage(kind, torch.zeros(train_images.GARBAGE_FROM, 3, 32, 32, dtype=torch.uint8))
    pixels = images.as_jpeg(made)
    assert fingerprint(pixels) == card(name)["sets"][kind]["sha256 of pixels"]
    network = images.load_classifier(DATA / "models" / name)
    close(images.classify(network, pixels[:500]), recorded(name)[kind][:500])


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_logits_have_the_accuracy_that_the_recipe_states(name):
    recipe = json.loads((DATA / "models" / name / "recipe.json").read_text("utf-8"))
    logits = recorded(name)
    assert train_images.accuracy(logits["test"], logits["labels/test"]) == pytest.approx(recipe["test"], abs=2e-4)


@each_seed
def test_the_pictures_themselves_give_the_recorded_logits_and_accuracy(seed):
    """Where CIFAR-10 is at hand: in full, from pixels to accuracy."""
    if not os.environ.get(images.FOLDER):
        pytest.skip(f"needs CIFAR-10's pictures, in the folder named by {images.FOLDER}")
    test, _ = images.load_cifar10("test")
    known = card(f"cifar10-{seed}")["sets"]["test"]["sha256 of pixels"]
    if fingerprint(test.pixels) != known:
        pytest.skip("the pictures at hand are not the JPEG copies on record")
    features, logits = images.read_features(images.load_classifier(DATA / "models" / f"cifar10-{seed}"), test.pixels)
    stated = json.loads((DATA / "models" / f"cifar10-{seed}" / "recipe.json").read_text("utf-8"))["test"]
    assert train_images.accuracy(logits, test.labels) == pytest.approx(stated, abs=2e-4)
    kept = recorded(f"cifar10-{seed}")
    close(logits, kept["test"])
    close(features, kept["features/test"].float(), atol=1e-2)


def test_a_record_made_anew_is_what_its_classifier_says_of_the_pictures_it_names(monkeypatch, tmp_path):
    """The whole workshop in small: train, export, record; then read again and classify the pictures once more."""
    rng, files = np.random.default_rng(2), {"train": 300, "test": 40, "lossless": 30} | dict.fromkeys(UNKNOWN, 25)
    for name, count in files.items():
        write_parquet(tmp_path / f"{name}-0.parquet", noise(count, rng), list(rng.integers(0, 10, count)))
    small = partial(train_images.Recipe, widths=(4, 6, 8), features=5, epochs=2, coarse=1, constant=1, averaged=1,
                    batch=90, bfloat16=False)  # fmt: skip
    for module, name, value in ((train_images, "GARBAGE_FROM", 20), (train_images, "DATA", tmp_path),
                                (train_images, "ROOT", tmp_path), (records, "FOLDER", tmp_path),
                                (train_images, "FOLDER", tmp_path), (train_images, "DRAWN", 50),
                                (train_images, "Recipe", small)):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv(images.FOLDER, str(tmp_path))
    others = [f"{name}={tmp_path / name}-0.parquet" for name in UNKNOWN]
    lossless = str(tmp_path / "lossless-0.parquet")
    monkeypatch.setattr(sys, "argv", ["train_images", "--seeds", "7", "--others", *others, "--lossless", lossless])
    train_images.main()
    logits, about = recorded("cifar10-7"), card("cifar10-7")
    model = images.load_classifier(tmp_path / "models" / "cifar10-7")
    assert json.loads((tmp_path / "models" / "cifar10-7" / "recipe.json").read_text("utf-8"))["seed"] == 7
    read = {name: train_images.read_pictures(tmp_path / f"{name}-0.parquet") for name in files}
    pixels = {name: read[name].pixels for name in ("test", *UNKNOWN)}
    pixels["mixed pairs"] = images.as_jpeg(train_images.mixed_pairs(pixels["test"][:20]))
    for name, known in pixels.items():
        assert fingerprint(known) == about["sets"][name]["sha256 of pixels"]
        close(images.classify(model, known), logits[name])
    assert torch.equal(read["textures"].labels.to(torch.uint8), logits["labels/textures"])
    pool, held_out = train_images.split_off(read["train"], 30)
    for name, source, rows in (("lossless", "lossless", slice(30)), ("lossless, as JPEG", "train", slice(30)),
                               ("train", "train", pool[:50])):  # fmt: skip
        pixels, labels = read[source].pixels[rows], read[source].labels[rows]
        assert fingerprint(pixels) == about["sets"][name]["sha256 of pixels"]
        features, expected = images.read_features(model, pixels)
        close(expected, logits[name])  # lossless pictures and copies are paired by name
        if name == "train":
            close(features, logits["features/train"].float(), atol=1e-2)
        assert torch.equal(labels.to(torch.uint8), logits[f"labels/{name}"])
    assert logits["validation/lossless"].tolist() == [int(i in held_out) for i in range(30)]
    assert [*logits["labels/mixed pairs"].shape] == [20, 2]


@each_seed
def test_the_record_of_each_seed_is_whole(seed):
    logits, about = recorded(f"cifar10-{seed}"), card(f"cifar10-{seed}")
    rows = dict.fromkeys((*images.GARBAGE, "mixed pairs", "tiny-imagenet", "mnist"), 2000)
    rows |= {"test": 10_000, "textures": 1200, "train": 5000, "lossless": 4000, "lossless, as JPEG": 4000}
    assert set(about["sets"]) == set(rows)
    head = images.load_classifier(DATA / "models" / f"cifar10-{seed}").head
    for name, n in rows.items():
        assert logits[name].shape == (n, 10)
        if name not in images.GARBAGE:
            assert len(logits[f"labels/{name}"]) == n
        if not name.startswith("lossless"):
            features = logits[f"features/{name}"].float()
            assert features.shape == (n, head.in_features)
            close(head(features), logits[name], atol=0.02)  # float16 features
    assert head.in_features <= 128 and logits["validation/lossless"].sum() == 147
    steps = {int(name.split("/")[1]) for name in logits if name.startswith("training/")}
    assert {*train_images.RECORD_AT} < steps and len(steps) == 6
    close(logits[f"training/{max(steps)}/test"].float(), logits["test"][:2000], atol=0.02)


def test_three_seeds_saw_the_same_pictures_and_fit_in_a_few_megabytes():
    sets = [card(f"cifar10-{seed}")["sets"] for seed in SEEDS]
    assert SEEDS and all(of_seed == sets[0] for of_seed in sets)
    size = {kind: sum(path.stat().st_size for path in DATA.glob(kind))
            for kind in ("models/cifar10-[123]/*.safetensors", "recorded/cifar10-[123].*")}  # fmt: skip
    assert size["models/cifar10-[123]/*.safetensors"] < 12e6 and size["recorded/cifar10-[123].*"] < 20e6


def test_a_picture_is_seen_a_pixel_to_either_side_and_in_the_mirror(model):
    values = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    down, up, *mirrored = images.views(values)
    assert torch.equal(down[:, :, 1:, 1:], values[:, :, :-1, :-1])
    assert torch.equal(up[:, :, :-1, :-1], values[:, :, 1:, 1:])
    assert all(torch.equal(view.flip(-1), mirror) for view, mirror in zip((down, up), mirrored, strict=True))
    alone = torch.stack([model.body(model.patches(view)) for view in images.views(images.centred(PICTURES))])
    close(model.features(PICTURES), alone.mean(0), atol=1e-5)


def test_batching_changes_nothing(model):
    close(images.classify(model, PICTURES), images.classify(model, PICTURES, batch=7), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_row_of_the_head_is_the_first_one_shrunk_by_the_decay_alone(name):
    """The gauge of a shipped classifier, predicted from its recipe without any data."""
    recipe = train_images.Recipe(int(name[-1]))
    per_epoch, averaged = 48_000 // recipe.batch, []
    scale = torch.ones(1, 1, requires_grad=True)
    optimizer, schedule = train_images.descent([scale], recipe, per_epoch)
    for step in range(recipe.steps(48_000)):
        scale.grad = torch.zeros_like(scale)
        optimizer.step()
        schedule.step()
        averaged += [scale.item()] * (step + 1 >= recipe.steps(48_000) - recipe.averaged * per_epoch)
    torch.manual_seed(recipe.seed)
    born = images.FeatureClassifier().head
    head = images.load_classifier(DATA / "models" / name).head
    close(head.weight.mean(0), np.mean(averaged) * born.weight.mean(0), atol=3e-4)
    close(head.bias.mean(), born.bias.mean(), atol=3e-4)


def test_no_gauge_changes_a_label_or_a_probability_and_any_auroc_can_be_had(record):
    logits, _ = record
    known, unknown = logits["test"].double(), logits["textures"].double()
    aurocs = []
    for t in (-50.0, 0.0, 50.0):
        turned = shift(unknown, torch.full((len(unknown),), t, dtype=torch.float64))
        assert torch.equal(turned.argmax(1), unknown.argmax(1))
        close(turned.softmax(1), unknown.softmax(1), atol=1e-12)
        aurocs.append(images.separation(-log_partition(known).numpy(), -log_partition(turned).numpy()).auroc.value)
    assert aurocs[0] == 1 > aurocs[1] > aurocs[2] == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: images.load_classifier(DATA / "models"), FileNotFoundError, r"config\.json"),
        (lambda: images.classify(torch.nn.Identity(), PICTURES.float()), ValueError, r"uint8 \[N, C, H, W\]"),
        (lambda: images.make_garbage("static", PICTURES), ValueError, "kind must be one of"),
        (lambda: images.separation([1.0], []), ValueError, "empty"),
        (lambda: images.separation([], [1.0]), ValueError, "empty"),
        (lambda: images.separation([1.0], [float("nan")]), ValueError, "NaN"),
        (lambda: images.load_cifar10("validation"), ValueError, "split must be"),
        (lambda: images.as_jpeg(PICTURES[:, :1]), ValueError, "three colour channels"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("kind", images.GARBAGE)
def test_garbage_has_the_shape_of_pictures_and_follows_its_seed(kind):
    first, again, other = (images.make_garbage(kind, PICTURES, seed) for seed in (0, 0, 1))
    assert first.dtype == torch.uint8 and first.shape == PICTURES.shape
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind in ("blurred", "inverted"))  # these two roll no dice
    assert not torch.equal(first, PICTURES)


def test_garbage_is_what_its_name_says():
    make = images.make_garbage
    assert torch.equal(make("inverted", make("inverted", PICTURES)), PICTURES)
    shuffled = make("shuffled blocks", PICTURES)
    assert torch.equal(shuffled.flatten(2).sort(-1).values, PICTURES.flatten(2).sort(-1).values)
    tile, cut = PICTURES[0, :, :8, :8], shuffled[0].unfold(1, 8, 8).unfold(2, 8, 8)  # [3, 4, 4, 8, 8]
    assert (cut == tile[:, None, None]).all(dim=(0, 3, 4)).sum() == 1  # a whole tile is found again, once
    plain = make("one colour", PICTURES)
    assert (plain == plain[:, :, :1, :1]).all()
    smooth = make("blurred", PICTURES)
    assert smooth.float().std() < 0.3 * PICTURES.float().std()
    assert smooth.float().mean() == pytest.approx(PICTURES.float().mean().item(), abs=2)
    assert torch.equal(images.corrupt(PICTURES, "blurred", 0.0), PICTURES)
    assert torch.equal(images.corrupt(PICTURES, "blurred", 1.0), smooth)


def test_mixed_pairs_are_half_of_each_of_two_different_pictures():
    partner = train_images.partners(24)
    assert sorted(partner.tolist()) == list(range(24))
    assert (partner != torch.arange(24)).all()
    mixed = train_images.mixed_pairs(PICTURES)
    half = (PICTURES.float() + PICTURES[partner].float()) / 2
    assert (mixed.float() - half).abs().max() <= 0.5


def test_separation_accepts_95_percent_of_the_known_and_draws_a_picture_with_its_garbage():
    known, unknown = RNG.normal(0, 1, 900), RNG.normal(1, 1.3, 400)
    answers = np.concatenate([known, unknown]), np.arange(1300) >= 900
    group = np.concatenate([np.arange(900), np.arange(400)]) % 200  # garbage sits where the picture sits
    found = images.separation(known, unknown)
    assert found.auroc == stats.auroc(*answers, group, resamples=400)
    accepted = np.quantile(known, 0.95, method="inverted_cdf")
    assert found.fpr95.value == pytest.approx((unknown <= accepted).mean())
    assert found.fpr95 == stats.fpr95(*answers, group, accept_right=True, resamples=400)


def test_scores_point_the_way_their_sources_say():
    """A confident row is less suspicious than an even one, by every score."""
    scores = images.suspicion(torch.tensor([[9.0, 0, 0, 0], [0.1, 0, 0, 0]]))
    assert list(scores) == ["−V", "−max f", "−max log p", "H", "−m", "−K"]
    assert (scores.iloc[0] < scores.iloc[1]).all()
    assert scores["−V"][0] == pytest.approx(-np.log(np.exp(9) + 3))
    np.testing.assert_allclose(scores["−V"], scores["−m"] - np.log(4) + scores["−K"])


def write_parquet(path, pixels, labels):
    rows = []
    for number, picture in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        file = BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": f"{number}.png"})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"img": rows, "label": labels, "jpeg_path": [row["path"] for row in rows]}), path)


def test_a_local_copy_in_the_hubs_layout_is_read(monkeypatch, tmp_path):
    write_parquet(tmp_path / "plain_text" / "test-00000-of-00001.parquet", PICTURES, list(range(10)) * 2 + [0] * 4)
    monkeypatch.setenv(images.FOLDER, str(tmp_path))
    read, line = images.load_cifar10("test")
    assert torch.equal(read.pixels, PICTURES) and read.labels[:10].tolist() == list(range(10))
    assert line == "CIFAR-10 test, local copy: 24 images"
    with pytest.raises(FileNotFoundError, match="one train-"):
        images.load_cifar10("train")


def test_without_a_copy_the_bundled_course_asks_no_network(monkeypatch):
    monkeypatch.delenv(images.FOLDER, raising=False)
    for ask in ("cached", "download"):
        monkeypatch.setattr(images.hub, ask, lambda *_: pytest.fail("asked the hub"))
    read, line = images.load_cifar10("test")
    assert read is None and "not at hand" in line


def allow_hub(monkeypatch):
    monkeypatch.delenv(images.FOLDER, raising=False)
    monkeypatch.setenv("SPILLED_ENERGY_MODELS", "auto")


def test_the_hubs_copy_is_fetched_once(standin, monkeypatch, tmp_path):  # noqa: F811
    """Against the stand-in hub of `test_hub.py`; the second time from the cache alone."""
    write_parquet(tmp_path / "test.parquet", PICTURES, [3] * 24)
    standin.files = {"plain_text/test-00000-of-00001.parquet": (tmp_path / "test.parquet").read_bytes()}
    monkeypatch.setattr(images, "REVISION", test_hub.REVISION)  # the one the stand-in has
    allow_hub(monkeypatch)
    for _ in range(2):
        read, line = images.load_cifar10("test")
        assert torch.equal(read.pixels, PICTURES) and set(read.labels.tolist()) == {3}
        assert line == f"CIFAR-10 test, uoft-cs/cifar10@{test_hub.REVISION[:7]}: 24 images"
        assert len(standin.fetched("test-00000-of-00001.parquet")) == 1


def test_a_hub_that_does_not_have_it_is_said_in_one_line(standin, monkeypatch):  # noqa: F811
    standin.manner = "missing"
    allow_hub(monkeypatch)
    said = "CIFAR-10's images are not at hand (the hub has no such public repository)"
    assert images.load_cifar10("test") == (None, said)


def test_a_parquet_file_without_pictures_is_refused(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="needs the columns img and label; it has text"):
        train_images.read_pictures(tmp_path / "x.parquet")


@pytest.fixture(scope="module")
def lesson():
    pixels, labels = noise(240, np.random.default_rng(1)), torch.arange(240) % 10
    return images.Images(pixels, labels, [""] * 240, images.CLASSES, "noise")


SMALL = train_images.Recipe(widths=(4, 6, 8), features=5, epochs=3, coarse=2, constant=2, averaged=2, batch=36)


@pytest.mark.parametrize("epochs", [1, 4])  # before and amid the averaging
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(epochs, lesson, monkeypatch, tmp_path):
    train = partial(train_images.train, lesson, watched={"some": lesson.pixels[:5]}, progress=False)
    (straight, log), (other, _) = train(SMALL), train(replace(SMALL, seed=4))
    save, scratch = train_images.save_scratch, tmp_path / "run.pt"

    def save_and_stop(*arguments):
        save(*arguments)
        if arguments[1] == 6 * epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_images, "save_scratch", save_and_stop)
        train(SMALL, scratch=scratch)
    draw, drawn = train_images.training_batch, []
    monkeypatch.setattr(train_images, "training_batch", lambda *a: drawn.append(a[-1]) or draw(*a))
    resumed, log_too = train(SMALL, scratch=scratch)
    settling = [*range(train_images.SETTLE)]
    assert drawn == [*range(6 * epochs, 30), *settling]  # the epochs before are not done again
    for model, same in ((resumed, True), (other, False)):
        assert all(map(torch.equal, straight.parameters(), model.parameters())) == same
    assert [*log] == [*log_too] == [0, 30]
    assert all(torch.equal(log[step]["some"], log_too[step]["some"]) for step in log)


def test_the_rate_rises_for_a_fifth_of_the_epochs_falls_to_nothing_and_then_is_constant():
    recipe = replace(SMALL, epochs=10, constant=3, rate=0.4, constant_rate=0.1)
    optimizer, schedule = train_images.descent([torch.ones(1, requires_grad=True)], recipe, per_epoch=4)
    rates = []
    for _ in range(52):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    close(torch.tensor(rates[:8]), 0.4 * torch.arange(1, 9) / 8)
    close(torch.tensor(rates[8:40]), 0.4 * torch.arange(32, 0, -1) / 32)
    assert rates[40:] == [0.1] * 12


def test_the_mean_of_the_last_weights_is_returned_with_batch_norms_that_know_it(lesson, monkeypatch):
    seen = []
    keep = lambda _, step, parts, log: seen.append([p.detach().clone() for p in parts["model"].parameters()])  # noqa: E731
    monkeypatch.setattr(train_images, "save_scratch", keep)
    monkeypatch.setattr(train_images, "SETTLE", 1)
    recipe = replace(SMALL, batch=216, coarse=0)  # one step an epoch
    model, _ = train_images.train(lesson, recipe, {}, progress=False)
    for got, *last in zip(model.parameters(), *seen[-3:], strict=True):  # after the third epoch and both of the others
        close(got, torch.stack(last).mean(0).half().float(), atol=1e-3)
    pool, _ = train_images.split_off(lesson, held_out=24)
    values = model.patches(images.centred(train_images.training_batch(lesson, pool, recipe, 0)[0]))
    known = model.body(values)
    close(known, model.body.train()(values), atol=0.02)  # as if the statistics were those of these pictures


def test_an_epoch_shows_every_training_image_once_and_mirrors_it_every_other_time(lesson):
    pool, held_out = train_images.split_off(lesson, held_out=24)
    assert sorted(torch.cat([pool, held_out]).tolist()) == list(range(240))
    draw = partial(train_images.training_batch, lesson, pool, replace(SMALL, shift=0, hole=0))
    epochs = [torch.cat([draw(step)[0] for step in steps]) for steps in (range(6), range(6, 12))]
    for original in lesson.pixels[pool[:20]].float():
        straight = [(epoch == original).all((1, 2, 3)).sum().item() for epoch in epochs]
        mirrored = [(epoch == original.flip(-1)).all((1, 2, 3)).sum().item() for epoch in epochs]
        assert sorted(straight) == sorted(mirrored) == [0, 1] and straight != mirrored


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_small_training_learns_and_its_exported_weights_say_the_same(bfloat16, monkeypatch, tmp_path):
    rng = np.random.default_rng(3)
    labels = torch.from_numpy(rng.integers(0, 6, 400))  # a class is a colour, and whether it comes in stripes
    pixels = noise(400, rng) // 2
    for picture, label in zip(pixels, labels, strict=True):
        picture[label % 3, :: 1 + label // 3] += 60
    lesson = images.Images(pixels[:300], labels[:300], [""] * 300, images.CLASSES, "colours")
    recipe = replace(SMALL, widths=(8, 16), features=12, epochs=20, coarse=10, shift=0, bfloat16=bfloat16)
    model, _ = train_images.train(lesson, recipe, {}, progress=False)
    logits = images.classify(model, pixels[300:])
    monkeypatch.setattr(train_images, "DATA", tmp_path)
    train_images.export(model, recipe, {"trained on": "colours"})
    again = images.load_classifier(tmp_path / "models" / recipe.name)
    assert torch.equal(images.classify(again, pixels[300:]), logits)
    assert train_images.accuracy(logits, labels[300:]) > 0.9


def test_the_first_epochs_see_small_pictures_and_the_others_whole_ones():
    sides = [train_images.shrink(PICTURES, SMALL, epoch).shape[-1] for epoch in range(3)]
    assert sides == [24, 24, 32]
    flat = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    close(train_images.shrink(flat, SMALL, 0), torch.full((1, 3, 24, 24), 77.0))


def test_shifts_move_the_picture_and_reflect_its_edges():
    ramp = torch.arange(32, dtype=torch.uint8).expand(40, 3, 32, 32)
    moved = train_images.augment(ramp, np.zeros(40, bool), 3, np.random.default_rng(0))
    starts = {tuple(row[:2].int().tolist()) for row in moved[:, 0, 0]}
    assert starts == {(3, 2), (2, 1), (1, 0), (0, 1), (1, 2), (2, 3), (3, 4)}


def test_half_of_the_pictures_are_turned_about_their_middle_and_zoomed():
    ramp = torch.arange(32.0).expand(40, 3, 32, 32)  # brighter to the right: a row's rise is cos(angle) × scale
    turned = train_images.turn(ramp, np.random.default_rng(0))
    same = (turned == ramp).all((1, 2, 3))
    assert same.sum() == 20
    inner = turned[~same][:, :, 12:20, 12:20]
    close(inner.mean((1, 2, 3)), torch.full((20,), 15.5))
    across = (inner[..., 1:] - inner[..., :-1]).mean((1, 2, 3))
    down = (inner[..., 1:, :] - inner[..., :-1, :]).mean((1, 2, 3))
    angle, scale = torch.rad2deg(torch.atan2(down, across)), (across**2 + down**2).sqrt().log()
    assert 10 < angle.abs().max() <= 15.01 and angle.min() < 0 < angle.max()
    assert 0.1 < scale.abs().max() <= 0.2001 and scale.min() < 0 < scale.max()
    close(train_images.turn(ramp, np.random.default_rng(0), degrees=0, zoom=0), ramp)


def test_recolouring_moves_contrast_brightness_and_saturation_and_nothing_else():
    grey = torch.linspace(60, 180, 32).expand(30, 3, 32, 32)
    recoloured = train_images.recolour(grey, np.random.default_rng(0))
    close(recoloured[:, 0], recoloured[:, 1])  # what has no colour gets none
    brightness = recoloured.mean((1, 2, 3)) - 120
    contrast = (recoloured[:, 0, 0, -1] - recoloured[:, 0, 0, 0]) / 120 - 1
    assert 15 < brightness.abs().max() <= 25.01 and 0.2 < contrast.abs().max() <= 0.301
    dull = torch.tensor([110.0, 120.0, 130.0]).view(1, 3, 1, 1).expand(30, 3, 8, 8)
    spread = train_images.recolour(dull, np.random.default_rng(0))[:, :, 0, 0]
    close(spread[:, 1] - spread[:, 0], spread[:, 2] - spread[:, 1], atol=1e-3)
    assert (spread[:, 0] < spread[:, 2]).all() and spread.diff(dim=1).std() > 1
    assert train_images.recolour(255 * (grey > 120).float(), np.random.default_rng(0)).max() <= 255


def test_only_the_last_epochs_turn_and_recolour(lesson, monkeypatch):
    pool, _ = train_images.split_off(lesson, held_out=24)
    for name in ("turn", "recolour"):
        monkeypatch.setattr(train_images, name, lambda pixels, rng: 0 * pixels)
    means = [train_images.training_batch(lesson, pool, SMALL, 6 * epoch)[0].mean() for epoch in range(5)]
    assert min(means[:3]) > 60 > 25 > max(means[3:])  # grey squares apart, those are black


def test_cutout_greys_one_square_of_each_picture_and_nothing_else():
    cut = train_images.cut_out(PICTURES.float(), 8, np.random.default_rng(0))
    grey = (cut == 120).all(1)  # [24, 32, 32]; noise is hardly ever 120 in all three colours
    assert (grey.sum((1, 2)) == 64).all()
    assert (grey.any(1).sum(1) == 8).all() and (grey.any(2).sum(1) == 8).all()  # eight columns and eight rows
    assert torch.equal(cut.permute(0, 2, 3, 1)[~grey], PICTURES.float().permute(0, 2, 3, 1)[~grey])
    assert len({tuple(place.flatten().nonzero()[0].tolist()) for place in grey}) > 10


@pytest.fixture(scope="module")
def digits():
    every = images.load_digits()
    parts = (slice(1200), slice(1200, None))
    return [every._replace(pixels=every.pixels[s], labels=every.labels[s]) for s in parts]


def test_a_digit_classifier_learns_in_seconds_and_v_follows_frequency(digits):
    seen, unseen = digits
    even = images.train_digits(seen)
    assert train_images.accuracy(images.classify(even, unseen.pixels), unseen.labels) > 0.88
    often = np.where(np.arange(10) < 5, 1.0, 0.01)
    for order in (often, often[::-1]):  # whichever half is rare has the lower V
        uneven = images.train_digits(seen, order[seen.labels].copy())
        v = log_partition(images.classify(uneven, unseen.pixels)).numpy()
        frequent = order[unseen.labels] == 1
        assert np.median(v[frequent]) > np.median(v[~frequent])


def test_the_widget_redraws_for_every_control(digits):
    _, unseen = digits
    classify = partial(images.classify, images.train_digits(unseen, steps=20))
    usual, kinds = log_partition(classify(unseen.pixels)).numpy(), ["uniform noise", "inverted"]
    box = widgets.image_corrupter(unseen, classify, images.corrupt, kinds, usual)
    seen = [box.picture.value]
    for control, value in (("amount", 0.7), ("kind", "inverted"), ("picture", 3)):
        box.controls[control].value = value
        seen.append(box.picture.value)
        assert "Picture" in box.sentence.value and "nats" in box.sentence.value
    assert len(set(seen)) == 4
    assert f"a {int(unseen.labels[3])}, 70% inverted" in box.sentence.value


def test_your_own_file_is_seen_as_the_classifier_sees_it_and_a_file_without_a_picture_is_refused(digits):
    """Through the upload: middle square, white where it was transparent, the JPEG; words for a file that is none."""
    model = images.load_classifier()
    canvas = Image.new("RGBA", (90, 60), (200, 30, 30, 255))
    canvas.paste((0, 0, 0, 0), (0, 0, 90, 30))  # the upper half is transparent
    files = {name: BytesIO() for name in ("red.png", "words.txt")}
    canvas.save(files["red.png"], "PNG")
    files["words.txt"].write(b"no picture")
    content = files["red.png"].getvalue()
    files["half.png"] = BytesIO(content[: len(content) // 2])
    files["<b>broken.png"] = BytesIO(content[:50] + b"x" + content[51:])
    files["bomb.png"] = BytesIO(content[:16] + struct.pack(">II", 60_000, 60_000) + content[24:29])
    files["bomb.png"].seek(0, 2)
    files["bomb.png"].write(struct.pack(">I", zlib.crc32(files["bomb.png"].getvalue()[12:29])) + content[33:])
    ship, seen = pictures.gallery()["ship"], pictures.from_file(files["red.png"])
    assert seen.shape == (3, 32, 32) and seen[:, 4, 16].min() > 240  # white
    assert torch.allclose(seen[:, 28, 16].float(), torch.tensor([200.0, 30, 30]), atol=6)
    box = widgets.own_picture(ship, pictures.from_file, partial(images.classify, model), images.CLASSES, np.arange(9))
    before = box.picture.value
    assert "no file yet" in box.sentence.value
    for name in files:
        content = memoryview(files[name].getvalue())
        box.controls["file"].value = ({"name": name, "type": "", "size": len(content), "content": content,
                                       "last_modified": datetime.now(UTC)},)  # fmt: skip
        logits = images.classify(model, seen[None])
        if name == "red.png":
            assert f"red.png: called {images.CLASSES[int(logits.argmax())]} with" in box.sentence.value
            assert f"V = {log_partition(logits).item():.1f} nats" in box.sentence.value and box.picture.value != before
        else:
            assert "holds no picture" in box.sentence.value and box.picture.value == "", name
