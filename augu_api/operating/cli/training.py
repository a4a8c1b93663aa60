"""Measuring a model and training it further: `augu-api weights evaluate` and `augu-api weights train`."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from augu_api.config import Settings
from augu_api.detection.catalogue import find
from augu_api.detection.engines import load, optional
from augu_api.detection.training.recipe import Data, Progress, Recipe
from augu_api.operating.cli.output import json_option
from augu_api.operating.cli.paths import EXISTING_FILE, EXISTING_FOLDER, FOLDER

RECIPE: dict[str, dict[str, Any]] = {
    "steps": {"type": click.IntRange(1)},
    "batch": {"type": click.IntRange(1), "help": "Photos per step."},
    "optimizer": {"type": click.Choice(["adamw", "sgd"])},
    "rate": {"type": float, "help": "The learning rate of the second stage."},
    "trunk_rate": {"type": float, "help": "The learning rate of everything before it."},
    "validate": {"type": click.IntRange(1), "help": "Steps between validations."},
    "patience": {"type": click.IntRange(1), "help": "Stop after this many validations without improvement."},
    "seed": {"type": int},
}
"""The options that set a field of Recipe, which has the default."""

images_option = click.option("--images", type=EXISTING_FOLDER, required=True, help="The folder of the photos.")
annotations_option = click.option(
    "--annotations", type=EXISTING_FILE, required=True, help="Their boxes, in COCO's format."
)


@click.command("evaluate")
@click.argument("name")
@images_option
@annotations_option
@click.option("--pictures", type=FOLDER, help="Draw curves.png and worst.png in this folder.")
@json_option
def evaluate(name: str, images: Path, annotations: Path, pictures: Path | None, *, as_json: bool) -> None:
    """Measure the model NAME on photos with boxes: COCO's AP, by size and by category, and its calibration."""
    detector = load(replace(Settings.from_env(), model=name))
    evaluation = optional("training.evaluate").Evaluation(images, annotations)
    with click.progressbar(evaluation.photos(), label=f"Evaluating {name}", file=sys.stderr) as bar:
        evaluation.run(detector.detect, bar)
    _print_evaluation(evaluation, detector.facts, as_json=as_json)
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        plots = optional("training.plots")
        plots.draw_curves(evaluation, pictures / "curves.png")
        plots.draw_worst(evaluation, pictures / "worst.png")


def _print_evaluation(evaluation: Any, facts: dict[str, str], *, as_json: bool) -> None:
    results = evaluation.summary | evaluation.at_default_score()
    by_category = evaluation.by_category()
    calibration = [part._asdict() for part in evaluation.calibration()]
    if as_json:
        click.echo(json.dumps(facts | results | {"by_category": by_category, "calibration": calibration}, indent=2))
    else:
        for rows in ([results], by_category, calibration):
            click.echo(tabulate(rows, headers="keys", floatfmt=".3f") + "\n")


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field that RECIPE names."""
    for field, attributes in reversed(RECIPE.items()):
        name = f"--{field.replace('_', '-')}"
        command = click.option(name, default=getattr(Recipe, field), show_default=True, **attributes)(command)
    return command


@click.command("train")
@click.argument("name")
@images_option
@annotations_option
@click.option("--ignore", type=EXISTING_FILE, help="Boxes that are neither object nor background, in COCO's format.")
@click.option(
    "--validation-images", type=EXISTING_FOLDER, help="The folder of other photos, to choose the best weights by."
)
@click.option(
    "--validation-annotations", type=EXISTING_FILE, help="Their boxes. If not given, one photo in ten is held out."
)
@click.option("--output", type=FOLDER, required=True, help="The folder for the new model.")
@click.option(
    "--freeze",
    "frozen",
    multiple=True,
    type=click.Choice(["backbone", "rpn", "roi_heads"]),
    help="Do not train this part.",
)
@recipe_options
def train(name: str, output: Path, **options: Any) -> None:
    """Train the model NAME further on your own photos, into a folder that AUGU_MODEL can name.

    An interrupted training run continues when the same command is given again.
    """
    validation = _validation(options.pop("validation_images"), options.pop("validation_annotations"))
    data = Data(options.pop("images"), options.pop("annotations"), options.pop("ignore"), validation)
    recipe = Recipe(**options)
    model, fine_tune = find(name, Settings.from_env()), optional("training.fine_tune").fine_tune
    with click.progressbar(length=recipe.steps, label="Training", file=sys.stderr, item_show_func=_losses) as bar:
        metrics = fine_tune(model, data, recipe, output, lambda at: bar.update(at.step - bar.pos, at))
    click.echo(
        f"AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}. {output / 'README.md'} is its model card.", err=True
    )
    click.echo(f"AUGU_MODEL={output} serves it.", err=True)


def _validation(images: Path | None, annotations: Path | None) -> Data | None:
    if (images is None) != (annotations is None):
        raise click.UsageError("--validation-images and --validation-annotations belong together.")
    return Data(images, annotations) if images and annotations else None


def _losses(progress: Progress | None) -> str:
    """What the progress bar shows beside the steps."""
    if progress is None:
        return ""
    losses = " ".join(f"{name.removeprefix('loss_')} {loss:.2f}" for name, loss in progress.losses.items())
    best = max((ap for _, ap in progress.validations), default=None)
    return losses if best is None else f"{losses} best AP {best:.3f}"
