"""Photos with boxes in COCO's format: one JSON file. https://cocodataset.org/#format-data."""

import json
from pathlib import Path, PurePosixPath
from typing import Any, cast

from augu_api.detection.training.photo_sets.content import UNKNOWN, RawBox, RawPhoto, Source
from augu_api.detection.training.photo_sets.files import locate, read_bounded
from augu_api.detection.training.photo_sets.masks import box_of
from augu_api.detection.training.photo_sets.report import Report, literal, shown
from augu_api.detection.training.photo_sets.values import finite, is_name, key

MAX_BYTES = 512 << 20  # COCO's own largest file, instances_train2017.json, has 448 MB
OF_MASK = "box of mask"  # marks an annotation whose box was made


def read(images: Path, path: Path, report: Report) -> Source:
    """What the file has; everything that is wrong with it is reported."""
    source = Source()
    content = _load(path, report)
    if content is None or not _has_lists(content, ("categories", "images", "annotations"), path, report):
        return source
    numbers = _read_categories(content["categories"], str(path), source, report)
    _read_photos(content["images"], images, str(path), source, report)
    _read_boxes(content["annotations"], numbers, str(path), source, report)
    return source


def read_ignored(path: Path, source: Source, report: Report) -> None:
    """Add the boxes of another file, which are neither object nor background."""
    content = _load(path, report)
    if content is not None and _has_lists(content, ("annotations",), path, report):
        _read_boxes(content["annotations"], None, str(path), source, report)


def _load(path: Path, report: Report) -> dict[str, Any] | None:
    data = read_bounded(path, MAX_BYTES, report)
    if data is None:
        return None
    encoding = json.detect_encoding(data)
    if encoding != "utf-8":
        report.mend("a byte order mark" if encoding == "utf-8-sig" else f"{encoding} instead of UTF-8", str(path))
    try:
        text = data.decode(encoding)
        del data  # the content needs several times as much
        content = json.loads(text, object_hook=_lean)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        report.fault(str(path), f"is not valid JSON: {reason}")
        return None
    if not isinstance(content, dict):
        report.fault(str(path), "is not in COCO's format: it is not a JSON object")
        return None
    return content


def _lean(one: dict[str, Any]) -> dict[str, Any]:
    """Drop the segmentations while the file is parsed; they are most of it. One without a box becomes its box."""
    segmentation = one.pop("segmentation", None)
    if segmentation and not one.get("bbox"):
        one["bbox"] = box_of(segmentation)
        one[OF_MASK] = True
    return one


def _has_lists(content: dict[str, Any], names: tuple[str, ...], path: Path, report: Report) -> bool:
    wrong = [name for name in names if not isinstance(content.get(name), list)]
    for name in wrong:
        report.fault(str(path), f'is not in COCO\'s format: "{name}" is missing or not a list')
    return not wrong


def _objects(rows: list[Any], place: str, report: Report) -> list[tuple[str, int, dict[str, Any]]]:
    """The place, the number and the content of each row that is a JSON object."""
    for number, one in enumerate(rows):
        if not isinstance(one, dict):
            report.fault(f"{place}[{number}]", f"is {shown(one)}, not a JSON object")
    return [(f"{place}[{number}]", number, one) for number, one in enumerate(rows) if isinstance(one, dict)]


def _key(id: Any, what: str, place: str, report: Report) -> int | str | None:
    """An id as it is looked up, after saying what is mended."""
    found = key(id)
    if found is not None and type(id) is not int:
        report.mend(f"the {what} is not an integer", place)
    elif found is None:
        report.fault(place, f"has no {what}" if id is None else f"its {what} is {shown(id)!r}")
    return found


def _read_categories(rows: list[Any], file: str, source: Source, report: Report) -> dict[int | str, int]:
    """The number of each category by its id: from 1 on, one for each name."""
    numbers: dict[int | str, int] = {}
    by_name: dict[str, int] = {}
    for place, _, one in _objects(rows, f"{file}, categories", report):
        id, name = _key(one.get("id"), "id", place, report), cast("Any", one.get("name"))
        if not is_name(name):
            report.fault(place, f"{shown(name)!r} cannot be the name of a category")
        elif id in numbers and by_name.get(name) != numbers[id]:
            report.fault(place, f"the id {shown(id)} is another category's")
        elif id is not None:
            if name in by_name:
                report.mend("a category is listed twice; it is taken once", place)
            if id == 0:
                report.mend("the ids of categories start at 0; they are numbered from 1", place)
            numbers[id] = by_name.setdefault(name, len(by_name) + 1)
    source.categories = {number: name for name, number in by_name.items()}
    return numbers


def _read_photos(rows: list[Any], images: Path, file: str, source: Source, report: Report) -> None:
    by_name: dict[Path | str, RawPhoto] = {}
    for place, _, one in _objects(rows, f"{file}, images", report):
        id, name = _key(one.get("id"), "id", place, report), one.get("file_name")
        if not isinstance(name, str) or not name:
            report.fault(place, "has no file_name" if name is None else f"its file_name is {shown(name)!r}")
            continue
        at = f"{place} ({shown(name)})"
        found = locate(images, name, at, report)
        photo = by_name.get(found or name)
        if id in source.by_id and source.by_id[id] is not photo:
            report.fault(at, f"the id {shown(id)} is another photo's")
        elif photo:
            _note_twice(photo, name, at, report)
        photo = photo or _photo(one, found, name, at, file)
        by_name.setdefault(found or name, photo)
        if id is not None:
            source.by_id.setdefault(id, photo)
    source.photos = list(by_name.values())


def _note_twice(photo: RawPhoto, name: str, place: str, report: Report) -> None:
    if PurePosixPath(photo.name) == PurePosixPath(name):
        report.mend("a photo is listed twice; it is taken once, with all its boxes", place)
    else:
        report.fault(place, f"the same file was found for {shown(photo.name)}")


def _photo(one: dict[str, Any], found: Path | None, name: str, place: str, file: str) -> RawPhoto:
    size = one.get("width"), one.get("height")
    boxes_at = f"{literal(file)}, annotations[{{}}] of {literal(shown(name))}"
    return RawPhoto(name, found, place, boxes_at, None if size == (None, None) else size)


def _read_boxes(
    rows: list[Any], numbers: dict[int | str, int] | None, file: str, source: Source, report: Report
) -> None:
    """Add each box to its photo; without categories they are to be ignored."""
    seen: set[int | str] = set()
    for place, number, one in _objects(rows, f"{file}, annotations", report):
        _note_id(one.get("id"), seen, place, report)
        image = _key(one.get("image_id"), "image_id", place, report)
        photo = None if image is None else source.by_id.get(image)
        if photo is None and image is not None:
            report.fault(place, f"there is no photo with the id {shown(image)}")
        at = photo.boxes_at.format(number) if photo else place
        category = UNKNOWN if numbers is None else _category(one, numbers, at, report)
        if photo and category is not None:
            _add(photo, number, one, category, report)


def _note_id(id: Any, seen: set[int | str], place: str, report: Report) -> None:
    found = key(id)
    if found == 0:
        report.mend("the ids of boxes start at 0; they are numbered from 1", place)
    if found in seen:
        report.mend("the id of a box is another's; they are numbered anew", place)
    elif found is not None:
        seen.add(found)


def _category(one: dict[str, Any], numbers: dict[int | str, int], place: str, report: Report) -> int | None:
    id = _key(one.get("category_id"), "category_id", place, report)
    if id is not None and id not in numbers:
        report.fault(place, f"there is no category with the id {shown(id)}")
    return None if id is None else numbers.get(id)


def _add(photo: RawPhoto, number: int, one: dict[str, Any], category: int, report: Report) -> None:
    place = photo.boxes_at.format(number)
    if one.get(OF_MASK) and one["bbox"]:
        report.mend("a segmentation without a box; the box was made of it", place)
    if category != UNKNOWN:
        for name in ("area", "iscrowd"):
            if name not in one:
                report.mend(f'no "{name}"; {"width x height" if name == "area" else "0"} is taken', place)
    score, area = one.get("score", 1.0), one.get("area")
    if not finite(score) or not 0 <= score <= 1:
        report.fault(place, f"its score is {shown(score)}, not a number from 0 to 1")
        score = 1.0
    if area is not None and (type(area) not in (int, float) or not 0 < area < float("inf")):
        report.mend("the area is not a positive number; width x height is taken", place)
        area = None
    crowd = category == UNKNOWN or one.get("iscrowd") in (1, "1")
    photo.boxes.append(RawBox(number, one.get("bbox"), category, crowd=crowd, score=score, area=area))
