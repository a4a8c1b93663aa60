"""Small sets of photos with one fault each, and what is said of it; `python -m tests.faulty_sets` writes the docs.

The docstring of a case describes it in docs/training-data.md.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from augu_api.config import ROOT

DOCUMENT = ROOT / "docs" / "training-data.md"
TABLE = re.compile(r"(\| data \| what is said \|\n\| --- \| --- \|\n)(?:\|.*\n)*")
SIZES = {"cat.jpg": (64, 48), "dog.jpg": (48, 64)}
BOXES: list[tuple[int, int, list[float]]] = [
    (1, 1, [10, 8, 20, 16]),
    (1, 2, [40, 10, 20, 30]),
    (2, 2, [4, 40, 30, 20]),
]
"""The photo, the category and the box of each object."""


def content() -> dict[str, Any]:
    """The set without a fault, in COCO's format."""
    return {
        "images": [
            {"id": id, "file_name": name, "width": width, "height": height}
            for id, (name, (width, height)) in enumerate(SIZES.items(), 1)
        ],
        "annotations": [
            {"id": id, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for id, (image, category, box) in enumerate(BOXES, 1)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


@dataclass
class FaultySet:
    """A set in a folder: the photos in photos/, the boxes in boxes.json, or in labels/ where a case writes them."""

    folder: Path
    content: dict[str, Any] = field(default_factory=content)

    def __post_init__(self) -> None:
        self.photos, self.labels, self.json = (self.folder / name for name in ("photos", "labels", "boxes.json"))
        self.photos.mkdir()
        for name, size in SIZES.items():
            Image.effect_noise(size, 50).save(self.photos / name)
        self.write()

    @property
    def annotations(self) -> Path:
        return self.labels if self.labels.exists() else self.json

    def write(self) -> None:
        """Write boxes.json."""
        self.json.write_text(json.dumps(self.content))

    def edit(self, kind: str, at: int | None = None, **facts: object) -> None:
        """Set facts of an image, annotation or category, or of all; DROPPED ones are removed."""
        for number, one in enumerate(self.content[kind]):
            if at in (None, number):
                one.update(facts)
                for name in [name for name, value in facts.items() if value is DROPPED]:
                    del one[name]
        self.write()

    def label(self, name: str, text: str) -> None:
        """Write a file of labels in YOLO's or Pascal VOC's format."""
        self.labels.mkdir(exist_ok=True)
        (self.labels / name).write_text(text)


DROPPED = object()


class Case(NamedTuple):
    """A fault, what is said of it (without the folder), and whether mending it gives the set without a fault."""

    spoil: Callable[[FaultySet], object]
    said: list[str]
    same: bool

    @property
    def about(self) -> str:
        return (self.spoil.__doc__ or "").rstrip(".")


CASES: list[Case] = []
Spoil = Callable[[FaultySet], object]


def says(*said: str, same: bool = False) -> Callable[[Spoil], Spoil]:
    """Add a case."""

    def add(spoil: Spoil) -> Spoil:
        CASES.append(Case(spoil, list(said), same))
        return spoil

    return add


# --- the file


@says(
    "Mended: boxes.json: a byte order mark",
    same=True,
)
def bom(faulty: FaultySet) -> None:
    """A byte order mark before the JSON."""
    faulty.json.write_text(json.dumps(faulty.content), encoding="utf-8-sig")


@says(
    "Mended: boxes.json: utf-16 instead of UTF-8",
    same=True,
)
def utf16(faulty: FaultySet) -> None:
    """UTF-16, as PowerShell writes it."""
    faulty.json.write_text(json.dumps(faulty.content), encoding="utf-16")


@says(
    "boxes.json: is not valid JSON: Expecting value: line 1 column 301 (char 300)",
)
def cut_json(faulty: FaultySet) -> None:
    """JSON that breaks off."""
    faulty.json.write_text(faulty.json.read_text()[:300])


@says(
    "boxes.json: is not valid JSON: nested too deeply",
)
def deep_json(faulty: FaultySet) -> None:
    """JSON of 100,000 brackets."""
    faulty.json.write_text("[" * 100_000)


@says(
    "boxes.json: is not in COCO's format: it is not a JSON object",
)
def other_json(faulty: FaultySet) -> None:
    """A list of results instead of a set."""
    faulty.json.write_text("[]")


@says(
    'boxes.json: is not in COCO\'s format: "categories" is missing or not a list',
    'boxes.json: is not in COCO\'s format: "annotations" is missing or not a list',
)
def no_lists(faulty: FaultySet) -> None:
    """No categories, and annotations that are no list."""
    del faulty.content["categories"]
    faulty.content["annotations"] = {}
    faulty.write()


@says(
    "boxes.json: is larger than 512 MB",
)
def large_json(faulty: FaultySet) -> None:
    """A file of 600 MB."""
    os.truncate(faulty.json, 600 << 20)


@says(
    "boxes.json: has 2 photos but no objects to train on or to measure",
)
def nothing(faulty: FaultySet) -> None:
    """Photos without any box."""
    faulty.content["annotations"] = []
    faulty.write()


@says(
    "boxes.json: has 0 photos but no objects to train on or to measure",
)
def no_photos(faulty: FaultySet) -> None:
    """No photos."""
    faulty.content |= {"images": [], "annotations": []}
    faulty.write()


@says(
    "boxes.json, annotations[0]: is 1, not a JSON object",
    "boxes.json, annotations[1]: is 2, not a JSON object",
)
def no_objects(faulty: FaultySet) -> None:
    """Numbers instead of annotations."""
    faulty.content["annotations"] = [1, 2]
    faulty.write()


# --- ids


@says(
    "Mended: boxes.json, annotations[0] and 2 more: the image_id is not an integer",
    "Mended: boxes.json, annotations[0] of cat.jpg and 2 more: the category_id is not an integer",
    same=True,
)
def text_ids(faulty: FaultySet) -> None:
    """Ids that are text."""
    for one in faulty.content["annotations"]:
        one |= {"image_id": str(one["image_id"]), "category_id": f"{one['category_id']}.0"[:1]}
    faulty.write()


@says(
    "Mended: boxes.json, categories[0]: the ids of categories start at 0; they are numbered from 1",
    "Mended: boxes.json, annotations[0]: the ids of boxes start at 0; they are numbered from 1",
    same=True,
)
def zero_ids(faulty: FaultySet) -> None:
    """Ids that start at 0."""
    for kind, names in (("images", ["id"]), ("categories", ["id"]), ("annotations", ["id", "image_id", "category_id"])):
        for one in faulty.content[kind]:
            one |= {name: one[name] - 1 for name in names}
    faulty.write()


@says(
    "Mended: boxes.json, annotations[1] and 1 more: the id of a box is another's; they are numbered anew",
    same=True,
)
def same_box_ids(faulty: FaultySet) -> None:
    """Boxes that share an id."""
    faulty.edit("annotations", id=1)


@says(
    "boxes.json, images[1] (dog.jpg): the id 1 is another photo's",
    "boxes.json, annotations[2]: there is no photo with the id 2",
)
def same_photo_ids(faulty: FaultySet) -> None:
    """Two photos with the same id."""
    faulty.edit("images", id=1)


@says(
    "boxes.json, categories[1]: has no id",
    "boxes.json, images[0]: has no id",
    "boxes.json, annotations[0]: there is no photo with the id 1",
    "boxes.json, annotations[1]: there is no photo with the id 1",
    "boxes.json, annotations[1]: there is no category with the id 2",
    "boxes.json, annotations[2] of dog.jpg: there is no category with the id 2",
)
def no_ids(faulty: FaultySet) -> None:
    """A photo and a category without an id."""
    faulty.edit("images", 0, id=DROPPED)
    faulty.edit("categories", 1, id=None)


@says(
    "boxes.json, annotations[2]: there is no photo with the id 9",
)
def unknown_photo(faulty: FaultySet) -> None:
    """A box of a photo that is not listed."""
    faulty.edit("annotations", 2, image_id=9)


@says(
    "boxes.json, annotations[0] of cat.jpg: there is no category with the id 80",
    "boxes.json, annotations[1] of cat.jpg: there is no category with the id 80",
    "boxes.json, annotations[2] of dog.jpg: there is no category with the id 80",
)
def unknown_category(faulty: FaultySet) -> None:
    """Boxes of a category that is not listed."""
    faulty.edit("annotations", category_id=80)


@says(
    "Mended: boxes.json, categories[2]: a category is listed twice; it is taken once",
    same=True,
)
def two_categories(faulty: FaultySet) -> None:
    """A category that is listed twice."""
    faulty.content["categories"].append({"id": 3, "name": "dog"})
    faulty.edit("annotations", 2, category_id=3)


@says(
    "boxes.json, categories[0]: '' cannot be the name of a category",
    "boxes.json, categories[1]: 'background' cannot be the name of a category",
    "boxes.json, annotations[0] of cat.jpg: there is no category with the id 1",
    "boxes.json, annotations[1] of cat.jpg: there is no category with the id 2",
    "boxes.json, annotations[2] of dog.jpg: there is no category with the id 2",
)
def background(faulty: FaultySet) -> None:
    """A category without a name, and one called background."""
    faulty.edit("categories", 0, name="")
    faulty.edit("categories", 1, name="background")


# --- photos


@says(
    "boxes.json, images[1] (dog.jpg): the photo 'dog.jpg' is missing from photos",
)
def missing(faulty: FaultySet) -> None:
    """A photo that is not in the folder."""
    (faulty.photos / "dog.jpg").unlink()


@says(
    "Mended: boxes.json, images[0] (images\\train\\cat.jpg) and 1 more:"
    " a path from another computer; the photo was found in the folder",
    same=True,
)
def windows_paths(faulty: FaultySet) -> None:
    """Paths of another computer."""
    faulty.edit("images", 0, file_name="images\\train\\cat.jpg")
    faulty.edit("images", 1, file_name="C:\\Users\\me\\pets\\dog.jpg")


@says(
    "Mended: boxes.json, images[2] (cat.jpg): a photo is listed twice; it is taken once, with all its boxes",
    same=True,
)
def twice(faulty: FaultySet) -> None:
    """A photo that is listed twice, with its boxes under both ids."""
    faulty.content["images"].append(faulty.content["images"][0] | {"id": 3})
    faulty.edit("annotations", 1, image_id=3)


@says(
    "Mended: boxes.json, images[0] (train/cat.jpg) and 1 more:"
    " a path from another computer; the photo was found in the folder",
    "Mended: boxes.json, annotations[2] of train/cat.jpg: a box sticks out of its photo; it is cut at the edge",
    "boxes.json, images[1] (val/cat.jpg): the same file was found for train/cat.jpg",
)
def two_names(faulty: FaultySet) -> None:
    """Two photos of the same name from different folders, of which one file is left."""
    faulty.edit("images", 0, file_name="train/cat.jpg")
    faulty.edit("images", 1, file_name="val/cat.jpg")


@says(
    "boxes.json, images[0]: has no file_name",
    "boxes.json, annotations[0]: there is no photo with the id 1",
    "boxes.json, annotations[1]: there is no photo with the id 1",
)
def no_name(faulty: FaultySet) -> None:
    """A photo without a file name."""
    faulty.edit("images", 0, file_name=DROPPED)


@says(
    "boxes.json, images[0] (cat.jpg): the photo cat.jpg is truncated",
    "boxes.json, images[1] (dog.jpg): the photo dog.jpg is empty",
)
def cut_photo(faulty: FaultySet) -> None:
    """A photo that breaks off, and an empty one."""
    os.truncate(faulty.photos / "cat.jpg", 1200)
    os.truncate(faulty.photos / "dog.jpg", 0)


@says(
    "boxes.json, images[0] (cat.jpg): the photo cat.jpg cannot be decoded as a photo",
)
def no_photo(faulty: FaultySet) -> None:
    """A web page instead of a photo."""
    (faulty.photos / "cat.jpg").write_text("<!doctype html><title>404</title>")


@says(
    "boxes.json, images[0] (cat.jpg): the photo cat.jpg is a PostScript program, not a photo",
)
def program(faulty: FaultySet) -> None:
    """A PostScript program instead of a photo."""
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n"
    (faulty.photos / "cat.jpg").write_text(text)


@says(
    "boxes.json, images[0] (cat.jpg): the photo cat.jpg has 30000 x 30000 pixels; at most 200 million are read",
)
def large_photo(faulty: FaultySet) -> None:
    """A photo of 900 million pixels."""
    path = faulty.photos / "cat.jpg"
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (30_000).to_bytes(2, "big") * 2
    path.write_bytes(data)


@says(
    "Mended: boxes.json, images[0] (cat.jpg): width and height are not the file's; the file's are taken",
    same=True,
)
def other_size(faulty: FaultySet) -> None:
    """A width and height that are not the file's."""
    faulty.edit("images", 0, width=48, height=64)


@says(
    "Mended: boxes.json, images[0] (cat.jpg) and 1 more: boxes of a copy of another size; they are scaled",
    same=True,
)
def resized(faulty: FaultySet) -> None:
    """Photos that were made smaller after they were labelled."""
    for one in faulty.content["images"]:
        one |= {"width": 10 * one["width"], "height": 10 * one["height"]}
    for one in faulty.content["annotations"]:
        one["bbox"] = [10 * value for value in one["bbox"]]
    faulty.write()


@says(
    "boxes.json, images[0] (cat.jpg): is said to be 300 x 300, but the file is 64 x 48, and its boxes do not fit",
)
def other_photo(faulty: FaultySet) -> None:
    """Boxes of a larger photo with other proportions."""
    faulty.edit("images", 0, width=300, height=300)
    faulty.edit("annotations", 0, bbox=[200, 200, 50, 50])


def turn(path: Path, orientation: int) -> None:
    """Store the photo turned, with an EXIF that says how it is shown: as before."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as photo:
        back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
        photo.transpose(back).save(path, exif=exif)


@says(
    "Mended: boxes.json, images[0] (cat.jpg): its EXIF turns the photo; the boxes are taken as of the upright photo",
    same=True,
)
def exif(faulty: FaultySet) -> None:
    """A photo that its EXIF turns, with boxes of the photo as shown."""
    turn(faulty.photos / "cat.jpg", 6)


@says(
    "Mended: boxes.json, images[0] (cat.jpg): its EXIF turns the photo;"
    " its boxes are of the stored photo and are turned with it",
    same=True,
)
def exif_stored(faulty: FaultySet) -> None:
    """A photo that its EXIF turns, with width, height and boxes of the photo as stored."""
    turn(faulty.photos / "cat.jpg", 6)
    faulty.edit("images", 0, width=48, height=64)
    faulty.edit("annotations", 0, bbox=[8, 34, 16, 20])
    faulty.edit("annotations", 1, bbox=[10, 4, 30, 20])


# --- boxes


@says(
    'Mended: boxes.json, annotations[0] of cat.jpg and 2 more: no "area"; width x height is taken',
    'Mended: boxes.json, annotations[0] of cat.jpg and 2 more: no "iscrowd"; 0 is taken',
    same=True,
)
def no_area(faulty: FaultySet) -> None:
    """No area and no iscrowd."""
    faulty.edit("annotations", area=DROPPED, iscrowd=DROPPED)


@says(
    "Mended: boxes.json, annotations[0] of cat.jpg: the area is not a positive number; width x height is taken",
    same=True,
)
def bad_area(faulty: FaultySet) -> None:
    """An area that is not a number."""
    faulty.edit("annotations", 0, area=float("nan"))


@says(
    "Mended: boxes.json, annotations[0] of cat.jpg and 1 more: a segmentation without a box; the box was made of it",
    same=True,
)
def polygons(faulty: FaultySet) -> None:
    """Segmentations without boxes."""
    faulty.edit("annotations", 0, bbox=[], segmentation=[[10, 8, 30, 8, 20, 24]])
    runs = [40 * 48 + 10, *([30, 18] * 19), 30, 48 * 4 + 8]
    faulty.edit("annotations", 1, bbox=DROPPED, segmentation={"size": [48, 64], "counts": runs})


@says(
    "boxes.json, annotations[0] of cat.jpg: has no box, and no segmentation that gives one",
    "boxes.json, annotations[1] of cat.jpg: its box is a list, not four numbers",
    "boxes.json, annotations[2] of dog.jpg: its box has '4' where a number belongs",
)
def no_box(faulty: FaultySet) -> None:
    """Neither a box nor a segmentation, a box of three numbers, and one of text."""
    faulty.edit("annotations", 0, bbox=DROPPED)
    faulty.edit("annotations", 1, bbox=[1, 2, 3])
    faulty.edit("annotations", 2, bbox=["4", "40", "30", "20"])


@says(
    "boxes.json, annotations[0] of cat.jpg: its box has nan where a number belongs",
    "boxes.json, annotations[1] of cat.jpg: its box has inf where a number belongs",
    "boxes.json, annotations[2] of dog.jpg: its box has null where a number belongs",
)
def nan(faulty: FaultySet) -> None:
    """NaN, infinity and null in boxes."""
    for at, value in enumerate([float("nan"), float("inf"), None]):
        faulty.edit("annotations", at, bbox=[4, value, 10, 10])


@says(
    "Mended: boxes.json, annotations[0] of cat.jpg: a box without area; it is left out",
)
def zero_area(faulty: FaultySet) -> None:
    """A box without area."""
    faulty.edit("annotations", 0, bbox=[10, 8, 20, 0])


@says(
    "boxes.json, annotations[0] of cat.jpg: its box is -20 wide and 16 high",
)
def negative(faulty: FaultySet) -> None:
    """A box of negative width."""
    faulty.edit("annotations", 0, bbox=[30, 8, -20, 16])


@says(
    "Mended: boxes.json, annotations[1] of cat.jpg: a box sticks out of its photo; it is cut at the edge",
)
def overhang(faulty: FaultySet) -> None:
    """A box that sticks out of its photo."""
    faulty.edit("annotations", 1, bbox=[40, 10, 60, 60])


@says(
    "boxes.json, annotations[1] of cat.jpg: its box is outside of the photo, which has 64 x 48 pixels",
)
def outside(faulty: FaultySet) -> None:
    """A box outside of its photo."""
    faulty.edit("annotations", 1, bbox=[100, 10, 20, 30])


@says(
    "Mended: boxes.json, annotations[3] of cat.jpg: the same box twice; it is taken once",
    same=True,
)
def same_box(faulty: FaultySet) -> None:
    """The same box twice."""
    faulty.content["annotations"].append(faulty.content["annotations"][0] | {"id": 4})
    faulty.write()


def fractions() -> list[list[float]]:
    """The boxes as YOLO has them."""
    rows = []
    for photo, _, (x, y, w, h) in BOXES:
        width, height = list(SIZES.values())[photo - 1]
        rows.append([(x + w / 2) / width, (y + h / 2) / height, w / width, h / height])
    return rows


@says(
    "Mended: boxes.json, annotations[0] of cat.jpg and 2 more:"
    " fractions of the photo's sides, from the centre; converted to pixels",
    same=True,
)
def normalised(faulty: FaultySet) -> None:
    """YOLO's boxes in COCO's file: fractions of the photo's sides, from the centre."""
    for at, box in enumerate(fractions()):
        faulty.edit("annotations", at, bbox=box)


@says(
    "boxes.json, annotations[0] of cat.jpg: the boxes are fractions, from the centre or from a corner; use pixels",
)
def ambiguous(faulty: FaultySet) -> None:
    """Fractions that fit from the centre and from a corner."""
    faulty.edit("annotations", bbox=[0.4, 0.4, 0.1, 0.1])


@says(
    "boxes.json, annotations[1] of cat.jpg: its box is two corners; COCO's are x, y, width, height",
    "boxes.json, annotations[2] of dog.jpg: its box is two corners; COCO's are x, y, width, height",
)
def corners(faulty: FaultySet) -> None:
    """Two corners instead of x, y, width, height."""
    for at, (x, y, w, h) in enumerate(box for *_, box in BOXES):
        faulty.edit("annotations", at, bbox=[x, y, x + w, y + h])


@says(
    "boxes.json, annotations[0] of cat.jpg: its score is 89, not a number from 0 to 1",
)
def score(faulty: FaultySet) -> None:
    """A score in percent."""
    faulty.edit("annotations", 0, score=89)


@says(
    "Mended: boxes.json, annotations[3] and 23 more: the id of a box is another's; they are numbered anew",
    *(
        f"boxes.json, annotations[{number}] of cat.jpg: has no box, and no segmentation that gives one"
        for number in range(26)
        if number % 3 < 2
    ),
    "boxes.json, annotations[2] of dog.jpg: has no box, and no segmentation that gives one",
    "boxes.json, annotations[5] of dog.jpg: has no box, and no segmentation that gives one",
    "and 7 more.",
)
def many(faulty: FaultySet) -> None:
    """More faults than are shown."""
    faulty.content["annotations"] *= 9
    faulty.edit("annotations", bbox=None)


# --- YOLO


def yolo(faulty: FaultySet, names: str | None = "cat\ndog\n") -> None:
    """The set in YOLO's layout."""
    for name in SIZES:
        rows = [row for row in zip(BOXES, fractions(), strict=True) if row[0][0] == list(SIZES).index(name) + 1]
        lines = [" ".join(map(str, [category - 1, *box])) for (_, category, _), box in rows]
        faulty.label(name.replace(".jpg", ".txt"), "\n".join(lines))
    if names is not None:
        faulty.label("classes.txt", names)


@says(
    "2 photos, 3 boxes and 2 categories can be used.",
    same=True,
)
def yolo_layout(faulty: FaultySet) -> None:
    """YOLO's folder of labels, without a fault."""
    yolo(faulty)


@says(
    "labels: the names of the categories are in none of classes.txt, obj.names, data.yaml, data.yml, dataset.yaml",
    "labels/cat.txt, line 1: there is no category 0; the first is 0",
    "labels/cat.txt, line 2: there is no category 1; the first is 0",
    "labels/dog.txt, line 1: there is no category 1; the first is 0",
)
def yolo_names(faulty: FaultySet) -> None:
    """YOLO's labels without the names of the categories."""
    yolo(faulty, None)


@says(
    "labels/cat.txt, line 2: there is no category 2; the first is 0",
    "labels/cat.txt, line 3: is not: category, centre x, centre y, width, height",
    "labels/cat.txt, line 1: its box is not in fractions of the photo's sides, 0 to 1",
)
def yolo_lines(faulty: FaultySet) -> None:
    """YOLO's labels with pixels, an unknown category and four numbers."""
    yolo(faulty)
    faulty.label("cat.txt", "0 20 16 20 16\n2 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1\n")


@says(
    "Mended: photos/dog.jpg: a photo without a file of labels; it is taken as a photo without objects",
    "labels/bird.txt: there is no photo of this name in photos",
)
def yolo_photos(faulty: FaultySet) -> None:
    """YOLO's labels of a photo that is missing, and a photo without labels."""
    yolo(faulty)
    (faulty.labels / "dog.txt").rename(faulty.labels / "bird.txt")


@says(
    "Mended: labels/dog.txt, line 1: a segmentation without a box; the box was made of it",
    same=True,
)
def yolo_polygons(faulty: FaultySet) -> None:
    """YOLO's polygons instead of boxes."""
    yolo(faulty)
    faulty.label("dog.txt", f"1 {4 / 48} {40 / 64} {34 / 48} {40 / 64} {34 / 48} {60 / 64}")


@says("2 photos, 3 boxes and 2 categories can be used.", same=True)
def yolo_yaml(faulty: FaultySet) -> None:
    """YOLO's folder of labels with a data.yaml beside it, without a fault."""
    yolo(faulty, None)
    (faulty.folder / "data.yaml").write_text("path: ../pets\nnc: 2\nnames:\n  0: cat\n  1: dog\n")


@says(
    "data.yaml: the names are missing, not unique, or cannot be the names of categories",
    "labels/cat.txt, line 1: there is no category 0; the first is 0",
    "labels/cat.txt, line 2: there is no category 1; the first is 0",
    "labels/dog.txt, line 1: there is no category 1; the first is 0",
)
def yolo_bomb(faulty: FaultySet) -> None:
    """YAML whose names are lists of lists, a billion in all."""
    yolo(faulty, None)
    lines = [f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 9)}]" for depth in range(1, 10)]
    (faulty.folder / "data.yaml").write_text("\n".join(["a0: &a0 cat", *lines, "names: *a9"]))


@says(
    "data.yaml: is not valid YAML",
    "data.yaml: the names are missing, not unique, or cannot be the names of categories",
    "labels/cat.txt: is not UTF-8",
    "labels/dog.txt, line 1: there is no category 1; the first is 0",
)
def yolo_bytes(faulty: FaultySet) -> None:
    """YOLO's labels in UTF-16, and names that are not valid YAML."""
    yolo(faulty, None)
    (faulty.folder / "data.yaml").write_text("names: [cat, dog")
    (faulty.labels / "cat.txt").write_text("0 0.5 0.5 0.1 0.1", encoding="utf-16")


@says(
    "labels/dog.txt, line 1: its score is 89, not a number from 0 to 1",
)
def yolo_scores(faulty: FaultySet) -> None:
    """YOLO's labels with scores in percent."""
    yolo(faulty)
    faulty.label("dog.txt", "1 0.5 0.5 0.1 0.1 89")


# --- Pascal VOC

XML = """<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height></size>{objects}
</annotation>"""
OBJECT = """<object><name>{name}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>
</object>"""


def voc(faulty: FaultySet, change: Callable[[str], str] = str) -> None:
    """The set in Pascal VOC's format; `change` is made to the first file."""
    for number, (name, (width, height)) in enumerate(SIZES.items(), 1):
        rows = [(category, box) for photo, category, box in BOXES if photo == number]
        objects = "".join(
            OBJECT.format(x + 1, y + 1, x + w, y + h, name=["cat", "dog"][category - 1])
            for category, (x, y, w, h) in rows
        )
        text = XML.format(name=name, width=width, height=height, objects=objects)
        faulty.label(name.replace(".jpg", ".xml"), change(text) if number == 1 else text)


@says(
    "2 photos, 3 boxes and 2 categories can be used.",
    same=True,
)
def voc_layout(faulty: FaultySet) -> None:
    """Pascal VOC's files, without a fault."""
    voc(faulty)


@says(
    "labels/cat.xml: declares a document type, which is not read",
)
def voc_entities(faulty: FaultySet) -> None:
    """XML with entities of its own, which could fill the memory or read other files."""
    voc(faulty, lambda text: f'<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]>{text.replace("cat", "&b;")}')


@says(
    "labels/cat.xml: is not valid XML: unclosed token: line 2, column 9",
)
def voc_cut(faulty: FaultySet) -> None:
    """XML that breaks off."""
    voc(faulty, lambda text: text[:200])


@says(
    "labels/cat.xml, object 1: has no box, and no segmentation that gives one",
    "labels/cat.xml, object 2: its box is -38 wide and 30 high",
)
def voc_boxes(faulty: FaultySet) -> None:
    """An object without a box, and one whose corners are exchanged."""
    voc(faulty, lambda text: text.replace("xmax>", "right>", 2).replace("<xmin>41<", "<xmin>99<"))


@says(
    "Mended: labels/cat.xml: the photo that it names is missing; the one with its own name is taken",
    same=True,
)
def voc_renamed(faulty: FaultySet) -> None:
    """Pascal VOC's file with another photo's name, and a size of 0."""
    voc(faulty, lambda text: re.sub(r"(width|height)>\d+", r"\1>0", text.replace("cat.jpg", "IMG_1.JPG")))


@says(
    "labels: has neither YOLO's .txt files nor Pascal VOC's .xml files",
)
def neither(faulty: FaultySet) -> None:
    """A folder without labels."""
    faulty.labels.mkdir()


@says(
    "labels/a.xml (a.jpg): the photo 'a.jpg' is missing from photos",
    "labels/b.xml: names no photo, and none has its own name",
    "labels/c.xml: is not in Pascal VOC's format: it starts with svg, not annotation",
)
def voc_others(faulty: FaultySet) -> None:
    """Pascal VOC's file of a photo that is missing, one without a photo's name, and one of another format."""
    voc(faulty)
    for name, text in (("a", "<filename>a.jpg</filename>"), ("b", "")):
        faulty.label(f"{name}.xml", f"<annotation>{text}</annotation>")
    faulty.label("c.xml", "<svg/>")


@says(
    "labels/cat.xml, object 1: '' cannot be the name of a category",
)
def voc_names(faulty: FaultySet) -> None:
    """An object without a name."""
    voc(faulty, lambda text: text.replace("<name>cat", "<name>"))


def with_table(text: str) -> str:
    """docs/training-data.md with the table of the cases."""
    rows = [f"| {case.about} | {'<br>'.join(_cells(case.said))} |\n" for case in CASES]
    return TABLE.sub(lambda found: found[1] + "".join(rows), text)


def _cells(said: list[str]) -> Iterator[str]:
    """The lines for a table; of very many the first and the last."""
    for line in said if len(said) < 9 else [*said[:3], "…", said[-1]]:
        yield f"`{line}`" if line != "…" else line


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
