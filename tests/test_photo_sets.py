"""Photos with boxes for training: what is said of faulty sets, what is mended, and which photos are held out."""

import itertools
import json
import os
import pty
import random
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pycocotools import mask

from augu_api.detection import Detection
from augu_api.detection.training.evaluate import Evaluation
from augu_api.detection.training.photo_sets import Box, Photo, PhotoSet, Report, coco, masks, read
from augu_api.detection.training.photo_sets.files import Seen, look, open_upright
from augu_api.detection.training.photo_sets.report import MAX_LINES, FaultyPhotoSet, shown
from augu_api.detection.training.photo_sets.split import held_out, split
from augu_api.operating.cli import main
from augu_api.operating.cli.progress import EVERY, progress
from tests.faulty_sets import BOXES, CASES, DOCUMENT, SIZES, Case, FaultySet, with_table
from tests.helpers import BIN

SUMMARY = "2 photos, 3 boxes and 2 categories can be used."
REFUSED = [case for case in CASES if not all(line.startswith(("Mended: ", "2 photos")) for line in case.said)]


def run(command: str, faulty: FaultySet, *options: object) -> Result:
    """Run a command of `augu-api weights` on a set."""
    given = "weights", command, *options, "--images", faulty.photos, "--annotations", faulty.annotations
    env = {"AUGU_DATA_DIR": str(faulty.folder / "data")}
    return CliRunner().invoke(main, [*map(str, given)], env=env)


def lines_of(result: Result, faulty: FaultySet) -> list[str]:
    """What is said, without progress, and without the folder."""
    lines = [line.strip().replace(f"{faulty.folder}/", "") for line in result.output.splitlines()]
    return [line for line in lines if not line.startswith("Checking the photos: ")]


def boxes_of(photos: PhotoSet) -> dict[str, list[Any]]:
    """The boxes of each photo, with the names of their categories."""
    return {
        photo.file.name: sorted(
            (photos.categories[box.category], *(round(v, 6) for v in box.xywh)) for box in photo.boxes
        )
        for photo in photos.photos
    }


# --- what is said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.spoil.__name__)
def test_what_is_said(tmp_path: Path, case: Case) -> None:
    """Every fault is said with its place, up to 20; what is mended is said, and then the set is as without a fault."""
    faulty = FaultySet(tmp_path)
    case.spoil(faulty)
    result = run("check", faulty)
    said, mended = lines_of(result, faulty), [line for line in case.said if line.startswith("Mended: ")]
    if case in REFUSED:
        faults = len(case.said) - len(mended) + (6 if case.said[-1] == "and 7 more." else 0)
        header = f"Error: {faults} fault{'' if faults == 1 else 's'} in the photos and boxes:"
        assert (said, result.exit_code) == ([*mended, header, *case.said[len(mended) :]], 1)
        assert len(said) <= len(mended) + 2 + MAX_LINES
    else:
        assert (said[: len(mended)], said[len(mended) :][-1][:8], result.exit_code) == (mended, SUMMARY[:8], 0)
    if case.same:
        photos = read(faulty.photos, faulty.annotations, Report())
        assert boxes_of(photos) == {
            name: sorted((("cat", "dog")[category - 1], *box) for photo, category, box in BOXES if photo == number)
            for number, name in enumerate(SIZES, 1)
        }


@pytest.mark.parametrize("case", REFUSED[::5], ids=lambda case: case.spoil.__name__)
def test_training_and_evaluation_refuse_the_same(tmp_path: Path, case: Case) -> None:
    """`train` and `evaluate` say the same as `check`, before they look for the model, and make no folder."""
    faulty = FaultySet(tmp_path)
    case.spoil(faulty)
    said = lines_of(run("check", faulty), faulty)
    for command, *options in (("evaluate", "nothing"), ("train", "nothing", "--output", tmp_path / "model")):
        result = run(str(command), faulty, *options)
        assert (lines_of(result, faulty), result.exit_code) == (said, 1)
    assert not (tmp_path / "model").exists()


def test_the_documentation() -> None:
    """The table in docs/training-data.md is what these tests check, of at least 40 faulty sets."""
    text = DOCUMENT.read_text()
    assert with_table(text) == text
    assert len(CASES) >= 40 + 3
    assert len({case.about for case in CASES}) == len(CASES)


def test_faults_of_all_files_are_said_together(tmp_path: Path) -> None:
    """The faults of the photos for training, of those for validation and of the boxes to ignore are one list."""
    for name in ("train", "validation"):
        (tmp_path / name).mkdir()
    faulty, validation = FaultySet(tmp_path / "train"), FaultySet(tmp_path / "validation")
    faulty.edit("annotations", 0, image_id=77)
    validation.edit("annotations", 1, image_id=88)
    (tmp_path / "ignore.json").write_text('{"annotations": [{"image_id": 99, "bbox": [1, 2, 3, 4]}]}')
    others = "--validation-images", validation.photos, "--validation-annotations", validation.json
    options = "bundled", *others, "--ignore", tmp_path / "ignore.json", "--output", tmp_path / "model"
    said = lines_of(run("train", faulty, *options), faulty)
    assert [line.rpartition(" ")[2] for line in said[1:]] == ["77", "99", "88"]


def test_braces_in_names(tmp_path: Path) -> None:
    """A folder or a photo whose name has braces is named as it is."""
    folder = tmp_path / "{0} {photos}"
    folder.mkdir()
    faulty = FaultySet(folder)
    faulty.edit("annotations", 0, bbox=[1, 2])
    assert any("annotations[0] of " in line for line in lines_of(run("check", faulty), faulty))


def test_names_cannot_command_the_terminal(tmp_path: Path) -> None:
    """Control characters and very long text of a file are not written to the terminal."""
    faulty = FaultySet(tmp_path)
    faulty.edit("images", 0, file_name="\x1b[2J\n" + "x" * 10_000)
    faulty.edit("annotations", 2, category_id="\x1b]0;\ud800")
    result = run("check", faulty)
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert max(map(len, result.output.splitlines())) < 600
    assert [shown(value) for value in (["x"], {"x": 1}, 10**30, "\ud800")] == ["a list", "a dict", "a huge number", "?"]


def test_a_large_file_needs_little_memory(tmp_path: Path) -> None:
    """Segmentations, most of a COCO file, are dropped while it is parsed."""
    faulty = FaultySet(tmp_path)
    one = faulty.content["annotations"][0] | {"segmentation": [[1.5, 2.5, 3.5, 4.5] * 500]}
    faulty.content["annotations"] = [one | {"bbox": [number, 2, 3, 4]} for number in range(40)]
    faulty.write()
    tracemalloc.start()
    photos = read(faulty.photos, faulty.json, Report())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(len(photo.boxes) for photo in photos.photos) == 40
    assert peak < 3 * faulty.json.stat().st_size


# --- what is mended


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned(tmp_path: Path, kind: str, orientation: int) -> None:
    """A photo is turned as its EXIF says, and so are boxes of the stored photo: they show the same object."""
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5:20, 30:55] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{kind}"
    Image.fromarray(stored).save(path, exif=exif, quality=100)
    with Image.open(path) as file:
        assert open_upright(path).tobytes() == ImageOps.exif_transpose(file).convert("RGB").tobytes()
    upright = open_upright(path)
    seen = look(path)
    assert isinstance(seen, Seen)
    assert seen.upright == upright.size
    if orientation < 5 or seen.stored != (60, 40):  # a TIFF is turned by Pillow
        return
    (tmp_path / "boxes.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": path.name, "width": 60, "height": 40}],
                "annotations": [{"image_id": 1, "category_id": 1, "bbox": [30, 5, 25, 15]}],
                "categories": [{"id": 1, "name": "light"}],
            }
        )
    )
    [photo] = read(tmp_path, tmp_path / "boxes.json", Report()).photos
    [(x, y, width, height)] = [map(int, box.xywh) for box in photo.boxes]
    pixels = np.asarray(upright, float)
    assert pixels[y : y + height, x : x + width].mean() > 245
    assert pixels.sum() == pytest.approx(pixels[y : y + height, x : x + width].sum(), rel=0.05)


def test_turned_photos_are_evaluated(tmp_path: Path) -> None:
    """The detector gets the photo upright, so that what it finds there overlaps the boxes."""
    faulty = FaultySet(tmp_path)
    next(case for case in CASES if case.spoil.__name__ == "exif").spoil(faulty)
    found = {48: [Detection("cat", (10, 8, 30, 24), 0.9), Detection("dog", (40, 10, 60, 40), 0.9)]}
    found[64] = [Detection("dog", (4, 40, 34, 60), 0.9)]
    evaluation = Evaluation(read(faulty.photos, faulty.json, Report())).run(lambda photo: found[photo.shape[0]])
    assert evaluation.summary["AP"] == pytest.approx(1)


def test_boxes_at_the_edge(tmp_path: Path) -> None:
    """A box that sticks out is cut, but not one that does so by a rounded pixel; one without area is left out."""
    faulty = FaultySet(tmp_path)
    for at, box in enumerate([[40, 10, 60, 60], [40, 10, 24.6, 20], [0, 0, 0, 9]]):
        faulty.edit("annotations", at, bbox=box, image_id=1)
    [photo, _] = read(faulty.photos, faulty.json, Report()).photos
    assert [box.xywh for box in photo.boxes] == [[40, 10, 24, 38], [40, 10, 24.6, 20]]


def test_masks() -> None:
    """The box of a mask in run-length encoding, packed or not, is pycocotools'; an empty mask has none."""
    source = np.random.default_rng(0)
    for _ in range(60):
        pixels = np.zeros((source.integers(1, 40), source.integers(1, 300)), np.uint8)
        top, left = source.integers(pixels.shape[0]), source.integers(pixels.shape[1])
        pixels[top:, left:] = source.random((pixels.shape[0] - top, pixels.shape[1] - left)) < source.random()
        packed = mask.encode(np.asfortranarray(pixels))
        runs = [len(list(group)) for _, group in itertools.groupby([0, *pixels.ravel(order="F").tolist()])]
        runs[0] -= 1
        expected = mask.toBbox(packed).tolist() if pixels.any() else None
        assert masks.box_of({"size": packed["size"], "counts": packed["counts"].decode()}) == expected
        assert masks.box_of({"size": packed["size"], "counts": runs}) == expected


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "bbox", "counts", "size", "file_name", "name", "image_id"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=25)
@given(JSON)
def test_any_segmentation(value: Any) -> None:
    """Any segmentation has a box or none."""
    box = masks.box_of(value)
    assert box is None or len(box) == 4


@settings(max_examples=25)
@given(rows=st.dictionaries(st.sampled_from(["images", "annotations", "categories"]), st.lists(JSON, max_size=3)))
def test_any_json(tmp_path_factory: pytest.TempPathFactory, rows: dict[str, Any]) -> None:
    """Any JSON gives faults, and no other exception."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.json").write_text(json.dumps(rows))
    report = Report()
    coco.read(folder, folder / "any.json", report)
    read(folder, folder / "any.json", report)
    with pytest.raises(FaultyPhotoSet):
        report.check()


def test_the_layout_of_yolo(tmp_path: Path) -> None:
    """With a data.yaml, the labels are in the folder that has "labels" where the photos' has "images"; no is a name."""
    for folder in ("images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "train" / "a.PNG")
    (tmp_path / "labels" / "train" / "a.txt").write_text("\ufeff1 0.5 0.5 0.5 0.5 0.75\r\n\r\n")
    (tmp_path / "data.yaml").write_text("names: [yes, no]\n")
    report = Report()
    photos = read(tmp_path / "images" / "train", tmp_path / "data.yaml", report)
    report.check()
    assert photos.categories == {1: "yes", 2: "no"}
    assert [photo.boxes for photo in photos.photos] == [[Box([10, 5, 20, 10], 2, score=0.75)]]


def test_difficult_objects(tmp_path: Path) -> None:
    """An object that Pascal VOC marks as difficult is neither object nor background."""
    faulty = FaultySet(tmp_path)
    next(case for case in CASES if case.spoil.__name__ == "voc_layout").spoil(faulty)
    path = faulty.labels / "cat.xml"
    path.write_text(path.read_text().replace("<name>cat</name>", "<name>cat</name><difficult>1</difficult>"))
    photos = read(faulty.photos, faulty.labels, Report()).photos
    assert [box.crowd for box in photos[0].boxes] == [True, False]


# --- which photos are held out


def photo_set(categories: list[list[int]]) -> PhotoSet:
    """Photos with a box of each of these categories."""
    photos = [
        Photo(id, f"{id}.jpg", Path(f"{id}.jpg"), [Box([0, 0, 9, 9], one) for one in of])
        for id, of in enumerate(categories)
    ]
    return PhotoSet(Path("boxes.json"), {1: "cat", 2: "dog", 3: "bird"}, photos)


def test_photos_are_held_out_by_name_and_category() -> None:
    """One in ten of each category is held out, the same whatever the order in the file; the only one is trained on."""
    photos = photo_set([[1]] * 200 + [[1, 2]] * 50 + [[3]] + [[]] * 30)
    out = held_out(photos)
    assert len(out) == 28
    counts = [sum(start <= id < end for id in out) for start, end in ((0, 200), (200, 250), (250, 251), (251, 281))]
    assert counts == [20, 5, 0, 3]
    assert out != set(range(0, 281, 10))
    shuffled = list(photos.photos)
    random.Random(0).shuffle(shuffled)
    renumbered = [replace(photo, id=id) for id, photo in enumerate(shuffled)]
    again = held_out(PhotoSet(photos.path, photos.categories, renumbered))
    assert {renumbered[id].name for id in again} == {photos.photos[id].name for id in out}


@pytest.mark.parametrize("categories", [[[1], [1]], [[1], [2]], [[]] * 40 + [[1], [1]], [[]] * 9 + [[1], [2], []]])
def test_a_few_photos(categories: list[list[int]]) -> None:
    """Two photos with objects are enough: one is trained on, one is held out."""
    report = Report()
    parts = split(photo_set(categories), None, report)
    report.check()
    for part in parts:
        assert sum(bool(photo.objects) for photo in part.photos) == 1


def test_one_photo_is_too_few(tmp_path: Path) -> None:
    """A set with objects in one photo only cannot be split, and one whose photos are all for validation is refused."""
    faulty = FaultySet(tmp_path)
    options = "bundled", "--output", tmp_path / "model"
    others = "--validation-images", faulty.photos, "--validation-annotations", faulty.json
    said = lines_of(run("train", faulty, *options, *others), faulty)
    assert said[0] == "Mended: cat.jpg and 1 more: a photo for validation as well; it is not trained on"
    assert said[-1] == "boxes.json: has 2 photos; training needs photos that are not for validation"
    faulty.edit("annotations", image_id=1)
    said = lines_of(run("train", faulty, *options), faulty)
    assert said[-1] == "boxes.json: has 2 photos; training needs two photos with objects"


# --- progress


def test_progress_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, the first state is a line, then one every 10 seconds, and the last."""
    now = 0.0
    with progress("Working", 100, lambda: "best AP 0.5", lambda: now) as at:
        for done in range(1, 91):
            now += EVERY / 20
            at(done)
    assert capsys.readouterr().err.splitlines() == [
        "Working: 1 of 100, 50 s left, best AP 0.5",
        "Working: 21 of 100, 40 s left, best AP 0.5",
        "Working: 41 of 100, 30 s left, best AP 0.5",
        "Working: 61 of 100, 20 s left, best AP 0.5",
        "Working: 81 of 100, 10 s left, best AP 0.5",
        "Working: 90 of 100, 5 s left, best AP 0.5",
    ]


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal it is a bar."""
    faulty = FaultySet(tmp_path)
    controller, terminal = pty.openpty()
    command: list[str | Path] = [BIN / "augu-api", "weights", "check", "--images", faulty.photos]
    command += ["--annotations", faulty.json]
    subprocess.run(command, stderr=terminal, stdout=subprocess.DEVNULL, check=True)
    os.close(terminal)
    said = os.read(controller, 10_000).decode()
    os.close(controller)
    assert "Checking the photos  [####################################]  100%" in said
