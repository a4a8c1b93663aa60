"""Photos with boxes in Pascal VOC's format: an XML file for each photo.

Source: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/
"""

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from augu_api.detection.training.photo_sets.content import RawBox, RawPhoto, Source
from augu_api.detection.training.photo_sets.files import SUFFIXES, locate, read_bounded
from augu_api.detection.training.photo_sets.report import Report, literal, shown
from augu_api.detection.training.photo_sets.values import is_name

MAX_BYTES = 4 << 20
SIDES = "xmin", "ymin", "xmax", "ymax"


class _DocumentType(ValueError):
    """The file declares a document type, and with it perhaps entities."""


def read(images: Path, annotations: Path, report: Report) -> Source:
    """What the XML files of the folder have, and those of the folders in it."""
    source, numbers = Source(), dict[str, int]()
    for path in sorted(annotations.rglob("*.xml")):
        place = str(path)
        root = _parse(path, place, report)
        if root is None:
            continue
        found, name = _photo_of(root, path.relative_to(annotations), images, place, report)
        size = tuple(_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
        boxes_at = f"{literal(place)}, object {{}}"
        photo = RawPhoto(name, found, place, boxes_at, (size[0], size[1]) if all(size) else None)
        source.photos.append(photo)
        _read_objects(root, photo, numbers, report)
    source.categories = {number: name for name, number in numbers.items()}
    return source


def _parse(path: Path, place: str, report: Report) -> Element | None:
    """The root of the file; no entity is expanded, since a document type is refused."""
    data = read_bounded(path, MAX_BYTES, report)
    if data is None:
        return None
    try:
        root = _root(data)
    except _DocumentType:
        report.fault(place, "declares a document type, which is not read")
    except (expat.ExpatError, AssertionError, LookupError, ValueError) as error:
        report.fault(place, f"is not valid XML: {shown(str(error))}")
    else:
        if root.tag == "annotation":
            return root
        report.fault(place, f"is not in Pascal VOC's format: it starts with {shown(root.tag)}, not annotation")
    return None


def _root(data: bytes) -> Element:
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(data, True)  # noqa: FBT003 - takes no keywords
    return builder.close()


def _refuse(*_: object) -> None:
    raise _DocumentType


def _photo_of(root: Element, xml: Path, images: Path, place: str, report: Report) -> tuple[Path | None, str]:
    """The photo that the file names, or else the one that has the file's own name."""
    name = (root.findtext("filename") or "").strip()
    if not (name and len(name) < 256 and "\0" not in name and (images / name).is_file()):
        for suffix in sorted(SUFFIXES):
            own = xml.with_suffix(suffix)
            if (images / own).is_file():
                report.mend("the photo that it names is missing; the one with its own name is taken", place)
                return images / own, own.as_posix()
    if not name:
        report.fault(place, "names no photo, and none has its own name")
        return None, place
    return locate(images, name, f"{place} ({shown(name)})", report), name


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _read_objects(root: Element, photo: RawPhoto, numbers: dict[str, int], report: Report) -> None:
    for number, one in enumerate(root.iterfind("object"), 1):
        name = (one.findtext("name") or "").strip()
        if not is_name(name):
            report.fault(photo.boxes_at.format(number), f"{shown(name)!r} cannot be the name of a category")
            continue
        category = numbers.setdefault(name, len(numbers) + 1)
        difficult = (one.findtext("difficult") or "").strip() == "1"
        photo.boxes.append(RawBox(number, _values(one), category, crowd=difficult))


def _values(one: Element) -> Any:
    """The box (x, y, width, height): VOC counts pixels from 1, and xmax is still inside."""
    found = [_number(one.findtext(f"bndbox/{side}")) for side in SIDES]
    sides = [side for side in found if side is not None]
    if len(sides) < len(SIDES):
        return None
    left, top, right, bottom = sides
    left, top = max(0.0, left - 1), max(0.0, top - 1)
    return [left, top, right - left, bottom - top]
