"""The models that can be served: `augu-api weights`."""

import sys
from pathlib import Path
from typing import Any

import click
from PIL import Image

from augu_api.detection.catalogue import PUBLISHED, Model, catalogue, find
from augu_api.detection.engines import optional
from augu_api.detection.pull import pull
from augu_api.operating.cli import environment
from augu_api.operating.cli.output import json_option, print_rows
from augu_api.operating.cli.paths import EXISTING_FILE
from augu_api.operating.cli.training import check, evaluate, train
from augu_api.photos import configure


@click.group()
def weights() -> None:
    """List, download, export, evaluate and train models, and check photos to train with."""
    configure()


@weights.command("list")
@json_option
def list_all(*, as_json: bool) -> None:
    """List the models of the catalogue."""
    print_rows([_row(model) for model in catalogue(environment.examined())], as_json=as_json)


def _row(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "downloaded": "yes" if model.weights.is_file() else "no",
        "MB": model.megabytes,
        "input": f"{model.min_size} to {model.max_size}",
        "AP": model.ap,
        "speed": model.speed,
    }


@weights.command("pull")
@click.argument("name", type=click.Choice(list(PUBLISHED)))
def pull_published(name: str) -> None:
    """Download a model that torchvision has published."""
    settings = environment.settings()
    model = find(name, settings)
    if model.weights.is_file():
        model.verify()
        click.echo(f"{model.weights} is there already.", err=True)
        return
    _download(model, settings.weights_url)
    click.echo(
        f"AUGU_MODEL={name} serves it if torch is installed; to serve it without torch, run `weights export {name}`.",
        err=True,
    )


def _download(model: Model, url: str) -> None:
    with click.progressbar(length=round(model.megabytes * 1e6), label=model.file, file=sys.stderr) as bar:

        def progress(received: int, total: int) -> None:
            bar.length = total
            bar.update(received - bar.pos)

        pull(model, url, progress)


@weights.command("export")
@click.argument("name")
@click.argument("photos", nargs=-1, required=True, type=EXISTING_FILE)
def export(name: str, photos: tuple[Path, ...]) -> None:
    """Export the model NAME to ONNX, and check on PHOTOS that the export finds the same objects."""
    model = find(name, environment.examined())
    with click.progressbar(photos, label=f"Exporting {name}", file=sys.stderr) as bar:
        path = optional("training.export").export(model, (Image.open(photo) for photo in bar))
    model.note_export()
    click.echo(f"{path} finds the same objects as the module in {len(photos)} photos.", err=True)


weights.add_command(check)
weights.add_command(evaluate)
weights.add_command(train)
