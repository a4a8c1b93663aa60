"""Measuring a detector on photos with boxes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from augu_api.detection import Detection
from augu_api.detection.training.evaluate import Bin, Detect, Evaluation
from augu_api.detection.training.photo_sets import Report, read
from augu_api.detection.training.plots import draw_curves, draw_worst
from augu_api.operating.cli import main

Box = tuple[int, int, int, int]
NAMES = {3: "cat", 9: "dog"}
CATS: list[Box] = [(10, 10, 60, 60), (100, 20, 160, 90), (20, 100, 90, 190)]  # x1, y1, x2, y2
DOGS: list[Box] = [(110, 110, 190, 190)]
SIDE = 200


def annotation(category: int, box: Box, photo: int = 0, **facts: object) -> dict[str, object]:
    """A box as an annotation in COCO's format."""
    x1, y1, x2, y2 = box
    return {"image_id": photo, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]} | facts


BOXES = [annotation(3, box) for box in CATS] + [annotation(9, box, 1) for box in DOGS]


def write_set(folder: Path, boxes: list[dict[str, object]], photos: int = 2) -> Path:
    """Write grey photos, each a little lighter than the one before, and these boxes."""
    folder.mkdir(exist_ok=True)
    images = []
    for number in range(photos):
        Image.new("RGB", (SIDE, SIDE), (number, number, number)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
    numbered = [{"id": number} | box for number, box in enumerate(boxes)]
    categories = [{"id": id, "name": name} for id, name in NAMES.items()]
    path = folder / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": numbered, "categories": categories}))
    return path


def evaluation_of(folder: Path, detect: Detect, boxes: list[dict[str, object]] = BOXES, photos: int = 2) -> Evaluation:
    """The evaluation of a detector on grey photos with these boxes."""
    return Evaluation(read(folder, write_set(folder, boxes, photos), Report())).run(detect)


def finding(*found: list[Detection]) -> Detect:
    """A detector that finds this in the first photos, which it recognises by their grey, and nothing in others."""
    return lambda photo: dict(enumerate(found)).get(photo[0, 0, 0], [])


def detections(name: str, boxes: list[Box], score: float = 0.9) -> list[Detection]:
    return [Detection(name, box, score) for box in boxes]


ALL = finding(detections("cat", CATS), detections("dog", DOGS))
NOTHING = finding()
ONE = pytest.approx(1)


def test_all_found(tmp_path: Path) -> None:
    """A detector that returns the true boxes has an AP of 1, overall and by category, whatever ids the boxes have."""
    evaluation = evaluation_of(tmp_path, ALL)
    assert evaluation.summary == {"AP": ONE, "AP50": ONE, "AP75": ONE, "small": -1, "medium": ONE, "large": -1}
    cat, dog = sorted(evaluation.by_category(), key=lambda row: str(row["name"]))
    assert cat == {"name": "cat", "objects": 3, "AP": ONE, "AP50": ONE}
    assert dog == {"name": "dog", "objects": 1, "AP": ONE, "AP50": ONE}
    assert evaluation.calibration() == [Bin(4, pytest.approx(0.9), 1.0)]


def test_nothing_found(tmp_path: Path) -> None:
    """A detector that finds nothing has an AP of 0, and each object is a mistake."""
    evaluation = evaluation_of(tmp_path, NOTHING)
    assert evaluation.summary == {"AP": 0, "AP50": 0, "AP75": 0, "small": -1, "medium": 0, "large": -1}
    assert [(row["name"], row["AP"]) for row in evaluation.by_category()] == [("cat", 0), ("dog", 0)]
    assert (evaluation.calibration(), evaluation.calibrate()) == ([], [[0.0, 0.0], [1.0, 1.0]])
    assert [evaluation.mistakes(photo) for photo in (0, 1)] == [3, 1]


def test_some_found(tmp_path: Path) -> None:
    """If only one of two categories is found, the AP is their mean, and the better category comes first."""
    evaluation = evaluation_of(tmp_path, finding(detections("dog", DOGS), detections("dog", DOGS)))
    assert evaluation.summary["AP"] == pytest.approx(0.25)  # of two boxes with equal scores the first is wrong
    assert [(row["name"], row["AP"]) for row in evaluation.by_category()] == [("dog", pytest.approx(0.5)), ("cat", 0)]


def test_a_box_that_is_a_little_off(tmp_path: Path) -> None:
    """A box that overlaps by 0.6 is right at IoU 0.5 and wrong at 0.75."""
    found = finding(detections("cat", [(0, 0, 100, 60)]))
    evaluation = evaluation_of(tmp_path, found, [annotation(3, (0, 0, 100, 100))], 1)
    assert (evaluation.summary["AP50"], evaluation.summary["AP75"]) == (ONE, 0)
    assert evaluation.summary["AP"] == pytest.approx(0.3)  # 0.5, 0.55 and 0.6 of ten


def test_other_names_are_left_out(tmp_path: Path) -> None:
    """Boxes of names that the set does not have are neither right nor wrong."""
    evaluation = evaluation_of(tmp_path, lambda photo: [Detection("unicorn", (0, 0, 200, 200), 0.99), *ALL(photo)])
    assert evaluation.summary["AP"] == ONE
    assert {d.name for found in evaluation.detections.values() for d in found} == {"cat", "dog"}


def test_crowds_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    """A detection inside a crowd does not count, and a crowd that is not found is not a miss."""
    boxes = [*BOXES, annotation(3, (110, 110, 200, 200), iscrowd=1)]
    crowded = detections("cat", [(110, 110, 150, 150), (140, 140, 200, 200)], 0.95)
    for detect in (ALL, finding([*crowded, *detections("cat", CATS)], detections("dog", DOGS))):
        evaluation = evaluation_of(tmp_path, detect, boxes)
        assert evaluation.summary["AP"] == ONE
        assert evaluation.by_category()[0]["objects"] == 3
        assert evaluation.scored_boxes()[0].tolist() == pytest.approx([0.9] * 4)
        assert [evaluation.mistakes(photo) for photo in (0, 1)] == [0, 0]


def test_only_the_photos_that_are_run_count(tmp_path: Path) -> None:
    """Some of the photos can be measured; objects in the others are not counted."""
    evaluation = Evaluation(read(tmp_path, write_set(tmp_path, BOXES), Report()))
    evaluation.run(ALL, evaluation.photos()[:1])
    assert evaluation.summary["AP"] == ONE
    assert evaluation.by_category() == [{"name": "cat", "objects": 3, "AP": ONE, "AP50": ONE}]


def test_photos_are_given_in_rgb(tmp_path: Path) -> None:
    """A detector gets every photo in RGB, whatever its file's mode is."""
    path = write_set(tmp_path, BOXES)
    Image.new("LA", (SIDE, SIDE)).save(tmp_path / "0.png")
    seen = []

    def detect(photo: NDArray[np.uint8]) -> list[Detection]:
        seen.append(photo.shape[2:])
        return []

    Evaluation(read(tmp_path, path, Report())).run(detect)
    assert seen == [(3,), (3,)]


# --- calibration


def grid(number: int) -> list[Box]:
    """Boxes side by side, at most 100."""
    return [(x, y, x + 16, y + 16) for y in range(0, 200, 20) for x in range(0, 200, 20)][:number]


def half_right(box: Box, right: bool) -> Box:
    x1, y1, x2, y2 = box
    return box if right else (x1 + 16, y1 + 16, x2 + 16, y2 + 16)


def calibrated(folder: Path, parts: dict[float, float]) -> Callable[[float], float]:
    """The calibration of a detector that gives each score to 20 boxes, of which the given share is right."""
    boxes, found = grid(20 * len(parts)), []
    for at, box in enumerate(boxes):
        score, right = list(parts.items())[at // 20]
        found.append(Detection("cat", half_right(box, at % 20 < round(20 * right)), score))
    evaluation = evaluation_of(folder, finding(found), [annotation(3, box) for box in boxes], 1)
    points = evaluation.calibrate()
    assert (points[0], points[-1]) == ([0.0, 0.0], [1.0, 1.0])
    assert points == sorted(points)
    assert [p for _, p in points] == sorted(p for _, p in points)
    scores, chances = np.array(points).T
    return lambda score: float(np.interp(score, scores, chances))


def test_a_calibrated_score_is_the_precision(tmp_path: Path) -> None:
    """A score of 0.8 that is right half of the time becomes 0.5; scores in between are interpolated."""
    assert calibrated(tmp_path, {0.8: 0.5})(0.8) == pytest.approx(0.5)
    worth = calibrated(tmp_path, {0.2: 0.1, 0.6: 0.2, 0.9: 0.7})
    assert [worth(score) for score in (0.2, 0.6, 0.9)] == pytest.approx([0.1, 0.2, 0.7])
    assert worth(0.4) == pytest.approx(0.15)


def test_a_calibration_is_monotonic(tmp_path: Path) -> None:
    """If a higher score is right less often than a lower one, both get their mean, so that the order is kept."""
    worth = calibrated(tmp_path, {0.3: 0.6, 0.7: 0.4, 0.9: 0.8})
    assert worth(0.5) == pytest.approx(0.5)
    assert worth(0.9) == pytest.approx(0.8)


def test_the_bins_of_the_calibration(tmp_path: Path) -> None:
    """Each bin has its number of boxes, their mean score and precision; empty bins are left out."""
    boxes = grid(4)
    found = [Detection("cat", half_right(box, at < 3), 0.92 + 0.02 * at) for at, box in enumerate(boxes)]
    found.append(Detection("cat", (150, 150, 190, 190), 0.05))
    evaluation = evaluation_of(tmp_path, finding(found), [annotation(3, box) for box in boxes], 1)
    assert evaluation.calibration() == [
        Bin(1, pytest.approx(0.05), 0.0),
        Bin(4, pytest.approx(0.95), pytest.approx(0.75)),
    ]


def test_precision_and_recall_at_the_default_score(tmp_path: Path) -> None:
    """Precision and recall are of boxes with a score of at least 0.5; the calibration error is of all boxes."""
    found = [
        *detections("cat", CATS[:1], 0.8),
        *detections("cat", [half_right(CATS[0], False), (0, 0, 9, 9)], 0.5),  # near the cat, and nowhere
        *detections("cat", CATS[1:2], 0.4),
        *detections("dog", [(0, 0, 9, 9)], 0.2),
    ]
    evaluation = evaluation_of(tmp_path, finding(found))
    assert evaluation.at_default_score() == {
        "precision at 50": pytest.approx(1 / 3),
        "recall at 50": pytest.approx(1 / 4),  # three cats and a dog
        "calibration error": pytest.approx((0.2 + 0.5 + 0.5 + 0.6 + 0.2) / 5),
    }
    nothing = evaluation_of(tmp_path, NOTHING, [])
    assert nothing.at_default_score() == {"precision at 50": 0, "recall at 50": 0, "calibration error": 0}


# --- pictures


@pytest.mark.parametrize("detect", [ALL, NOTHING], ids=["all found", "nothing found"])
@pytest.mark.parametrize("boxes", [BOXES, []], ids=["objects", "no objects"])
@pytest.mark.parametrize("photos", [2, 12])
def test_pictures(tmp_path: Path, detect: Detect, boxes: list[dict[str, object]], photos: int) -> None:
    """Both pictures can be drawn of every evaluation, and opened."""
    evaluation = evaluation_of(tmp_path, detect, boxes, photos)
    for draw, path in ((draw_curves, tmp_path / "a.png"), (draw_worst, tmp_path / "b.png")):
        draw(evaluation, path)
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(10**6) or []) > 2


def test_mistakes(tmp_path: Path) -> None:
    """A wrong box and a missed object are mistakes; boxes below the default score do not count."""
    found = [
        *detections("cat", CATS[:1]),  # right
        *detections("cat", CATS[1:2], 0.4),  # right, but the API would not return it
        *detections("dog", CATS[2:]),  # the wrong name
        *detections("dog", [(0, 0, 9, 9)], 0.4),  # wrong, but the API would not return it
    ]
    evaluation = evaluation_of(tmp_path, finding(found, detections("dog", DOGS)))
    assert [evaluation.mistakes(photo) for photo in (0, 1)] == [3, 0]
    missed = [evaluation.truth.anns[one]["bbox"] for one in evaluation.missed(0)]
    assert missed == [one["bbox"] for one in BOXES[1:3]]


# --- the command


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """Run `weights evaluate` on a folder: `run(folder, "--json")`."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data")}

    def evaluate(name: str, folder: Path, *options: str) -> Result:
        command = ["weights", "evaluate", name, "--images", str(folder), "--annotations", str(folder / "boxes.json")]
        return CliRunner().invoke(main, [*command, *options], env=env)

    return evaluate


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Photos of a cat and an astronaut with their boxes, and a category without boxes, dogs."""
    folder = tmp_path / "pets"
    folder.mkdir()
    photos = {"chelsea": (1, (80, 0, 400, 300)), "astronaut": (2, (10, 10, 400, 512))}
    images, boxes = [], []
    for id, (name, (category, box)) in enumerate(photos.items()):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.jpg")
        images.append({"id": id, "file_name": f"{name}.jpg"})
        boxes.append(annotation(category, box, id))
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "person"}, {"id": 3, "name": "dog"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder


def test_command(run: Callable[..., Result], pets: Path, tmp_path: Path) -> None:
    """It prints AP by size and category and the calibration, as JSON or tables, and draws the pictures."""
    result = run("bundled", pets, "--json", "--pictures", str(tmp_path / "a" / "b"))
    assert result.exit_code == 0, result.output
    measured: dict[str, Any] = json.loads(result.stdout)
    assert measured["model"] == "bundled"
    assert measured["AP50"] == ONE
    assert 0 < measured["AP"] <= 1
    assert measured["small"] == -1
    assert measured["recall at 50"] >= 0.5
    assert {(row["name"], row["objects"]) for row in measured["by_category"]} == {("cat", 1), ("person", 1)}
    assert sum(one["boxes"] for one in measured["calibration"]) >= 2
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["curves.png", "worst.png"]
    result = run("bundled", pets)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][:6] == ["AP", "AP50", "AP75", "small", "medium", "large"]
    assert lines[2][:2] == [f"{measured['AP']:.3f}", "1.000"]
    assert [line for line in lines if line[:2] == ["cat", "1"]]
    assert ["boxes", "score", "right"] in lines


def test_command_without_a_name_in_common(run: Callable[..., Result], tmp_path: Path) -> None:
    """A model without any of the categories has an AP of 0; nothing crashes."""
    folder = tmp_path / "coins"
    path = write_set(folder, BOXES)
    path.write_text(path.read_text().replace('"cat"', '"coin"').replace('"dog"', '"button"'))
    result = run("bundled", folder, "--json", "--pictures", str(folder))
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    assert (measured["AP"], measured["calibration"]) == (0, [])
    assert [(row["name"], row["AP"]) for row in measured["by_category"]] == [("coin", 0), ("button", 0)]
    assert run("bundled", folder).exit_code == 0


def test_command_failures(run: Callable[..., Result], tmp_path: Path) -> None:
    """An unknown model is one line, and so is each fault of the photos and boxes."""
    path = write_set(tmp_path, BOXES)
    for spoil, name, message in (
        (lambda: None, "nothing", "nothing is neither a folder with a model.json"),
        ((tmp_path / "0.png").unlink, "bundled", "the photo '0.png' is missing"),
        (lambda: (tmp_path / "0.png").write_text("no photo"), "bundled", "cannot be decoded as a photo"),
        (lambda: path.write_text("[]"), "bundled", "is not in COCO's format"),
    ):
        spoil()
        result = run(name, tmp_path)
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.stdout == ""
        assert message in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
