"""Reading a set in any of the formats."""

from pathlib import Path

from augu_api.detection.training.photo_sets import boxes, coco, voc, yolo
from augu_api.detection.training.photo_sets.content import PhotoSet, Source
from augu_api.detection.training.photo_sets.files import Progress, Seen, look_at_all, silent
from augu_api.detection.training.photo_sets.report import Report, shown


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
    present = [(photo, photo.file) for photo in source.photos if photo.file]
    seen = []
    for (photo, _), found in zip(present, look_at_all([file for _, file in present], progress), strict=True):
        if isinstance(found, Seen):
            seen.append((photo, found))
        else:
            report.fault(photo.place, f"the photo {shown(photo.name)} {found}")
    photos = boxes.check(source, seen, report)
    if not report.faults and not any(photo.objects for photo in photos):
        report.fault(str(annotations), f"has {len(photos)} photos but no objects to train on or to measure")
    return PhotoSet(annotations, source.categories, photos)


def _read_source(images: Path, annotations: Path, report: Report) -> Source:
    if not annotations.is_dir():
        return (yolo if annotations.suffix.lower() in yolo.YAML else coco).read(images, annotations, report)
    if next(annotations.rglob("*.xml"), None):
        return voc.read(images, annotations, report)
    if next(annotations.rglob("*.txt"), None):
        return yolo.read(images, annotations, report)
    report.fault(str(annotations), "has neither YOLO's .txt files nor Pascal VOC's .xml files")
    return Source()


def _read_ignored(ignore: Path, source: Source, report: Report) -> None:
    if source.by_id:
        coco.read_ignored(ignore, source, report)
    elif not report.faults:
        report.fault(str(ignore), "boxes to ignore are read beside annotations in COCO's format only")
