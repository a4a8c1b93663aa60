"""Fine-tune a model of the catalogue on photos with boxes in COCO's format."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from augu_api.detection import ModelUnavailable
from augu_api.detection.catalogue import Model
from augu_api.detection.training.checkpoint import CHECKPOINT
from augu_api.detection.training.classes import with_classes
from augu_api.detection.training.dataset import PhotoDataset, read_labels, read_photos
from augu_api.detection.training.loop import train
from augu_api.detection.training.publish import publish
from augu_api.detection.training.recipe import Data, Progress, Recipe
from augu_api.detection.training.validation import Validator

HOLD_OUT_EVERY = 10  # photos


def fine_tune(
    start: Model, data: Data, recipe: Recipe, output: Path, report: Callable[[Progress], None] = lambda _: None
) -> dict[str, float]:
    """Train `start` further on the categories of `data`, and write a model's folder that AUGU_MODEL can name.

    Returns AP and so on, as COCO's tools name them, on the validation photos. Until it is done, the folder has what an
    interrupted training run needs to resume. Raises ModelUnavailable.
    """
    names, label_of = read_labels(start.names, data.annotations)
    photos, held_out = _split(data, label_of)
    model = replace(start, name=output.name, folder=output, file="model.pth", names=names, speed="")
    model = replace(model, export_sha256="", calibration=[])
    validator = Validator(model, data.validation or data, held_out, recipe, report)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)  # for the layers of new classes
    train(with_classes(start, names), photos, recipe, output / CHECKPOINT, validator)
    publish(validator, len(photos))
    validator.best.unlink()
    (output / CHECKPOINT).unlink()
    return validator.evaluation.summary


def _split(data: Data, label_of: dict[int, int]) -> tuple[PhotoDataset, set[int]]:
    """The photos to train on, and the ids of those held out for validation if there are no others for it."""
    photos = read_photos(data, label_of)
    held_out = set() if data.validation else set(list(photos)[::HOLD_OUT_EVERY])
    trained = [photo for id, photo in photos.items() if id not in held_out]
    if not trained:
        raise ModelUnavailable(f"{data.annotations} has {len(photos)} photos: too few to train with.")
    files, boxes = zip(*trained, strict=True)
    return PhotoDataset(list(files), list(boxes)), held_out
