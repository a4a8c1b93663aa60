"""The command line: `augu-api`."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import click
from alembic.util import CommandError
from flask import Flask
from flask.cli import AppGroup, FlaskGroup
from limits.errors import StorageError
from PIL import Image
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session
from tabulate import tabulate

from augu_api import tokens
from augu_api.app import create_app
from augu_api.config import Settings, SettingsError
from augu_api.detection import ModelUnavailable, select
from augu_api.detection.catalogue import PUBLISHED, Model, catalogue, find
from augu_api.detection.drawing import annotate
from augu_api.detection.engines import load, optional
from augu_api.detection.pull import pull
from augu_api.detection.training.recipe import Data, Progress, Recipe
from augu_api.flags import Flag
from augu_api.operating import doctor, usage
from augu_api.photos import ImageRejected, decode_upright
from augu_api.store import accounts, database
from augu_api.store.models import User
from augu_api.web.schemas import Item
from augu_api.web.service import service

DEMO = "demo"


class Commands(FlaskGroup):
    """A FlaskGroup that serves this application alone, and whose foreseeable failures are a line, not a traceback."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            create_app=_create_app,
            add_default_commands=False,
            add_version_option=False,
            load_dotenv=False,
            set_debug_flag=False,
            **kwargs,
        )
        self.params = [param for param in self.params if param.name not in ("app", "env_file", "debug")]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (SettingsError, accounts.AccountError, ModelUnavailable, ImageRejected, CommandError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except (DBAPIError, StorageError) as error:
            raise click.ClickException(database.explain(error)) from error


def _create_app() -> Flask:
    return create_app(Settings.from_env())


@click.group(cls=Commands)
@click.version_option(package_name="augu-api")
def main() -> None:
    """Run the Augu API."""


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
who = click.argument("who")
a_file = click.Path(exists=True, dir_okay=False, path_type=Path)
a_flag = click.Choice([flag.name or "" for flag in Flag], case_sensitive=False)
flag_names = click.argument("flags", metavar="FLAG...", nargs=-1, required=True, type=a_flag)


def _flags(names: tuple[str, ...]) -> Flag:
    return Flag(sum(Flag[name] for name in set(names)))


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:  # what a log or a variable holds may not command the terminal
        table = tabulate(rows, headers="keys", disable_numparse=True)
        click.echo("".join(c if c.isprintable() or c == "\n" else "?" for c in table))


# --- users


@main.group(cls=AppGroup)
def users() -> None:
    """Add, show and change users. WHO is a name or an id."""


@contextmanager
def _changing(name: str) -> Iterator[User]:
    """The user, whose changes are saved in the end and shown."""
    with Session(service.engine) as session, session.begin():
        user = accounts.find(session, name)
        yield user
        row = _row(user)
    _print([row], as_json=False)


def _row(user: User) -> dict[str, Any]:
    until = user.banned_until
    return {
        "id": str(user.id),
        "name": user.name,
        "flags": ", ".join(user.flags.names),
        "coefficient": user.coefficient,
        "banned until": None if until is None else datetime.fromtimestamp(until, UTC).isoformat(" ", "seconds"),
    }


@users.command("add")
@click.argument("name")
@click.option("--id", type=int, help="A Discord snowflake, for example. Made up if not given.")
@click.option("--grant", "flags", metavar="FLAG", multiple=True, type=a_flag, help="Beyond the default flags.")
@click.option("--coefficient", type=float, default=0.8, show_default=True, help="Requests a minute are 60 times this.")
def add_user(name: str, id: int | None, flags: tuple[str, ...], coefficient: float) -> None:
    """Add a user and print the token."""
    with Session(service.engine) as session, session.begin():
        user = accounts.create(session, name, id=id, flags=_flags(flags), coefficient=coefficient)
        token, user_id = accounts.current_token(user), user.id
    click.echo(f"Added {name} with the id {user_id}. The token:", err=True)
    click.echo(tokens.issue(service.settings.secret_key, token))


@users.command("list")
@as_json
def list_users(as_json: bool) -> None:
    """List all users."""
    with Session(service.engine) as session:
        _print([_row(user) for user in accounts.everyone(session)], as_json)


@users.command("show")
@who
@as_json
def show_user(who: str, as_json: bool) -> None:
    """Show a user, and what is left of the quota."""
    with Session(service.engine) as session:
        user = accounts.find(session, who)
        quota = service.quotas.left(user)
        left = {"requests left": f"{quota.remaining} of {quota.limit}", "for": f"{quota.reset} s"}
        _print([_row(user) | left], as_json)


@users.command("grant")
@who
@flag_names
def grant(who: str, flags: tuple[str, ...]) -> None:
    """Give a user flags."""
    with _changing(who) as user:
        user.flags |= _flags(flags)


@users.command("revoke")
@who
@flag_names
def revoke(who: str, flags: tuple[str, ...]) -> None:
    """Take flags from a user."""
    with _changing(who) as user:
        user.flags &= ~_flags(flags)


@users.command("quota")
@who
@click.argument("coefficient", type=float)
def set_quota(who: str, coefficient: float) -> None:
    """Let a user make 60 x COEFFICIENT requests a minute."""
    with _changing(who) as user:
        accounts.set_coefficient(user, coefficient)


@users.command("ban")
@who
@click.option("--minutes", type=click.IntRange(1, 2**31 - 1), help="For good if not given.")
def ban(who: str, minutes: int | None) -> None:
    """Ban a user."""
    with _changing(who) as user:
        accounts.ban(user, minutes and minutes * 60)


@users.command("unban")
@who
def unban(who: str) -> None:
    """Lift a user's ban."""
    with _changing(who) as user:
        accounts.unban(user)


@users.command("remove")
@who
def remove(who: str) -> None:
    """Remove a user for good."""
    with Session(service.engine) as session, session.begin():
        session.delete(accounts.find(session, who))
    click.echo(f"Removed {who}.", err=True)


@main.group("tokens", cls=AppGroup)
def tokens_group() -> None:
    """Replace tokens."""


@tokens_group.command("regenerate")
@who
def regenerate(who: str) -> None:
    """Print a new token for a user; the one before stops working."""
    with Session(service.engine) as session, session.begin():
        token = accounts.regenerate(accounts.find(session, who))
    click.echo(tokens.issue(service.settings.secret_key, token))


@main.command("demo")
def demo() -> None:
    """Make a user `demo` on first start, and say how to call the API."""
    with Session(service.engine) as session, session.begin():
        try:
            user = accounts.find(session, DEMO)
        except accounts.AccountError:
            user = accounts.create(session, DEMO, flags=Flag.IMAGES_OBJECTS | Flag.EXPERIMENTAL)
        token = tokens.issue(service.settings.secret_key, accounts.current_token(user))
    url = f"http://127.0.0.1:{service.settings.port}"
    click.echo(
        f"Address:     {url}\nDemo token:  {token}\n\n"
        f"curl -H 'Authorization: Bearer {token}' -H 'Content-Type: image/png' \\\n"
        f"     --data-binary @examples/street.png {url}/images/classify/objects\n"
    )


# --- models


@main.group(cls=AppGroup)
def weights() -> None:
    """Show and bring the models that can be served."""


@weights.command("list", with_appcontext=False)
@as_json
def list_weights(as_json: bool) -> None:
    """List the models of the catalogue."""
    _print([_model_row(model) for model in catalogue(Settings.from_env())], as_json)


def _model_row(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "there": "yes" if model.weights.is_file() else "no",
        "MB": model.megabytes,
        "input": f"{model.min_size} to {model.max_size}",
        "AP": model.ap,
        "speed": model.speed,
    }


@weights.command("pull", with_appcontext=False)
@click.argument("name", type=click.Choice(list(PUBLISHED)))
def pull_weights(name: str) -> None:
    """Download a published model of torchvision."""
    settings = Settings.from_env()
    model = find(name, settings)
    if model.weights.is_file():
        model.verify()
        click.echo(f"{model.weights} is there already.", err=True)
        return
    with click.progressbar(length=round(model.megabytes * 1e6), label=model.file, file=sys.stderr) as bar:

        def progress(there: int, total: int) -> None:
            bar.length = total
            bar.update(there - bar.pos)

        pull(model, settings.weights_url, progress)
    click.echo(
        f"AUGU_MODEL={name} serves it with torch installed; `weights export {name}` makes that needless.", err=True
    )


def _named_as_picture(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path and path.suffix.lower() not in Image.registered_extensions():
        raise click.BadParameter(f"{path} is not named as a picture, like boxes.png.")
    return path


@weights.command("export", with_appcontext=False)
@click.argument("name")
@click.argument("photos", nargs=-1, required=True, type=a_file)
def export_weights(name: str, photos: tuple[Path, ...]) -> None:
    """Make the ONNX export of the model NAME, and check on PHOTOS that it finds the same."""
    model = find(name, Settings.from_env())
    with click.progressbar(photos, label=f"Exporting {name}", file=sys.stderr) as bar:
        path = optional("training.export").export(model, (Image.open(photo) for photo in bar))
    model.note_export()
    click.echo(f"{path} finds the same objects as the module in {len(photos)} photos.", err=True)


a_folder = click.Path(exists=True, file_okay=False, path_type=Path)
images_option = click.option("--images", type=a_folder, required=True, help="The folder of the photos.")
boxes_option = click.option("--annotations", type=a_file, required=True, help="Their boxes, in COCO's format.")


@weights.command("evaluate", with_appcontext=False)
@click.argument("name")
@images_option
@boxes_option
@click.option(
    "--pictures", type=click.Path(file_okay=False, path_type=Path), help="Draw curves.png and worst.png here."
)
@as_json
def evaluate_weights(name: str, images: Path, annotations: Path, pictures: Path | None, as_json: bool) -> None:
    """Measure the model NAME on photos with boxes: COCO's AP, by size and by category, and its calibration."""
    detector = load(replace(Settings.from_env(), model=name))
    evaluation = optional("training.evaluate").Evaluation(images, annotations)
    with click.progressbar(evaluation.photos(), label=f"Evaluating {name}", file=sys.stderr) as bar:
        evaluation.run(detector.detect, bar)
    results = evaluation.summary | evaluation.at_likely()
    if as_json:
        by = {"by_category": evaluation.by_category(), "calibration": [b._asdict() for b in evaluation.calibration()]}
        click.echo(json.dumps(detector.facts | results | by, indent=2))
    else:
        for rows in ([results], evaluation.by_category(), [b._asdict() for b in evaluation.calibration()]):
            click.echo(tabulate(rows, headers="keys", floatfmt=".3f") + "\n")
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        evaluation.draw_curves(pictures / "curves.png")
        evaluation.draw_worst(pictures / "worst.png")


@weights.command("train", with_appcontext=False)
@click.argument("name")
@images_option
@boxes_option
@click.option("--ignore", type=a_file, help="Boxes that are neither object nor background, in COCO's format.")
@click.option("--validation-images", type=a_folder, help="The folder of other photos, to choose the best weights by.")
@click.option("--validation-annotations", type=a_file, help="Their boxes; without, one photo of ten is held out.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="The model's folder.")
@click.option("--steps", type=click.IntRange(1), default=Recipe.steps, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=Recipe.batch, show_default=True, help="Photos a step.")
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default=Recipe.optimizer, show_default=True)
@click.option(
    "--rate", type=float, default=Recipe.rate, show_default=True, help="The learning rate of the second stage."
)
@click.option("--trunk-rate", type=float, default=Recipe.trunk_rate, show_default=True, help="That of all before it.")
@click.option(
    "--freeze", multiple=True, type=click.Choice(["backbone", "rpn", "roi_heads"]), help="Leave this part as it is."
)
@click.option(
    "--validate", type=click.IntRange(1), default=Recipe.validate, show_default=True, help="Steps between validations."
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=Recipe.patience,
    show_default=True,
    help="Validations without a better.",
)
@click.option("--seed", type=int, default=Recipe.seed, show_default=True)
def train_weights(
    name: str,
    images: Path,
    annotations: Path,
    ignore: Path | None,
    validation_images: Path | None,
    validation_annotations: Path | None,
    output: Path,
    freeze: tuple[str, ...],
    **recipe: Any,
) -> None:
    """Train the model NAME further on your own photos, into a folder that AUGU_MODEL can name.

    An interrupted training goes on where it was when the same command is given again.
    """
    if (validation_images is None) != (validation_annotations is None):
        raise click.UsageError("--validation-images and --validation-annotations belong together.")
    fine_tune = optional("training.train").fine_tune
    validation = None
    if validation_images and validation_annotations:
        validation = Data(validation_images, validation_annotations)
    whole = Recipe(frozen=freeze, **recipe)
    model = find(name, Settings.from_env())
    with click.progressbar(length=whole.steps, label="Training", file=sys.stderr, item_show_func=_losses) as bar:

        def report(progress: Progress) -> None:
            bar.update(progress.step - bar.pos, progress)

        data = Data(images, annotations, ignore)
        worth = fine_tune(model, data, validation, whole, output, report)
    click.echo(f"AP {worth['AP']:.3f}, AP50 {worth['AP50']:.3f}. {output / 'README.md'} is its card.", err=True)
    click.echo(f"AUGU_MODEL={output} serves it.", err=True)


def _losses(progress: Progress | None) -> str:
    """What a progress bar says of a training."""
    if progress is None:
        return ""
    losses = " ".join(f"{name.removeprefix('loss_')} {loss:.2f}" for name, loss in progress.losses.items())
    best = max((ap for _, ap in progress.validations), default=None)
    return losses if best is None else f"{losses} best AP {best:.3f}"


@main.command("detect", with_appcontext=False)
@click.argument("photo", type=a_file)
@click.option(
    "--annotate",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_named_as_picture,
    help="Draw the boxes here.",
)
@click.option("--min-score", type=click.FloatRange(0, 100), default=50, show_default=True, help="In percent.")
@as_json
def detect(photo: Path, picture: Path | None, min_score: float, as_json: bool) -> None:
    """Detect the objects in a PHOTO of any common format, without a server."""
    settings = Settings.from_env()
    pixels = decode_upright(photo.read_bytes(), settings.max_pixels, trusted=True)
    found = select(load(settings).detect(pixels, all_cores=True), min_score=min_score, limit=100, names=None)
    _print([Item().dump(detection) for detection in found], as_json)
    if picture:
        annotate(Image.fromarray(pixels), found).save(picture)


# --- looking after an installation


@main.command("doctor", with_appcontext=False)
@as_json
def examine(as_json: bool) -> None:
    """Look for what is wrong here, and say what to do; exits with 1 if something is.

    Nothing is made or changed. Run it as the user that serves and with the same environment.
    """
    findings = list(doctor.examine())
    _print([finding._asdict() for finding in findings], as_json)
    if any(finding.state == doctor.State.PROBLEM for finding in findings):
        sys.exit(1)


def _moment(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    """A moment, UTC unless it says otherwise, or so many minutes, hours or days ago."""
    if text is None:
        return None
    units = {"m": "minutes", "h": "hours", "d": "days"}
    try:
        if ago := re.fullmatch("([0-9]{1,5})([mhd])", text):
            return datetime.now(UTC) - timedelta(**{units[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text} is neither like 24h or 7d nor like 2026-11-24 or 2026-11-24T08:30."
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@main.command("usage", with_appcontext=False)
@click.argument("logs", metavar="[LOG]...", nargs=-1, type=click.File("rb"))
@click.option("--since", metavar="TIME", callback=_moment, help="Like 24h, 7d, 2026-11-24 or 2026-11-24T08:30 (UTC).")
@as_json
def show_usage(logs: tuple[BinaryIO, ...], since: datetime | None, as_json: bool) -> None:
    """Show who called, how often, from what and how fast, from the service's LOG or from standard input.

    Other lines than those of the request log are skipped. Percentiles are of fulfilled requests, right to 2.5 %.
    """
    if not logs and sys.stdin.isatty():
        raise click.UsageError("Name a log, or pipe one in: journalctl -o cat -u augu-api | augu-api usage")
    used = usage.Usage(since)
    for log in logs or (sys.stdin.buffer,):
        used.add(usage.lines(log))
    rows = used.rows(_names())
    _print(rows if as_json else [{name: _cell(value) for name, value in row.items()} for row in rows], as_json)
    click.echo(f"{used.skipped} of {used.read} lines are not of the request log.", err=True)


def _cell(value: Any) -> Any:
    """Counts by name as a table shows them."""
    return ", ".join(f"{name}: {count}" for name, count in value.items()) if isinstance(value, dict) else value


def _names() -> dict[int, str]:
    """The users' names by id; none where the log is read beside no database."""
    settings, wrong = Settings.examine()
    for error in wrong.values():
        raise error
    try:
        with database.visit(settings.database_url) as engine, Session(engine) as session:
            return {user.id: user.name for user in accounts.everyone(session)}
    except SQLAlchemyError:
        click.echo("Users are shown by id: there is no database here to look up their names.", err=True)
        return {}


# --- the database


@main.group(cls=AppGroup)
def db() -> None:
    """Bring the database up to date, or back."""


@db.command("upgrade", with_appcontext=False)
@click.argument("revision", default="head")
def upgrade(revision: str) -> None:
    """Bring the tables up to the newest REVISION; every start does this as well."""
    _migrate(database.upgrade, revision)


@db.command("downgrade", with_appcontext=False)
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Take the tables back to REVISION (`base`: no tables), before an older release is started."""
    _migrate(database.downgrade, revision)


@db.command("current", with_appcontext=False)
def current() -> None:
    """Print the revision that the tables are at."""
    click.echo(database.current(database.connect(Settings.from_env().database_url)) or "none")


def _migrate(direction: Callable[[Engine, str], None], revision: str) -> None:
    engine = database.connect(Settings.from_env().database_url)
    direction(engine, revision)
    click.echo(f"The database is at {database.current(engine) or 'no revision'}.", err=True)
