"""`augu-api detect`."""

from pathlib import Path

import click
from PIL import Image

from augu_api.detection import Detector, select
from augu_api.detection.drawing import annotate
from augu_api.detection.engines import load
from augu_api.operating.cli import environment
from augu_api.operating.cli.output import json_option, print_rows
from augu_api.operating.cli.paths import EXISTING_FILE
from augu_api.photos import configure, decode_upright
from augu_api.photos.checks import check_length
from augu_api.web.schemas import Item

BYTES_PER_PIXEL = 8  # of a photo without compression, with four channels of 16 bits


def _picture(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path and Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise click.BadParameter(f"{path} has no image file extension such as .png.")
    return path


def _read(photo: Path, max_bytes: int) -> bytes:
    """The file's bytes. Raises ImageRejected if they are more than any photo needs, as those of /dev/zero are."""
    with photo.open("rb") as file:
        data = file.read(max_bytes + 1)
    check_length(data, max_bytes)
    return data


@click.command("detect")
@click.argument("photo", type=EXISTING_FILE)
@click.option(
    "--annotate",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_picture,
    help="Save the photo with the boxes drawn here.",
)
@click.option("--min-score", type=click.FloatRange(0, 100), default=50, show_default=True, help="In percent.")
@json_option
@click.pass_obj
def detect(loaded: Detector | None, photo: Path, picture: Path | None, min_score: float, *, as_json: bool) -> None:
    """Detect the objects in a PHOTO of any common format, without a server."""
    configure()
    settings = environment.examined()
    pixels = decode_upright(_read(photo, BYTES_PER_PIXEL * settings.max_pixels), settings.max_pixels, trusted=True)
    detector = loaded or load(settings)  # a caller that has one can pass it as click's obj
    detections = detector.detect(pixels, all_cores=True)  # no other request is waiting for a core
    found = select(detections, min_score=min_score, limit=100, names=None)
    print_rows([Item().dump(detection) for detection in found], as_json=as_json)
    if picture:
        annotate(Image.fromarray(pixels), found).save(picture)
