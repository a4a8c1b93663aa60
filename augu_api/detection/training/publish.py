"""A trained model's folder: its weights, their facts and export, and its card."""

import json
from dataclasses import asdict, replace
from typing import Any

import torch
from tabulate import tabulate

from augu_api.detection.catalogue import Model, sha256_of
from augu_api.detection.torchvision import build
from augu_api.detection.training.export import export
from augu_api.detection.training.photo_sets.files import open_upright
from augu_api.detection.training.plots import draw_curves, draw_worst
from augu_api.detection.training.validation import Validator

CHECKED = 20  # photos in which the export must detect what the module detects
CARD = """# {model.name}

A Faster R-CNN ({model.architecture}), made by `augu-api weights train`. `AUGU_MODEL=path/of/this/folder` serves it.

Trained on {photos} photos for {steps} steps ({recipe}); measured on {validated} others:

{results}

{classes}

![Precision over recall, and how often a score is right](curves.png)

The photos with the most mistakes: boxes as detected, and dashed what was missed.

![Photos with boxes](worst.png)
"""


def publish(validator: Validator, photos: int) -> None:
    """Export the best weights, calibrate their scores, and write the facts, the pictures and the card."""
    model, evaluation = validator.model, validator.evaluation
    torch.save(torch.load(validator.best, weights_only=True)["state"], model.weights)
    size = model.weights.stat().st_size / 1e6
    model = replace(model, sha256=sha256_of(model.weights), megabytes=round(size, 1))
    path = export(model, (open_upright(file) for _, file in validator.photos[:CHECKED]))
    model = replace(model, export_sha256=sha256_of(path))
    module = build(model)
    validator.evaluate(model, module)
    model = replace(model, calibration=evaluation.calibrate())
    model = replace(model, ap=round(validator.evaluate(model, module)["AP"], 3))
    facts = {key: value for key, value in asdict(model).items() if key not in ("name", "folder")}
    facts["ap_measured_on"] = f"{len(validator.photos)} photos for validation"
    (model.folder / "model.json").write_text(json.dumps(facts, indent=1) + "\n")
    draw_curves(evaluation, model.folder / "curves.png")
    draw_worst(evaluation, model.folder / "worst.png")
    (model.folder / "README.md").write_text(_card(model, validator, photos))


def _card(model: Model, validator: Validator, photos: int) -> str:
    """The model's card: how it was trained, and how good it is."""
    evaluation = validator.evaluation
    return CARD.format(
        model=model,
        recipe=", ".join(f"{key} {value}" for key, value in asdict(validator.recipe).items()),
        photos=photos,
        validated=len(validator.photos),
        steps=validator.progress.step or validator.recipe.steps,  # 0: all steps were made before this run
        results=_table([evaluation.summary | evaluation.at_default_score()]),
        classes=_table(evaluation.by_category()),
    )


def _table(rows: list[dict[str, Any]]) -> str:
    return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3f")
