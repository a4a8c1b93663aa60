"""Measuring a model and training it further: `augu-api weights evaluate` and `augu-api weights train`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from augu_api.detection.catalogue import find
from augu_api.detection.engines import load, optional
from augu_api.detection.training.photo_sets import Parts, Report, read, split
from augu_api.detection.training.recipe import Progress, Recipe
from augu_api.operating.cli import environment
from augu_api.operating.cli.output import json_option
from augu_api.operating.cli.paths import EXISTING, EXISTING_FILE, EXISTING_FOLDER, FOLDER
from augu_api.operating.cli.progress import progress, track

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
    "--annotations",
    type=EXISTING,
    required=True,
    help="Their boxes: a file in COCO's format, or a folder of YOLO's or Pascal VOC's files.",
)


@click.command("check")
@images_option
@annotations_option
def check(images: Path, annotations: Path) -> None:
    """Say what is wrong with photos and their boxes, as `evaluate` and `train` do before anything else."""
    report = Report()
    photos = read(images, annotations, report, progress=progress)
    _say(report)
    boxes = sum(len(photo.boxes) for photo in photos.photos)
    click.echo(f"{len(photos.photos)} photos, {boxes} boxes and {len(photos.categories)} categories can be used.")


def _say(report: Report) -> None:
    """Say what was mended, and raise what was not."""
    for line in report.mended:
        click.echo(line, err=True)
    report.check()


@click.command("evaluate")
@click.argument("name")
@images_option
@annotations_option
@click.option("--pictures", type=FOLDER, help="Draw curves.png and worst.png in this folder.")
@json_option
def evaluate(name: str, images: Path, annotations: Path, pictures: Path | None, *, as_json: bool) -> None:
    """Measure the model NAME on photos with boxes: COCO's AP, by size and by category, and its calibration."""
    report = Report()
    photos = read(images, annotations, report, progress=progress)
    _say(report)
    detector = load(replace(environment.examined(), model=name))
    evaluation = optional("training.evaluate").Evaluation(photos)
    evaluation.run(detector.detect, track(evaluation.photos(), f"Evaluating {name}"))
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
    "--validation-annotations", type=EXISTING, help="Their boxes. If not given, one photo in ten is held out."
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
    names = "images", "annotations", "validation_images", "validation_annotations", "ignore"
    parts = _parts(*[options.pop(name) for name in names])
    recipe, at = Recipe(**options), Progress()
    model, fine_tune = find(name, environment.examined()), optional("training.fine_tune").fine_tune
    with progress("Training", recipe.steps, lambda: _losses(at)) as steps:

        def report(now: Progress) -> None:
            vars(at).update(vars(now))
            steps(now.step)

        metrics = fine_tune(model, parts, recipe, output, report)
    click.echo(
        f"AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}. {output / 'README.md'} is its model card.", err=True
    )
    click.echo(f"AUGU_MODEL={output} serves it.", err=True)


def _parts(
    images: Path, annotations: Path, other_images: Path | None, other_annotations: Path | None, ignore: Path | None
) -> Parts:
    """The photos to train on and those for validation."""
    if (other_images is None) != (other_annotations is None):
        raise click.UsageError("--validation-images and --validation-annotations belong together.")
    report, others = Report(), None
    photos = read(images, annotations, report, ignore=ignore, progress=progress)
    if other_images and other_annotations:
        others = read(other_images, other_annotations, report, progress=progress)
    parts = split(photos, others, report)
    _say(report)
    return parts


def _losses(at: Progress) -> str:
    """What the progress shows beside the steps."""
    losses = " ".join(f"{name.removeprefix('loss_')} {loss:.2f}" for name, loss in at.losses.items())
    best = max((ap for _, ap in at.validations), default=None)
    return losses if best is None else f"{losses} best AP {best:.3f}"
