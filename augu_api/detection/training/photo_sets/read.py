"""Reading a set in any of the formats."""

from collections.abc import Iterator
from pathlib import Path

from augu_api.detection.training.photo_sets.boxes import Pair, check
from augu_api.detection.training.photo_sets.coco import read as read_coco
from augu_api.detection.training.photo_sets.coco import read_ignored
from augu_api.detection.training.photo_sets.content import PhotoSet, Source
from augu_api.detection.training.photo_sets.files import Progress, Seen, look_at_all, silent
from augu_api.detection.training.photo_sets.report import Report, shown
from augu_api.detection.training.photo_sets.voc import read as read_voc
from augu_api.detection.training.photo_sets.yolo import YAML
from augu_api.detection.training.photo_sets.yolo import read as read_yolo


def read(
    images: Path, annotations: Path, report: Report, *, ignore: Path | None = None, progress: Progress = silent
) -> PhotoSet:
    """The photos and boxes that can be used; `report` gets everything that is wrong or was mended.

    annotations: a COCO file, a folder of YOLO's text files or of Pascal VOC's XML files, or a data.yaml of YOLO's
    ignore: a COCO file with boxes that are neither object nor background
    """
    source = _read_source(images, annotations, report)
    if ignore:
        _read_ignored(ignore, source, report)
    photos = check(source, list(_look(source, report, progress)), report)
    if not report.faults and not any(photo.objects for photo in photos):
        report.fault(str(annotations), f"has {len(photos)} photos but no objects to train on or to measure")
    return PhotoSet(annotations, source.categories, photos)


def _look(source: Source, report: Report, progress: Progress) -> Iterator[Pair]:
    """The photos that can be decoded."""
    present = [(photo, photo.file) for photo in source.photos if photo.file]
    for (photo, _), found in zip(present, look_at_all([file for _, file in present], progress), strict=True):
        if isinstance(found, Seen):
            yield photo, found
        else:
            report.fault(photo.place, f"the photo {shown(photo.name)} {found}")


def _read_source(images: Path, annotations: Path, report: Report) -> Source:
    if not annotations.is_dir():
        return (read_yolo if annotations.suffix.lower() in YAML else read_coco)(images, annotations, report)
    if next(annotations.rglob("*.xml"), None):
        return read_voc(images, annotations, report)
    if next(annotations.rglob("*.txt"), None):
        return read_yolo(images, annotations, report)
    report.fault(str(annotations), "has neither YOLO's .txt files nor Pascal VOC's .xml files")
    return Source()


def _read_ignored(ignore: Path, source: Source, report: Report) -> None:
    if source.by_id:
        read_ignored(ignore, source, report)
    elif not report.faults:
        report.fault(str(ignore), "boxes to ignore are read beside annotations in COCO's format only")
