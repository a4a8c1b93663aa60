"""Fine-tuning and evaluating a model on scikit-image's photo of coins."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
import torchvision.models.detection
from click.testing import CliRunner, Result
from PIL import Image
from scipy import ndimage
from skimage import data, filters, measure, segmentation
from torch import Tensor, nn

from augu_api.config import Settings
from augu_api.detection.catalogue import Model, find, sha256_of
from augu_api.detection.engines import load
from augu_api.detection.torchvision import build
from augu_api.detection.training.dataset import PhotoDataset
from augu_api.detection.training.fine_tune import fine_tune
from augu_api.detection.training.loop import train
from augu_api.detection.training.photo_sets import Photo, Report, read, split
from augu_api.detection.training.recipe import Progress, Recipe
from augu_api.detection.training.sampler import ResumableSampler
from augu_api.operating.cli import main

COINS = data.coins()
SIDE = 176
Run = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def coin_boxes() -> list[tuple[int, int, int, int]]:
    """The corners (x1, y1, x2, y2) of the coins in the photo."""
    markers = (COINS > 150) * 2 + (COINS < 30) * 1
    filled = ndimage.binary_fill_holes(segmentation.watershed(filters.sobel(COINS), markers) - 1)
    regions = [region for region in measure.regionprops(measure.label(filled)) if region.area > 400]
    return [(x1, y1, x2, y2) for y1, x1, y2, x2 in (region.bbox for region in regions)]


def write_set(folder: Path, columns: tuple[int, int], count: int, seed: int) -> None:
    """Cut photos from some columns of the coins, with the boxes of coins that show mostly, in COCO's format."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number in range(count):
        x, y = random.integers(columns[0], columns[1] - SIDE + 1), random.integers(0, COINS.shape[0] - SIDE + 1)
        Image.fromarray(COINS[y : y + SIDE, x : x + SIDE]).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        for x1, y1, x2, y2 in coin_boxes():
            left, top, right, bottom = max(x1 - x, 0), max(y1 - y, 0), min(x2 - x, SIDE), min(y2 - y, SIDE)
            whole = (x2 - x1) * (y2 - y1)
            if right > left and bottom > top and (right - left) * (bottom - top) > 0.4 * whole:
                box = {"bbox": [int(v) for v in (left, top, right - left, bottom - top)], "category_id": 7}
                area = int((right - left) * (bottom - top))
                annotations.append(box | {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, "area": area})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "coin"}]}
    (folder / "boxes.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 photos of some coins in "train", and 6 photos of other coins in "validation"."""
    folder = tmp_path_factory.mktemp("photos")
    write_set(folder / "train", (0, 208), 24, 0)
    write_set(folder / "validation", (208, 384), 6, 1)
    return folder


def run(*command: object, folder: Path) -> Result:
    """Run a command of the models on a data folder."""
    return CliRunner().invoke(main, ["weights", *map(str, command)], env={"AUGU_DATA_DIR": str(folder / "data")})


def of(name: str, folder: Path) -> list[object]:
    """The options that name a set of photos."""
    return [f"--{name}images", folder, f"--{name}annotations", folder / "boxes.json"]


def done(result: Result) -> str:
    """The standard output of a command that succeeded."""
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def bundled(folder: Path) -> Model:
    """The bundled model."""
    return find("bundled", Settings.from_env({"AUGU_DATA_DIR": str(folder / "data")}))


def untrained(folder: Path) -> nn.Module:
    """The bundled model's module."""
    return build(bundled(folder))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all weights of the first are identical to those of the other."""
    return all(torch.equal(one[name], other[name]) for name in one)


def measured(model: object, photos: Path) -> dict[str, Any]:
    """The JSON of `weights evaluate` for a model on the validation photos."""
    command = ["evaluate", model, *of("", photos / "validation"), "--json"]
    return dict(json.loads(done(run(*command, folder=photos))))


# --- a whole training run


@pytest.fixture(scope="module")
def coins(photos: Path) -> Path:
    """The folder of the bundled model, fine-tuned on coins."""
    sets = *of("", photos / "train"), *of("validation-", photos / "validation")
    pace = "--steps", 24, "--batch", 3, "--rate", 1e-3, "--trunk-rate", 4e-4, "--validate", 12
    result = run("train", "bundled", *sets, *pace, "--output", photos / "coins", folder=photos)
    assert done(result) == ""
    assert re.search(r"^Training: 24 of 24, 0 s left, .*best AP 0\.", result.stderr, re.MULTILINE)
    worth, serves = result.stderr.splitlines()[-2:]
    facts = json.loads((photos / "coins" / "model.json").read_text())
    said = re.fullmatch(r"AP (0\.\d{3}), AP50 (0\.\d{3}|1\.000)\. (.*README\.md) is its model card\.", worth)
    assert said
    assert float(said[1]) == facts["ap"] < float(said[2])
    assert re.search(rf"^\| +{said[1]} \| +{said[2]} \|", Path(said[3]).read_text(), re.MULTILINE)
    assert serves == f"AUGU_MODEL={photos / 'coins'} serves it."
    return photos / "coins"


def test_coins_are_learnt(photos: Path, coins: Path) -> None:
    """The bundled model detects no coins; after 24 steps on 24 photos it detects other coins."""
    before, after = measured("bundled", photos), measured(coins, photos)
    assert before["AP"] == 0
    assert after["AP"] > 0.6
    [row] = after["by_category"]
    boxes = json.loads((photos / "validation" / "boxes.json").read_text())["annotations"]
    assert (row["name"], row["objects"]) == ("coin", len(boxes))


def test_the_folder_of_a_trained_model(photos: Path, coins: Path) -> None:
    """The folder has the weights, facts, export and card, and no temporary files of the training run."""
    names = ["README.md", "curves.png", "model.json", "model.onnx", "model.pth", "worst.png"]
    assert sorted(path.name for path in coins.iterdir()) == names
    facts = json.loads((coins / "model.json").read_text())
    assert facts["sha256"] == sha256_of(coins / "model.pth")
    assert facts["export_sha256"] == sha256_of(coins / "model.onnx")
    assert facts["megabytes"] == pytest.approx((coins / "model.pth").stat().st_size / 1e6, abs=0.1)
    assert facts["names"] == ["background", "coin"]
    assert facts["ap_measured_on"] == "6 photos for validation"
    assert facts["ap"] == pytest.approx(measured(coins, photos)["AP"], abs=0.01)
    calibration = facts["calibration"]
    assert (calibration[0], calibration[-1]) == ([0, 0], [1, 1])
    assert len(calibration) > 2
    assert calibration == sorted(calibration)
    assert [right for _, right in calibration] == sorted(right for _, right in calibration)
    card = (coins / "README.md").read_text()
    assert "Trained on 24 photos for 24 steps" in card
    assert "measured on 6 others" in card
    assert "| coin " in card
    for name in ("curves.png", "worst.png"):
        assert name in card
        with Image.open(coins / name) as picture:
            assert picture.format == "PNG"


@pytest.mark.parametrize("engine", ["onnx", "torchvision"])
def test_a_trained_model_is_served(photos: Path, coins: Path, engine: str) -> None:
    """AUGU_MODEL takes the folder, and both engines find the coins of a photo."""
    env = {"AUGU_DATA_DIR": str(photos / "data"), "AUGU_MODEL": str(coins), "AUGU_ENGINE": engine}
    detector = load(Settings.from_env(env))
    assert (detector.names, detector.facts["engine"]) == (("coin",), engine)
    found = [d.box for d in detector.detect(np.asarray(Image.fromarray(COINS).convert("RGB"))) if d.score > 0.5]
    centres = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in found]
    there = [any(x1 < x < x2 and y1 < y < y2 for x, y in centres) for x1, y1, x2, y2 in coin_boxes()]
    assert len(there) == 24
    assert sum(there) >= 20


def few(folder: Path, count: int) -> list[object]:
    """The options for a set of `count` photos and a short training."""
    write_set(folder / "few", (0, 208), count, 2)
    return [*of("", folder / "few"), "--steps", 2, "--batch", 2, "--validate", 1, "--output", folder / "model"]


def test_some_photos_are_held_out(tmp_path: Path) -> None:
    """Without photos for validation every tenth is held out, and frozen parts do not change."""
    options = [*few(tmp_path, 11), "--freeze", "backbone", "--freeze", "rpn"]
    done(run("train", "bundled", *options, folder=tmp_path))
    assert "Trained on 9 photos for 2 steps" in (tmp_path / "model" / "README.md").read_text()
    facts = json.loads((tmp_path / "model" / "model.json").read_text())
    assert facts["ap_measured_on"] == "2 photos for validation"
    weights = torch.load(tmp_path / "model" / "model.pth", weights_only=True)
    replaced = "roi_heads", "rpn.head.names"  # they know other classes
    frozen = {name: v for name, v in untrained(tmp_path).state_dict().items() if not name.startswith(replaced)}
    assert same(frozen, weights)


def test_the_seed_determines_the_new_classes(tmp_path: Path) -> None:
    """With the same seed, the layers of new classes start and end with the same weights."""
    write_set(tmp_path / "few", (0, 208), 2, 0)
    photos = read(tmp_path / "few", tmp_path / "few" / "boxes.json", Report())
    parts, recipe = split(photos, None, Report()), Recipe(steps=1, batch=1, workers=0)

    def interrupt(_: Progress) -> NoReturn:
        """Stop after the step: what comes then is the same for all weights."""
        raise KeyboardInterrupt

    def weights(seed: int, folder: Path) -> dict[str, Tensor]:
        with pytest.raises(KeyboardInterrupt):
            fine_tune(bundled(tmp_path), parts, replace(recipe, seed=seed), folder, interrupt)
        return dict(torch.load(folder / "best.pth", weights_only=True)["state"])

    first, again, other = (weights(seed, tmp_path / name) for seed, name in ((0, "first"), (0, "again"), (1, "other")))
    assert same(first, again)
    assert not same(first, other)


def test_patience(tmp_path: Path) -> None:
    """Training stops after `--patience` validations without a better one, and saves the model."""
    options = [*few(tmp_path, 2), "--steps", 9, "--patience", 1, "--rate", 1e-9, "--trunk-rate", 1e-9]
    done(run("train", "bundled", *options, folder=tmp_path))
    assert json.loads((tmp_path / "model" / "model.json").read_text())["ap"] >= 0
    assert "Trained on 1 photos for 2 steps" in (tmp_path / "model" / "README.md").read_text()


def test_a_failed_export_can_be_repeated(tmp_path: Path) -> None:
    """If the trained model cannot be written, the same command writes it later without training again.

    With more steps, training continues, and better weights from before are kept.
    """
    options, model = few(tmp_path, 2), tmp_path / "model"
    obstacle = model / "model.onnx.part"
    obstacle.mkdir(parents=True)
    result = run("train", "bundled", *options, folder=tmp_path)
    assert result.exit_code == 1
    assert "model.onnx.part" in result.stderr.splitlines()[-1]
    weights = (model / "model.pth").read_bytes()
    obstacle.rmdir()
    shutil.copytree(model, tmp_path / "other")
    done(
        run("train", "bundled", *options, "--seed", 1, folder=tmp_path)
    )  # training with another seed would give other weights
    assert (model / "model.pth").read_bytes() == weights
    assert not (model / "checkpoint.pth").exists()
    assert "for 2 steps" in (model / "README.md").read_text()
    best = torch.load(tmp_path / "other" / "best.pth", weights_only=True)
    torch.save(best | {"validations": [(1, 0.99)]}, tmp_path / "other" / "best.pth")
    done(run("train", "bundled", *options, "--steps", 3, "--output", tmp_path / "other", folder=tmp_path))
    assert "for 3 steps" in (tmp_path / "other" / "README.md").read_text()
    assert (tmp_path / "other" / "model.pth").read_bytes() == weights


# --- what goes wrong

COIN = [{"id": 7, "name": "coin"}]


def assert_one_line(result: Result, message: str) -> None:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    *_, line = result.stderr.splitlines()
    assert message in line
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_photos(tmp_path: Path, count: int) -> None:
    """A set that is too small to leave photos with objects for training and for validation is refused."""
    message = ("has 0 photos but no objects", "has 1 photos; training needs two photos with objects")[count]
    assert_one_line(run("train", "bundled", *few(tmp_path, count), folder=tmp_path), message)


def test_other_failures(tmp_path: Path) -> None:
    """An unknown model and bad boxes to ignore are refused; half of a validation is bad use."""
    options = few(tmp_path, 2)
    assert_one_line(run("train", "nothing", *options, folder=tmp_path), "neither a folder with a model.json")
    (tmp_path / "ignore.json").write_text("{}")
    ignore = "--ignore", tmp_path / "ignore.json"
    message = 'ignore.json: is not in COCO\'s format: "annotations" is missing'
    assert_one_line(run("train", "bundled", *options, *ignore, folder=tmp_path), message)
    for half in (of("validation-", tmp_path / "few")[:2], of("validation-", tmp_path / "few")[2:]):
        result = run("train", "bundled", *options, *half, folder=tmp_path)
        assert result.exit_code == 2
        assert "--validation-images and --validation-annotations belong together." in result.stderr.splitlines()[-1]


# --- the photos


def dataset_of(folder: Path, ignore: Path | None = None) -> PhotoDataset:
    """The photos of a set, whose boxes get the label 1."""
    return PhotoDataset(read(folder, folder / "boxes.json", Report(), ignore=ignore).photos, {1: 1})


def bright(folder: Path) -> Path:
    """A wide black photo with three white boxes, of which one has a score and one is a crowd."""
    folder.mkdir()
    corners = [(10, 20, 50, 60), (80, 10, 130, 50), (150, 40, 190, 90)]
    photo = np.zeros((100, 200, 3), np.uint8)
    for x1, y1, x2, y2 in corners:
        photo[y1:y2, x1:x2] = 255
    Image.fromarray(photo).save(folder / "0.png")
    more: list[dict[str, object]] = [{}, {"score": 0.5}, {"iscrowd": 1}]
    boxes = [
        {"image_id": 3, "category_id": 7, "bbox": [x1, y1, x2 - x1, y2 - y1]} | facts
        for (x1, y1, x2, y2), facts in zip(corners, more, strict=True)
    ]
    content = {"images": [{"id": 3, "file_name": "0.png"}], "annotations": boxes, "categories": COIN}
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder


def test_boxes_are_read(tmp_path: Path) -> None:
    """A box has its category's label and its score (default 1); crowds and the boxes of --ignore are ignored."""
    folder = bright(tmp_path / "bright")
    ignore = tmp_path / "ignore.json"
    ignore.write_text(json.dumps({"annotations": [{"image_id": 3, "bbox": [1, 2, 3, 4]}]}))
    photos = dataset_of(folder, ignore=ignore)
    assert [(*box.xywh, box.crowd, box.score) for box in photos.photos[0].boxes] == [
        (10, 20, 40, 40, False, 1.0),
        (80, 10, 50, 40, False, 0.5),
        (150, 40, 40, 50, True, 1.0),
        (1, 2, 3, 4, True, 1.0),
    ]
    photos.transform = lambda photo, target: (photo, target)
    _, target = photos[0, 0]
    assert target["labels"].tolist() == [1, 1]
    assert target["scores"].tolist() == [1.0, 0.5]
    assert target["ignore"].tolist() == [[150, 40, 190, 90], [1, 2, 4, 6]]


def test_photos_change_with_their_boxes(tmp_path: Path) -> None:
    """Augmentation moves boxes together with their objects and keeps their scores; the seed determines it."""
    photos = dataset_of(bright(tmp_path / "bright"))
    seen: Counter[str] = Counter()
    for seed in range(60):
        image, target = photos[0, seed]
        again, same = photos[0, seed]
        assert torch.equal(image, again)
        assert all(torch.equal(target[key], same[key]) for key in target)
        assert (image.shape[0], image.dtype, target["boxes"].dtype) == (3, torch.float32, torch.float32)
        assert len(target["boxes"]) == len(target["labels"]) == len(target["scores"])
        assert set(target["labels"].tolist()) <= {1}
        assert set(target["scores"].tolist()) <= {1.0, 0.5}
        for x1, y1, x2, y2 in torch.cat([target["boxes"], target["ignore"]]).round().int().tolist():
            assert 0 <= x1 < x2 <= image.shape[2]
            assert 0 <= y1 < y2 <= image.shape[1]
            assert image[:, y1:y2, x1:x2].mean() > 0.7
        seen.update(scores=len(target["scores"]), ignored=len(target["ignore"]))
        seen[str(tuple(image.shape))] += 1
    assert seen["scores"] > 60
    assert 30 < seen["ignored"] <= 60
    assert len(seen) > 10  # of different sizes


def test_photos_without_boxes(tmp_path: Path) -> None:
    """A photo without boxes has a target with empty tensors of the usual types."""
    write_set(tmp_path / "set", (0, 208), 1, 0)
    photos = PhotoDataset([Photo(0, "0.png", tmp_path / "set" / "0.png", [])], {})
    for seed in range(10):
        _, target = photos[0, seed]
        assert {key: (tuple(value.shape), value.dtype) for key, value in target.items()} == {
            "boxes": ((0, 4), torch.float32),
            "labels": ((0,), torch.int64),
            "scores": ((0,), torch.float32),
            "ignore": ((0, 4), torch.float32),
        }


@pytest.mark.parametrize(("photos", "batch"), [(7, 3), (2, 5), (12, 4), (1, 1)])
def test_the_order_of_photos(photos: int, batch: int) -> None:
    """Each photo comes once per epoch, each time with another seed, in batches of the recipe's size."""
    recipe = Recipe(steps=20, batch=batch, seed=5)
    batches = list(ResumableSampler(photos, recipe, 0))
    assert [len(one) for one in batches] == [batch] * 20
    indices, seeds = zip(*(sample for one in batches for sample in one), strict=True)
    epochs = [indices[at : at + photos] for at in range(0, len(indices) - photos + 1, photos)]
    assert all(sorted(epoch) == list(range(photos)) for epoch in epochs)
    assert len(set(seeds)) == len(seeds)
    assert photos < 3 or len(set(epochs)) > 1


@pytest.mark.parametrize("start", [0, 1, 7, 19, 20])
def test_the_order_of_photos_is_resumed(start: int) -> None:
    """Starting at a later step gives the same batches as an uninterrupted run."""
    recipe = Recipe(steps=20, batch=3, seed=5)
    whole, rest = list(ResumableSampler(7, recipe, 0)), ResumableSampler(7, recipe, start)
    assert list(rest) == whole[start:]
    assert len(rest) == 20 - start


def test_the_seed_determines_order_and_augmentation(tmp_path: Path) -> None:
    """Another seed gives another order of the photos and other augmentations."""
    photos = dataset_of(bright(tmp_path / "bright"))
    one, other = (next(iter(ResumableSampler(100, Recipe(batch=20, seed=seed), 0))) for seed in (0, 1))
    assert [index for index, _ in one] != [index for index, _ in other]
    pairs = [(photos[0, seed][0], photos[0, another][0]) for (_, seed), (_, another) in zip(one, other, strict=True)]
    assert sum(torch.equal(image, another) for image, another in pairs) < len(pairs) / 2


# --- the steps

SHORT = Recipe(steps=4, batch=1, warmup=2, rate=1e-3, trunk_rate=1e-3, workers=0)


def trained(photos: Path, checkpoint: Path, recipe: Recipe, until: int = 99) -> tuple[list[int], dict[str, Tensor]]:
    """The steps that were run, and the weights after them."""
    steps: list[int] = []

    def watch(step: int, losses: dict[str, Tensor], average: nn.Module) -> bool:
        assert all(loss.isfinite() for loss in losses.values())
        steps.append(step)
        return step < until

    module = train(untrained(photos), dataset_of(photos / "train"), recipe, checkpoint, watch)
    return steps, module.state_dict()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_resumes_exactly(photos: Path, tmp_path: Path, optimizer: str) -> None:
    """Training that is stopped and resumed gives exactly the weights of an uninterrupted run."""
    recipe = replace(SHORT, optimizer=optimizer)
    steps, whole = trained(photos, tmp_path / "whole", recipe)
    assert steps == [1, 2, 3, 4]
    steps, half = trained(photos, tmp_path / "parts", recipe, until=2)
    assert steps == [1, 2]
    assert not same(half, whole)
    steps, rest = trained(photos, tmp_path / "parts", recipe)
    assert steps == [3, 4]
    assert same(rest, whole)
    steps, rest = trained(photos, tmp_path / "parts", recipe)
    assert steps == []
    assert same(rest, whole)


def test_the_seed_determines_the_weights(photos: Path, tmp_path: Path) -> None:
    """The same seed gives exactly the same weights, and another seed gives others."""
    weights = [trained(photos, tmp_path / str(at), replace(SHORT, seed=seed))[1] for at, seed in enumerate((0, 0, 1))]
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


@pytest.mark.parametrize("frozen", [("backbone", "rpn"), ("roi_heads",), ("backbone.dark3",)])
def test_frozen_parts_stay(photos: Path, tmp_path: Path, frozen: tuple[str, ...]) -> None:
    """Frozen parts do not change at all, and all trained parts do."""
    before = untrained(tmp_path).state_dict()
    _, after = trained(photos, tmp_path / "checkpoint", replace(SHORT, frozen=frozen))
    for name, value in before.items():
        stays = name.startswith((*frozen, "rpn.head.names"))  # no loss trains the class map of the RPN
        assert torch.equal(after[name], value) == stays, name


def test_models_with_batch_norm_are_trained(photos: Path, tmp_path: Path) -> None:
    """A torchvision model can be trained: its batch norm statistics are averaged, and its counters copied."""
    torch.manual_seed(0)
    make = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    small = {"min_size": 64, "rpn_pre_nms_top_n_train": 100, "box_batch_size_per_image": 16}
    module = make(weights=None, weights_backbone=None, num_classes=2, **small)
    recipe = replace(SHORT, steps=2)
    average = train(module, dataset_of(photos / "train"), recipe, tmp_path / "checkpoint", lambda *_: True)
    state = average.state_dict()
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert counters
    assert all(int(state[name]) == 2 for name in counters)
    assert all(value.isfinite().all() for value in state.values())
