"""The files of a set: where they are, and whether its photos can be decoded."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from augu_api.detection.training.photo_sets.report import Report
from augu_api.photos import TURNED

SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 200_000_000
MAX_NAME = 4096  # characters
MAX_PARTS = 8  # of a path of another computer, from its end
SIDEWAYS = 5  # from this orientation on, width and height change places
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""`progress(label, length)` gives a function that is told how many are done."""


class Seen(NamedTuple):
    """A photo's size (width, height) as stored, and the orientation in its EXIF."""

    stored: tuple[int, int]
    orientation: int | None

    @property
    def upright(self) -> tuple[int, int]:
        """The size as the photo is shown."""
        width, height = self.stored
        return (height, width) if (self.orientation or 0) >= SIDEWAYS else (width, height)


@contextmanager
def silent(label: str, length: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG001 - as Progress
    """Progress that nobody is told of."""
    yield lambda _: None


def read_bounded(path: Path, limit: int, report: Report) -> bytes | None:
    """A file's bytes; None, after reporting it, if they are too many or cannot be read."""
    try:
        if path.is_file() and (size := path.stat().st_size) <= limit:
            with path.open("rb") as file:
                return file.read(size)
        report.fault(str(path), f"is larger than {limit >> 20} MB" if path.is_file() else "is not a file")
    except OSError as error:
        report.fault(str(path), f"cannot be read: {error.strerror}")
    return None


def locate(folder: Path, name: str, place: str, report: Report) -> Path | None:
    """The file of a photo's name; None, after reporting it, if it is missing.

    A path of another computer is mended: what remains of its end within the folder is taken.
    """
    if "\0" not in name and len(name) <= MAX_NAME:
        with suppress(OSError):
            if (path := folder / name).is_file():
                return path
            parts = PurePosixPath(name.replace("\\", "/")).parts
            for start in range(max(0, len(parts) - MAX_PARTS), len(parts)):
                if ":" not in parts[start] and (path := folder.joinpath(*parts[start:])).is_file():
                    report.mend("a path from another computer; the photo was found in the folder", place)
                    return path
    report.fault(place, f"the photo {os.path.basename(name)!r} is missing from {folder}"[:300])  # noqa: PTH119 - not a path yet
    return None


def look(path: Path) -> Seen | str:
    """A photo's size and orientation, once it is decoded; or why it cannot be used."""
    try:
        with Image.open(path) as image:
            size = image.size
            if image.format == "EPS":
                return "is a PostScript program, not a photo"
            if size[0] * size[1] > MAX_PIXELS:
                return f"has {size[0]} x {size[1]} pixels; at most {MAX_PIXELS // 10**6} million are read"
            image.draft(None, (1, 1))  # decodes a JPEG at an eighth of its size
            image.load()
            return Seen(size, orientation(image))
    except Exception as error:  # noqa: BLE001 - each format of Pillow has its own
        if path.stat().st_size == 0:
            return "is empty"
        return "is truncated" if "truncated" in str(error).lower() else "cannot be decoded as a photo"


def orientation(image: Image.Image) -> int | None:
    """The EXIF's orientation of a photo that is loaded, if it turns the photo."""
    with suppress(Exception):
        found = image.getexif().get(ExifTags.Base.Orientation)
        return found if found in TURNED else None
    return None


def look_at_all(paths: Sequence[Path], progress: Progress) -> Iterator[Seen | str]:
    """`look` at each, in threads: Pillow decodes without Python's lock."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with progress("Checking the photos", len(paths)) as at:
            chunks = pairwise([*range(0, len(paths), 64), len(paths)])
            done = 0
            for start, end in chunks:
                for seen in pool.map(look, paths[start:end]):
                    yield seen
                    at(done := done + 1)
    finally:
        pool.shutdown(cancel_futures=True)


def open_upright(path: Path) -> Image.Image:
    """The photo in RGB, turned as its EXIF says."""
    with Image.open(path) as file:
        photo = file.convert("RGB")
        turn = TURNED.get(orientation(file))
    return Image.fromarray(turn(np.asarray(photo))) if turn else photo
