"""Photos with boxes in YOLO's layout: a text file for each photo, and a list of names.

Source: https://docs.ultralytics.com/datasets/detect/
"""

from pathlib import Path
from typing import Any

from augu_api.detection.training.photo_sets.content import RawBox, RawPhoto, Source
from augu_api.detection.training.photo_sets.files import SUFFIXES, read_bounded
from augu_api.detection.training.photo_sets.masks import box_of
from augu_api.detection.training.photo_sets.report import Report, literal, shown
from augu_api.detection.training.photo_sets.values import finite, is_name, key

YAML = {".yaml", ".yml"}
NAMES = "classes.txt", "obj.names", "data.yaml", "data.yml", "dataset.yaml"
ABOVE = 3  # folders above the labels in which the names may be
MAX_BYTES = 1 << 20  # of labels or names


def read(images: Path, annotations: Path, report: Report) -> Source:
    """What the labels have; `annotations` is their folder, or the data.yaml of a layout with images/ and labels/."""
    labels = annotations if annotations.is_dir() else _beside(images)
    source = Source(_names(annotations, report), fractions=True)
    texts = {path.relative_to(labels).with_suffix(""): path for path in sorted(labels.rglob("*.txt"))}
    for file in sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        name = file.relative_to(images)
        text = texts.pop(name.with_suffix(""), None)
        at = str(text or file)
        photo = RawPhoto(name.as_posix(), file, at, f"{literal(at)}, line {{}}")
        source.photos.append(photo)
        if text:
            _read_lines(text, photo, source.categories, report)
        else:
            report.mend("a photo without a file of labels; it is taken as a photo without objects", at)
    for text in texts.values():
        if text.name not in NAMES:
            report.fault(str(text), f"there is no photo of this name in {images}")
    return source


def _beside(images: Path) -> Path:
    """The folder of the labels: the photos' with its last "images" replaced."""
    parts = list(images.resolve().parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _names(annotations: Path, report: Report) -> dict[int, str]:
    """The categories by their numbers, from 1 on; YOLO's start at 0."""
    folders = [annotations, *annotations.resolve().parents[:ABOVE]]
    places = [folder / name for folder in folders for name in NAMES] if annotations.is_dir() else [annotations]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        report.fault(str(annotations), f"the names of the categories are in none of {', '.join(NAMES)}")
        return {}
    text = _text(path, report)
    if text is None:
        return {}
    found = _of_yaml(text, path, report) if path.suffix in YAML else dict(enumerate(text.splitlines()))
    names = {at: name for at, name in found.items() if type(at) is int and is_name(name)}
    if not names or len(names) != len(found) or len(set(names.values())) != len(names):
        report.fault(str(path), "the names are missing, not unique, or cannot be the names of categories")
    return {at + 1: name.strip() for at, name in names.items()}


def _of_yaml(text: str, path: Path, report: Report) -> dict[Any, Any]:
    try:
        import yaml  # noqa: PLC0415 - serving does without it
    except ModuleNotFoundError:
        report.fault(str(path), "is read by PyYAML: pip install 'augu-api[train]'")
        return {}
    try:
        content = yaml.load(text, yaml.BaseLoader)  # noqa: S506 - text, lists and dicts only, and no merged keys
    except (yaml.YAMLError, ValueError, RecursionError):
        report.fault(str(path), "is not valid YAML")
        return {}
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        return {key(number): name for number, name in names.items()}
    return dict(enumerate(names)) if isinstance(names, list) else {}


def _text(path: Path, report: Report) -> str | None:
    data = read_bounded(path, MAX_BYTES, report)
    try:
        return None if data is None else data.decode("utf-8-sig")
    except UnicodeDecodeError:
        report.fault(str(path), "is not UTF-8")
        return None


def _read_lines(path: Path, photo: RawPhoto, categories: dict[int, str], report: Report) -> None:
    for number, line in enumerate((_text(path, report) or "").splitlines(), 1):
        place = photo.boxes_at.format(number)
        values = [_number(word) for word in line.split()]
        if not values:
            continue
        if len(values) < 5 or not all(map(finite, values)):
            report.fault(place, "is not: category, centre x, centre y, width, height")
        elif values[0] + 1 not in categories:
            report.fault(place, f"there is no category {line.split()[0][:20]}; the first is 0")
        else:
            photo.boxes.append(_box(number, values, place, report))


def _number(word: str) -> Any:
    try:
        return float(word)
    except ValueError:
        return None


def _box(number: int, values: list[Any], place: str, report: Report) -> RawBox:
    """A box, with a sixth value as its score, or a polygon, which becomes its box."""
    category, *rest = values
    if len(rest) in (4, 5):
        score = rest[4] if len(rest) == 5 else 1.0
        if not 0 <= score <= 1:
            report.fault(place, f"its score is {shown(score)}, not a number from 0 to 1")
        return RawBox(number, rest[:4], int(category) + 1, score=score)
    box = box_of(rest)
    if box:
        report.mend("a segmentation without a box; the box was made of it", place)
        x, y, width, height = box
        box = [x + width / 2, y + height / 2, width, height]
    return RawBox(number, box, int(category) + 1)
