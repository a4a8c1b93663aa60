"""Checking boxes against their photos, and mending them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from augu_api.detection.training.photo_sets.content import Box, Photo, RawBox, RawPhoto, Source
from augu_api.detection.training.photo_sets.files import SIDEWAYS, Seen
from augu_api.detection.training.photo_sets.report import Report, shown
from augu_api.detection.training.photo_sets.values import finite

SLACK = 1.0  # pixels: so far out a box may be by rounding
ROUNDING = 0.001  # the same of fractions
Pair = tuple[RawPhoto, Seen]
Rectangle = tuple[float, float, float, float]  # x, y, width, height


class Size(NamedTuple):
    """Of a photo, in pixels."""

    width: float
    height: float


def check(source: Source, seen: list[Pair], report: Report) -> list[Photo]:
    """The photos with their boxes in pixels of the upright photo; everything that is wrong is reported."""
    for photo, _ in seen:
        photo.boxes = [box for box in photo.boxes if _is_box(box, photo, report)]
    if source.fractions:
        for photo, of in seen:
            _to_pixels(photo, of, report)
    else:
        _mend_fractions(seen, report)
        _refuse_corners(seen, report)
        _mend_sizes(seen, report)
    return [
        Photo(number, photo.name, of_file, _finished(photo, Size(*of.upright), report))
        for number, (photo, of) in enumerate(seen)
        if (of_file := photo.file)
    ]


def _is_box(box: RawBox, photo: RawPhoto, report: Report) -> bool:
    values, place = box.values, photo.boxes_at.format(box.number)
    if values is None or values == []:
        report.fault(place, "has no box, and no segmentation that gives one")
    elif not isinstance(values, list) or len(values) != 4:
        report.fault(place, f"its box is {shown(values)}, not four numbers")
    elif not all(map(finite, values)):
        wrong = next(value for value in values if not finite(value))
        report.fault(place, f"its box has {_quoted(wrong)} where a number belongs")
    elif values[2] < 0 or values[3] < 0:
        report.fault(place, f"its box is {shown(values[2])} wide and {shown(values[3])} high")
    else:
        return True
    return False


def _quoted(value: object) -> str:
    return repr(shown(value)) if isinstance(value, str) else shown(value)


def _to_pixels(photo: RawPhoto, seen: Seen, report: Report) -> None:
    """From YOLO's fractions."""
    fine = []
    for box in photo.boxes:
        if max(box.values) > 1 + ROUNDING or min(box.values) < -ROUNDING:
            report.fault(photo.boxes_at.format(box.number), "its box is not in fractions of the photo's sides, 0 to 1")
        else:
            box.values = list(_of_centre(box.values, *seen.upright))
            fine.append(box)
    photo.boxes = fine


def _of_centre(values: list[float], width: float, height: float) -> Rectangle:
    x, y, w, h = values
    return (x - w / 2) * width, (y - h / 2) * height, w * width, h * height


def _of_corner(values: list[float], width: float, height: float) -> Rectangle:
    x, y, w, h = values
    return x * width, y * height, w * width, h * height


def _all_boxes(seen: list[Pair]) -> Iterator[tuple[RawPhoto, Seen, RawBox]]:
    return ((photo, of, box) for photo, of in seen for box in photo.boxes)


def _mend_fractions(seen: list[Pair], report: Report) -> None:
    """Boxes that are all between 0 and 1 are fractions; which point they start from must follow from them."""
    rows = list(_all_boxes(seen))
    if not rows or any(max(box.values) > 1 + ROUNDING or min(box.values) < 0 for *_, box in rows):
        return
    readings: dict[str, Callable[..., Rectangle]] = {"centre": _of_centre, "corner": _of_corner}
    fitting = [point for point, read in readings.items() if all(_within(read(b.values, 1, 1)) for *_, b in rows)]
    first = rows[0][0].boxes_at.format(rows[0][2].number)
    if len(fitting) != 1:
        report.fault(first, "the boxes are fractions, from the centre or from a corner; use pixels")
        for photo, _ in seen:
            photo.boxes = []
        return
    for photo, of, box in rows:
        report.mend(f"fractions of the photo's sides, from the {fitting[0]}; converted to pixels", first)
        box.values, box.area = list(readings[fitting[0]](box.values, *_sides(photo, of))), None


def _sides(photo: RawPhoto, of: Seen) -> tuple[int, int]:
    return of.stored if photo.size == of.stored else of.upright


def _within(rectangle: Rectangle) -> bool:
    x, y, width, height = rectangle
    return min(x, y) >= -ROUNDING and max(x + width, y + height) <= 1 + ROUNDING


def _fits(photo: RawPhoto, size: tuple[float, float]) -> bool:
    return all(
        x + width <= size[0] + SLACK and y + height <= size[1] + SLACK
        for x, y, width, height in (box.values for box in photo.boxes)
    )


def _refuse_corners(seen: list[Pair], report: Report) -> None:
    """If most boxes stick out, and every one would be inside as (x1, y1, x2, y2), that is what they are."""
    rows = list(_all_boxes(seen))
    outside = [row for row in rows if _out(row[2].values, row[1])]
    if 2 * len(outside) <= len(rows) or not all(_as_corners(box.values, of) for _, of, box in rows):
        return
    for photo, _, box in outside:
        report.fault(photo.boxes_at.format(box.number), "its box is two corners; COCO's are x, y, width, height")
    for photo, _ in seen:
        photo.boxes = []


def _out(values: list[float], of: Seen) -> bool:
    x, y, width, height = values
    return x + width > max(of.stored) + SLACK or y + height > max(of.stored) + SLACK


def _as_corners(values: list[float], of: Seen) -> bool:
    x1, y1, x2, y2 = values
    return x1 < x2 <= max(of.stored) + SLACK and y1 < y2 <= max(of.stored) + SLACK


def _mend_sizes(seen: list[Pair], report: Report) -> None:
    """Bring boxes into the upright photo: scale them if they are of a larger copy, turn them if of the stored photo."""
    others = [(photo, of) for photo, of in seen if photo.size and photo.size not in (of.stored, of.upright)]
    resized = [pair for pair in others if _same_shape(*pair)]
    scaled = any(not _fits(photo, of.upright) for photo, of in resized)
    for photo, of in others:
        if scaled and _same_shape(photo, of):
            _scale(photo, of, report)
        elif _fits(photo, of.upright):
            report.mend("width and height are not the file's; the file's are taken", photo.place)
        else:
            wrong = " x ".join(map(shown, photo.size or ()))
            right = "{} x {}".format(*of.upright)
            report.fault(photo.place, f"is said to be {wrong}, but the file is {right}, and its boxes do not fit")
            photo.boxes = []
    for photo, of in seen:
        if of.orientation:
            _turn(photo, of, report)


def _same_shape(photo: RawPhoto, of: Seen) -> bool:
    """Whether the size that is said has the file's proportions."""
    width, height = photo.size or (0, 0)
    if not finite(width) or not finite(height) or min(width, height) <= 0:
        return False
    return bool(abs(width / height * of.upright[1] / of.upright[0] - 1) < 0.01)


def _scale(photo: RawPhoto, of: Seen, report: Report) -> None:
    width, height = photo.size or of.upright
    for box in photo.boxes:
        box.values = list(_of_corner(box.values, of.upright[0] / width, of.upright[1] / height))
        box.area = None
    report.mend("boxes of a copy of another size; they are scaled", photo.place)


def _turn(photo: RawPhoto, of: Seen, report: Report) -> None:
    """Boxes of a photo that its EXIF turns: they are of the upright photo, unless width and height say otherwise."""
    stored = of.stored != of.upright and photo.size == of.stored
    if of.stored != of.upright and not _fits(photo, of.stored if stored else of.upright):
        stored ^= _fits(photo, of.upright if stored else of.stored)
    if not stored:
        report.mend("its EXIF turns the photo; the boxes are taken as of the upright photo", photo.place)
        return
    report.mend("its EXIF turns the photo; its boxes are of the stored photo and are turned with it", photo.place)
    for box in photo.boxes:
        box.values = list(_turned(box.values, Size(*of.stored), of.orientation or 1))


def _turned(values: list[float], size: Size, orientation: int) -> Rectangle:
    """As augu_api.photos.TURNED turns the photo."""
    x, y, width, height = values
    if orientation in (2, 3, 7, 8):
        x = size.width - x - width
    if orientation in (3, 4, 6, 7):
        y = size.height - y - height
    return (y, x, height, width) if orientation >= SIDEWAYS else (x, y, width, height)


def _finished(photo: RawPhoto, size: Size, report: Report) -> list[Box]:
    """The boxes that lie in the photo, each once."""
    boxes: dict[tuple[object, ...], Box] = {}
    for raw in photo.boxes:
        place = photo.boxes_at.format(raw.number)
        box = Box(_clipped(raw, size, place, report), raw.category, raw.crowd, raw.score, raw.area)
        if not box.xywh:
            continue
        if boxes.setdefault((*box.xywh, box.category, box.crowd), box) is not box:
            report.mend("the same box twice; it is taken once", place)
    return list(boxes.values())


def _clipped(box: RawBox, size: Size, place: str, report: Report) -> list[float]:
    """The part of a box that is inside; empty if there is none, or if it has no area."""
    x, y, width, height = box.values
    if width == 0 or height == 0:
        report.mend("a box without area; it is left out", place)
        return []
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, size.width), min(y + height, size.height)
    if right <= left or bottom <= top:
        report.fault(place, f"its box is outside of the photo, which has {size.width} x {size.height} pixels")
        return []
    if min(x, y) < -SLACK or x + width > size.width + SLACK or y + height > size.height + SLACK:
        report.mend("a box sticks out of its photo; it is cut at the edge", place)
        box.area = None
        return [left, top, right - left, bottom - top]
    return list(box.values)
