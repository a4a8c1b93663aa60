"""Fine-tune a model of the catalogue on photos with boxes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from augu_api.detection.catalogue import Model
from augu_api.detection.training.checkpoint import CHECKPOINT
from augu_api.detection.training.classes import with_classes
from augu_api.detection.training.dataset import PhotoDataset, read_labels
from augu_api.detection.training.loop import train
from augu_api.detection.training.photo_sets import Parts
from augu_api.detection.training.publish import publish
from augu_api.detection.training.recipe import Progress, Recipe
from augu_api.detection.training.validation import Validator


def fine_tune(
    start: Model, parts: Parts, recipe: Recipe, output: Path, report: Callable[[Progress], None] = lambda _: None
) -> dict[str, float]:
    """Train `start` further on the categories of the photos, and write a model's folder that AUGU_MODEL can name.

    Returns AP and so on, as COCO's tools name them, on the validation photos. Until it is done, the folder has what an
    interrupted training run needs to resume.
    """
    names, label_of = read_labels(start.names, parts.training.categories)
    model = replace(start, name=output.name, folder=output, file="model.pth", names=names, speed="")
    model = replace(model, export_sha256="", calibration=[])
    validator = Validator(model, parts.validation, recipe, report)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)  # for the layers of new classes
    photos = PhotoDataset(parts.training.photos, label_of)
    train(with_classes(start, names), photos, recipe, output / CHECKPOINT, validator)
    publish(validator, len(photos))
    validator.best.unlink()
    (output / CHECKPOINT).unlink()
    return validator.evaluation.summary
