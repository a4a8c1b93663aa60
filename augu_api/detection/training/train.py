"""Fine-tune a model of the catalogue on photos with boxes in COCO's format."""

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tabulate import tabulate
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from augu_api.detection import ModelUnavailable
from augu_api.detection.catalogue import Model, sha256_of
from augu_api.detection.nano import rename
from augu_api.detection.torchvision import TorchvisionEngine, build
from augu_api.detection.training.evaluate import Evaluation, check_present
from augu_api.detection.training.export import export
from augu_api.detection.training.recipe import Data, Progress, Recipe

GREY = (124, 116, 104)  # the mean of ImageNet: what a photo's surroundings are filled with
CHECKPOINT = "checkpoint.pth"
IGNORED = -1  # the label of a box to ignore
MAX_NORM = 5.0  # of the gradient
KEEP_EVERY = 100  # steps
HELD_OUT = 10  # of so many photos one is kept for validation, if no other photos are given for that
CHECKED = 20  # photos on which the export must find what the module finds
OPTIMIZERS: dict[str, Any] = {"adamw": torch.optim.AdamW, "sgd": partial(torch.optim.SGD, momentum=0.9)}
CARD = """# {model.name}

A Faster R-CNN ({model.architecture}), made by `augu-api weights train`. `AUGU_MODEL=path/of/this/folder` serves it.

Trained on {photos} photos for {steps} steps ({recipe}); measured on {judged} others:

{results}

{names}

![Precision over recall, and how often a score is right](curves.png)

The photos with the most mistakes: boxes as found, and in dashes what was missed.

![Photos with boxes](worst.png)
"""
Target = dict[str, Tensor]
Boxes = dict[int, list[tuple[list[float], int, float]]]


# --- the photos


class Photos(Dataset[tuple[Tensor, Target]]):
    """Photos with boxes: (index, seed) -> an RGB photo (3, H, W) from 0 to 1, and its target.

    The target has "boxes" (N, 4), "labels" (N), "scores" (N: how likely each is right, an annotation's own "score") and
    "ignore" (K, 4).
    """

    def __init__(self, files: list[Path], boxes: list[list[tuple[list[float], int, float]]]) -> None:
        self.files, self.boxes = files, boxes
        self.transform = augmentation()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: tuple[int, int]) -> tuple[Tensor, Target]:
        index, seed = at
        torch.manual_seed(seed)
        random.seed(seed)
        with Image.open(self.files[index]) as file:
            photo = file.convert("RGB")
        rows = self.boxes[index]
        corners = torch.tensor([[x, y, x + w, y + h] for (x, y, w, h), _, _ in rows], dtype=torch.float32)
        size = photo.height, photo.width
        target = {
            "boxes": BoundingBoxes(corners.reshape(-1, 4), format=BoundingBoxFormat.XYXY, canvas_size=size),
            "labels": torch.tensor([label for _, label, _ in rows], dtype=torch.int64),
            "scores": torch.tensor([score for _, _, score in rows], dtype=torch.float32),
        }
        image, target = self.transform(photo, target)
        counts, whole = target["labels"] != IGNORED, target["boxes"].as_subclass(Tensor)
        kept = {"boxes": whole[counts], "labels": target["labels"][counts], "scores": target["scores"][counts]}
        return image, kept | {"ignore": whole[~counts]}


def augmentation() -> v2.Transform:
    """Change the colours, zoom out, crop so that boxes are kept, and flip."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomPhotometricDistort(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.7, 1.3), p=0.3),
            v2.RandomZoomOut(fill=GREY, side_range=(1.0, 1.7), p=0.2),
            v2.RandomApply([v2.RandomIoUCrop(min_scale=0.5, sampler_options=[0.5, 0.7, 0.9, 1.0])], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(min_size=3, labels_getter=lambda all: (all[1]["labels"], all[1]["scores"])),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


class Schedule(Sampler[list[tuple[int, int]]]):
    """Batches of (index, seed) from step `start` on: every photo once before any comes again, the same for a seed."""

    def __init__(self, photos: int, recipe: Recipe, start: int) -> None:
        self.photos, self.recipe, self.start = photos, recipe, start

    def __len__(self) -> int:
        return self.recipe.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        seed, batch, epoch = self.recipe.seed * 10**7, [], None  # of which torch takes the lower 32 bits
        for number in range(self.start * self.recipe.batch, self.recipe.steps * self.recipe.batch):
            if number // self.photos != epoch:
                epoch = number // self.photos
                order = torch.randperm(self.photos, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
            batch.append((order[number % self.photos], seed + number))
            if len(batch) == self.recipe.batch:
                yield batch
                batch = []


# --- the steps


def train(
    module: nn.Module, photos: Photos, recipe: Recipe, checkpoint: Path, watch: Callable[[int, Target, nn.Module], bool]
) -> nn.Module:
    """Train `module` in place, going on from `checkpoint` if that is there, and return the average of its weights.

    After each step `watch(step, losses, average)` is called; the training ends when it returns False.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    module.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not name.startswith(recipe.frozen))
    average = AveragedModel(module, multi_avg_fn=_averaging(recipe.average), use_buffers=True)
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups[name.startswith("roi_heads")].append(parameter)
    rates = {True: recipe.rate, False: recipe.trunk_rate}
    settings = [{"params": parameters, "lr": rates[heads]} for heads, parameters in groups.items() if parameters]
    optimizer = OPTIMIZERS[recipe.optimizer](settings, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    scaler = torch.GradScaler(device.type, enabled=device.type == "cuda")
    parts = {"module": module, "average": average, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    start = _resume(checkpoint, parts, device)
    order = Schedule(len(photos), recipe, start)
    loader = DataLoader(photos, batch_sampler=order, num_workers=recipe.workers, collate_fn=_together)
    for step, (images, targets) in enumerate(loader, start + 1):
        images = [image.to(device) for image in images]
        targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            losses = module(images, targets)
        optimizer.zero_grad()
        scaler.scale(sum(losses.values())).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([p for group in groups.values() for p in group], MAX_NORM)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        average.update_parameters(module)
        go_on = watch(step, losses, average.module)
        if step % KEEP_EVERY == 0 or step == recipe.steps or not go_on:
            _keep({"step": step} | {name: one.state_dict() for name, one in parts.items()}, checkpoint)
        if not go_on:
            break
    return average.module


def _averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average that follows closely at first."""

    @torch.no_grad()
    def average(averages: Any, values: Any, number: Any) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + int(number)) / (10 + int(number))))
        else:  # a batch norm's counter
            torch._foreach_copy_(averages, values)

    return average


def _together(samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def _rate(step: int, recipe: Recipe) -> float:
    """The part of the learning rate that applies at a step."""
    return min(1.0, (step + 1) / recipe.warmup) * (1 + math.cos(math.pi * min(1.0, step / recipe.steps))) / 2


def _keep(content: dict[str, Any], path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    torch.save(content, part)
    part.replace(path)


def _resume(checkpoint: Path, parts: dict[str, Any], device: torch.device) -> int:
    if not checkpoint.exists():
        return 0
    kept = torch.load(checkpoint, map_location=device, weights_only=True)
    for name, one in parts.items():
        one.load_state_dict(kept[name])
    return int(kept["step"])


# --- the whole


class Validator:
    """Judges the average of the weights every so often, keeps the best, and says when it is enough.

    A training that goes on after an end finds the best of before in the model's folder.
    """

    def __init__(
        self, facts: Model, data: Data, held_out: set[int], recipe: Recipe, report: Callable[[Progress], None]
    ) -> None:
        self.facts, self.recipe, self.report, self.progress = facts, recipe, report, Progress()
        self.evaluation = Evaluation(data.images, data.annotations)
        self.photos = [one for one in self.evaluation.photos() if not held_out or one[0] in held_out]
        self.best = facts.folder / "best.pth"
        if self.best.exists() and (facts.folder / CHECKPOINT).exists():
            self.progress.validations = torch.load(self.best, weights_only=True)["validations"]

    def __call__(self, step: int, losses: Target, average: nn.Module) -> bool:
        """Whether to go on after this step."""
        self.progress.step, self.progress.losses = step, {name: float(loss.detach()) for name, loss in losses.items()}
        if step % self.recipe.validate == 0 or step == self.recipe.steps:
            self._judge(step, copy.deepcopy(average).cpu().eval())
        self.report(self.progress)
        aps = [ap for _, ap in self.progress.validations]
        return not aps or len(aps) - aps.index(max(aps)) <= self.recipe.patience

    def _judge(self, step: int, module: nn.Module) -> None:
        ap = self.run(self.facts, module)["AP"]
        better = all(ap > before for _, before in self.progress.validations)
        self.progress.validations.append((step, ap))
        if better:
            _keep({"state": module.state_dict(), "validations": self.progress.validations}, self.best)

    def run(self, facts: Model, module: nn.Module) -> dict[str, float]:
        """What the module is worth on the photos for validation."""
        detector = TorchvisionEngine(facts, torch.get_num_threads(), module)
        return self.evaluation.run(detector.detect, self.photos).summary


def fine_tune(
    start: Model,
    data: Data,
    validation: Data | None,
    recipe: Recipe,
    output: Path,
    report: Callable[[Progress], None] = lambda _: None,
) -> dict[str, float]:
    """Train `start` further, on the categories of `data`, and write a model's folder that AUGU_MODEL can name.

    Returns what the model is worth on the photos for validation, as COCO's tools name it: "AP", "AP50" and so on.

    What the training needs to go on after an end is kept in the folder until it is done. Without `validation` one of
    ten photos is held out for it. Raises ModelUnavailable.
    """
    names, label_of = _categories(start, data.annotations)
    files, boxes = _read(data, label_of)
    held_out = set() if validation else set(list(files)[::HELD_OUT])
    trained = [id for id in files if id not in held_out]
    if not trained:
        raise ModelUnavailable(f"{data.annotations} has {len(files)} photos: too few to train with.")
    facts = replace(start, name=output.name, folder=output, file="model.pth", names=names, speed="")
    facts = replace(facts, export_sha256="", calibration=[])
    validator = Validator(facts, validation or data, held_out, recipe, report)
    output.mkdir(parents=True, exist_ok=True)
    photos = Photos([files[id] for id in trained], [boxes[id] for id in trained])
    torch.manual_seed(recipe.seed)  # for the layer of new names
    checkpoint = output / CHECKPOINT
    train(_module(start, names), photos, recipe, checkpoint, validator)
    _finish(validator, len(photos))
    validator.best.unlink()
    checkpoint.unlink()
    return validator.evaluation.summary


def _categories(start: Model, annotations: Path) -> tuple[list[str], dict[int, int]]:
    """The names of the labels, and the label of each category: the start's own where it knows them all."""
    try:
        categories = {one["id"]: one["name"] for one in json.loads(annotations.read_text())["categories"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnavailable(f"{annotations} is not a file in COCO's format: {error!r}.") from error
    names = start.names if set(categories.values()) <= set(start.names) else ["background", *categories.values()]
    return names, {id: names.index(name) for id, name in categories.items()}


def _read(data: Data, label_of: dict[int, int]) -> tuple[dict[int, Path], Boxes]:
    """Each photo's file, and its boxes: (x, y, width, height), label, score."""
    path = data.annotations
    try:
        content = json.loads(path.read_text())
        files = {image["id"]: data.images / image["file_name"] for image in content["images"]}
        boxes: Boxes = {id: [] for id in files}
        for one in content["annotations"]:
            label = IGNORED if one.get("iscrowd") else label_of[one["category_id"]]
            boxes[one["image_id"]].append((one["bbox"], label, one.get("score", 1.0)))
        if data.ignore:
            path = data.ignore
            for one in json.loads(path.read_text())["annotations"]:
                boxes[one["image_id"]].append((one["bbox"], IGNORED, 1.0))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnavailable(f"{path} is not a file in COCO's format: {error!r}.") from error
    check_present(files.values())
    return files, boxes


def _module(start: Model, names: list[str]) -> nn.Module:
    """The start's module, with a new layer for the names if they are not its own."""
    module: Any = build(start)
    if names == start.names:
        return module
    if start.architecture == "nano_rcnn":
        rename(module, len(names) - 1)
    else:
        predictor = module.roi_heads.box_predictor
        module.roi_heads.box_predictor = FastRCNNPredictor(predictor.cls_score.in_features, len(names))
    return module


def _finish(validator: Validator, photos: int) -> None:
    """Export the best weights, calibrate their scores, and write the facts, the pictures and the card."""
    facts, evaluation = validator.facts, validator.evaluation
    torch.save(torch.load(validator.best, weights_only=True)["state"], facts.weights)
    size = facts.weights.stat().st_size / 1e6
    model = replace(facts, sha256=sha256_of(facts.weights), megabytes=round(size, 1))
    path = export(model, (Image.open(file) for _, file in validator.photos[:CHECKED]))
    model = replace(model, export_sha256=sha256_of(path))
    module = build(model)
    validator.run(model, module)
    model = replace(model, calibration=evaluation.calibrate())
    model = replace(model, ap=round(validator.run(model, module)["AP"], 3))
    content = {key: value for key, value in asdict(model).items() if key not in ("name", "folder")}
    content["ap_measured_on"] = f"{len(validator.photos)} photos for validation"
    (model.folder / "model.json").write_text(json.dumps(content, indent=1) + "\n")
    evaluation.draw_curves(model.folder / "curves.png")
    evaluation.draw_worst(model.folder / "worst.png")
    (model.folder / "README.md").write_text(_card(model, validator, photos))


def _card(model: Model, validator: Validator, photos: int) -> str:
    """What a person should know of the model."""
    evaluation, settings = validator.evaluation, asdict(validator.recipe).items()
    return CARD.format(
        model=model,
        recipe=", ".join(f"{key} {value}" for key, value in settings),
        photos=photos,
        judged=len(validator.photos),
        steps=validator.progress.step or validator.recipe.steps,  # all were made before an end
        results=tabulate(
            [evaluation.summary | evaluation.at_likely()], headers="keys", tablefmt="github", floatfmt=".3f"
        ),
        names=tabulate(evaluation.by_category(), headers="keys", tablefmt="github", floatfmt=".3f"),
    )
