"""What is read: photos with boxes, and the same before they are checked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

UNKNOWN = 0  # the category of a box that is neither object nor background


class Box(NamedTuple):
    """A box (x, y, width, height) in pixels of the upright photo.

    A crowd is neither object nor background; `score` is how likely the box is right.
    """

    xywh: list[float]
    category: int
    crowd: bool = False
    score: float = 1.0
    area: float | None = None


@dataclass(frozen=True)
class Photo:
    """A photo's file, its name within the set, and its boxes."""

    id: int
    name: str
    file: Path
    boxes: list[Box]

    @property
    def objects(self) -> set[int]:
        """The categories of its objects."""
        return {box.category for box in self.boxes if not box.crowd}


@dataclass(frozen=True)
class PhotoSet:
    """Photos with boxes, and the names of their categories by their ids, which start at 1."""

    path: Path
    categories: dict[int, str]
    photos: list[Photo]


@dataclass(slots=True)
class RawBox:
    """A box as a file has it: its place there, and its values (x, y, width, height), unchecked."""

    number: int
    values: Any
    category: int
    crowd: bool = False
    score: float = 1.0
    area: float | None = None


@dataclass(slots=True)
class RawPhoto:
    """A photo as a file has it; `file` is None if it is missing.

    place: where the file names the photo; boxes_at: where its boxes are, with {} for their number
    """

    name: str
    file: Path | None
    place: str
    boxes_at: str
    size: tuple[Any, Any] | None = None
    boxes: list[RawBox] = field(default_factory=list)


@dataclass
class Source:
    """What a reader found; `fractions` if boxes are (centre x, centre y, width, height) as fractions of the sides."""

    categories: dict[int, str] = field(default_factory=dict)
    photos: list[RawPhoto] = field(default_factory=list)
    by_id: dict[int | str, RawPhoto] = field(default_factory=dict)
    fractions: bool = False
