"""The engines run the same model: torchvision's module and its export."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision.models.detection
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from torch import nn

from augu_api.config import CORES, ROOT, Settings
from augu_api.detection import ModelUnavailable
from augu_api.detection.catalogue import PUBLISHED, Model, find, sha256_of
from augu_api.detection.engines import Engine, Predictions, _share_scores, load
from augu_api.detection.onnx import OnnxEngine
from augu_api.detection.torchvision import TorchvisionEngine, build, run
from augu_api.detection.training.export import export, trace, verify
from augu_api.operating.cli import main
from tests.helpers import BIN

PHOTOS = {name: Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")}
SIZES = [(640, 480), (333, 500), (64, 48), (1, 1), (800, 6), (3, 700), (2000, 1500)]


@pytest.fixture
def model(settings: Settings, tmp_path: Path) -> Model:
    """A copy of the bundled model in a folder of its own."""
    bundled = find("bundled", settings)
    for name in ("model.json", "model.pth", "model.onnx"):
        shutil.copy(bundled.folder / name, tmp_path)
    return find(str(tmp_path), settings)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Engine]:
    bundled = find("bundled", Settings.from_env({"AUGU_DATA_DIR": str(tmp_path_factory.mktemp("engines"))}))
    return TorchvisionEngine(bundled, 2), OnnxEngine(bundled, 2)


def settings_for(folder: Path, engine: str) -> Settings:
    return Settings.from_env({"AUGU_DATA_DIR": str(folder), "AUGU_MODEL": str(folder), "AUGU_ENGINE": engine})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PHOTOS)
def test_both_engines_find_the_same(engines: tuple[Engine, Engine], name: str, size: tuple[int, int]) -> None:
    """Names equal, scores within 0.001, boxes within half a pixel and within the photo, on photos of every size."""
    photo = np.asarray(PHOTOS[name].resize(size))
    factor = max(1, max(size) / 832)  # a photo that is shrunk before has larger pixels
    ours, other = (engine.detect(photo) for engine in engines)
    assert [d.name for d in ours] == [d.name for d in other]
    for a, b in zip(ours, other, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-3)
        assert a.box == pytest.approx(b.box, abs=0.5 * factor)
        x1, y1, x2, y2 = a.box
        assert 0 <= x1 <= x2 <= size[0]
        assert 0 <= y1 <= y2 <= size[1]


@pytest.mark.parametrize(("photo", "name"), [("astronaut", "person"), ("chelsea", "cat"), ("coffee", "cup")])
def test_large_photos_are_shrunk(engines: tuple[Engine, Engine], photo: str, name: str) -> None:
    """A large photo gives the same best object as the small one, with its box in the large photo's pixels."""
    small = PHOTOS[photo]
    large = small.resize((small.width * 6, small.height * 6))
    for engine in engines:
        few, many = (next(d for d in engine.detect(np.asarray(image)) if d.name == name) for image in (small, large))
        assert many.box == pytest.approx([6 * side for side in few.box], abs=0.05 * max(large.size))


@pytest.mark.parametrize(("engine", "runs"), [("auto", "onnx"), ("onnx", "onnx"), ("torchvision", "torchvision")])
def test_the_setting_chooses_the_engine(model: Model, engine: str, runs: str) -> None:
    """`auto` takes the export; the facts say what runs, and of which weights."""
    facts = load(settings_for(model.folder, engine)).facts
    assert facts == {"model": str(model.folder), "engine": runs, "sha256": model.sha256}


def break_nothing(model: Model) -> None:
    model.export.unlink()


def other_weights(model: Model) -> None:
    graph = onnx.load(model.export)
    onnx.helper.set_model_props(graph, {"sha256": "of something else"})
    onnx.save(graph, model.export)


def truncate(model: Model) -> None:
    model.export.write_bytes(model.export.read_bytes()[:100_000])


def alter(model: Model) -> None:
    """Change a weight; the graph still loads and answers."""
    graph = onnx.load(model.export)
    largest = max(graph.graph.initializer, key=lambda one: len(one.raw_data))
    largest.raw_data = largest.raw_data[:-4] + bytes(4)
    onnx.save(graph, model.export)


@pytest.mark.parametrize("spoil", [break_nothing, other_weights, truncate, alter])
def test_an_export_that_does_not_fit_is_not_used(
    model: Model, spoil: Callable[[Model], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Without an intact export of these weights `auto` runs the module and says why; `onnx` names a remedy."""
    spoil(model)
    assert load(settings_for(model.folder, "auto")).facts["engine"] == "torchvision"
    assert str(model.export) in caplog.text
    with pytest.raises(ModelUnavailable, match=rf"{model.export}.*weights export"):
        load(settings_for(model.folder, "onnx"))


def test_an_altered_export_would_load(model: Model) -> None:
    """An altered export is detected only by the hash in model.json; without a hash it is loaded."""
    alter(model)
    assert OnnxEngine(replace(model, export_sha256=""), 1).predict(np.zeros((64, 64, 3), np.uint8)).scores.size == 0
    with pytest.raises(ModelUnavailable, match=r"model\.onnx is damaged, its sha256 is not [0-9a-f]{64}"):
        OnnxEngine(model, 1)


@pytest.mark.parametrize("name", ["bundled", "mobilenet"])
def test_the_hash_of_a_new_export_is_saved(settings: Settings, model: Model, tmp_path: Path, name: str) -> None:
    """The hash is added to the facts of the model, or saved in a separate file for a published model."""
    if name == "mobilenet":
        model = replace(find(name, settings), folder=settings.weights_dir)
        model.folder.mkdir()
    model.export.write_bytes(b"another export")
    model.note_export()
    found = find("mobilenet" if name == "mobilenet" else str(tmp_path), settings)
    assert found == replace(model, export_sha256=sha256_of(model.export), name=found.name)
    assert not list(model.folder.glob("*.part"))


def test_a_broken_file_of_a_published_export_is_refused(settings: Settings) -> None:
    """The error names the broken file."""
    model = find("mobilenet", settings)
    model.folder.mkdir()
    model.facts.write_text("{")
    with pytest.raises(ModelUnavailable, match=r"mobilenet.*\.json cannot be used"):
        find("mobilenet", settings)


@pytest.mark.parametrize("engine", ["auto", "torchvision"])
def test_damaged_weights_are_refused(model: Model, engine: str) -> None:
    """Weights with another hash than their facts say are never loaded; the message names the file."""
    model.export.unlink()
    model.weights.write_bytes(model.weights.read_bytes()[:-1])
    with pytest.raises(ModelUnavailable, match=r"model\.pth is damaged"):
        load(settings_for(model.folder, engine))
    model.weights.unlink()
    with pytest.raises(ModelUnavailable, match=r"model\.pth is missing"):
        load(settings_for(model.folder, engine))


def test_weights_of_another_architecture_are_refused(model: Model) -> None:
    """Intact weights of another architecture are refused with an error that says so."""
    with pytest.raises(ModelUnavailable, match="does not fit"):
        build(replace(model, architecture="fasterrcnn_mobilenet_v3_large_320_fpn"))


@pytest.mark.parametrize("name", ["resnet50", "roi_heads", "FasterRCNN", "no_such_model"])
def test_an_unknown_architecture_is_refused(model: Model, name: str) -> None:
    """Only a detector that torchvision builds, or the bundled one, is an architecture."""
    with pytest.raises(ModelUnavailable, match=rf"architecture: torchvision has no {name}"):
        build(replace(model, architecture=name))


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"names": 1}'])
def test_a_folder_without_facts_is_refused(tmp_path: Path, text: str | None) -> None:
    """AUGU_MODEL must name a model: a folder whose model.json is missing or broken is refused."""
    if text is not None:
        (tmp_path / "model.json").write_text(text)
    with pytest.raises(ModelUnavailable, match=r"model\.json"):
        load(settings_for(tmp_path, "auto"))


def test_an_incompatible_torchvision_is_explained(tmp_path: Path) -> None:
    """If torchvision was built for another torch, the message says what to install, without a traceback."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    env = {"PYTHONPATH": str(tmp_path), "AUGU_DATA_DIR": str(tmp_path), "AUGU_ENGINE": "torchvision"}
    command = [BIN / "augu-api", "detect", ROOT / "examples" / "street.png"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'augu-api[torch]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_bundled_model_can_be_exported(model: Model) -> None:
    """An export of the bundled model is checked on photos before it is kept, and can be served."""
    model.export.unlink()
    assert export(model, PHOTOS.values()) == model.export
    assert load(settings_for(model.folder, "onnx")).facts["sha256"] == model.sha256


def test_the_command_replaces_a_damaged_export(model: Model, tmp_path: Path) -> None:
    """`augu-api weights export` replaces an altered export and saves the new hash, and the new export is served."""
    alter(model)
    photo = tmp_path / "photo.png"
    PHOTOS["coffee"].save(photo)
    env = {"AUGU_DATA_DIR": str(tmp_path / "data")}
    done = CliRunner().invoke(main, ["weights", "export", str(model.folder), str(photo)], env=env)
    assert done.exit_code == 0, done.output
    assert load(settings_for(model.folder, "onnx")).facts["engine"] == "onnx"


def test_an_export_with_other_detections_is_not_kept(model: Model) -> None:
    """A graph of other weights is refused, and the error names the photo."""
    module = build(model)
    graph = trace(module, model.sha256)
    with torch.no_grad():
        module.roi_heads.box_predictor.cls_score.bias[1] -= 0.5  # type: ignore[index]  # mypy sees a Module or a Tensor
    with pytest.raises(ModelUnavailable, match="photo 1"):
        verify(graph, module, [PHOTOS["astronaut"]])


def published(name: str, folder: Path) -> Model:
    """A model of torchvision with random weights, scaled so that its heads detect something."""
    architecture = PUBLISHED[name]["architecture"]
    torch.manual_seed(0)
    module = getattr(torchvision.models.detection, architecture)(weights=None, weights_backbone=None)
    with torch.no_grad():
        module.roi_heads.box_predictor.cls_score.weight.mul_(300)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_var.mul_(0.3)
    settings = Settings.from_env({"AUGU_DATA_DIR": str(folder)})
    model = replace(find(name, settings), folder=folder)
    torch.save(module.state_dict(), model.weights)
    return replace(model, sha256=sha256_of(model.weights))


def test_published_models_are_exported_as_well(tmp_path: Path) -> None:
    """The export of a torchvision model with a feature pyramid detects the same as the module."""
    model = published("mobilenet_320", tmp_path)
    photos = [PHOTOS["coffee"], PHOTOS["chelsea"].resize((300, 500))]
    export(model, photos)
    module, engine = build(model), OnnxEngine(model, 2)
    for photo in photos:
        ours, theirs = engine.predict(np.asarray(photo)), run(module, np.asarray(photo))
        assert len(ours.scores) == len(theirs.scores) == 100
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.5)


def test_idle_threads_sleep_soon(model: Model) -> None:
    """A session's threads stay awake for 200 microseconds, so that they take no core from other processes."""
    engine = OnnxEngine(model, 1)
    for session in (engine.session, engine.all_cores):
        options = session.get_session_options()
        assert options.get_session_config_entry("session.intra_op.spin_duration_us") == "200"


def test_resnet50_is_built_as_it_was_published(tmp_path: Path) -> None:
    """Its batch norms have an epsilon of 0, as torchvision sets it when it loads the published file."""
    layers = [x for x in build(published("resnet50", tmp_path)).modules() if isinstance(x, nn.BatchNorm2d)]
    assert {layer.eps for layer in layers} == {0.0}


def test_predictions_are_what_the_export_returns(engines: tuple[Engine, Engine]) -> None:
    """An empty photo gives empty arrays of the right shapes in both engines."""
    for engine in engines:
        boxes, labels, scores = engine.predict(np.zeros((480, 640, 3), np.uint8))
        assert (boxes.shape, labels.shape, scores.shape) == ((0, 4), (0,), (0,))
    assert Predictions._fields == ("boxes", "labels", "scores")


class FixedEngine(Engine):
    """Detects a cat and a dog in the same place, and another cat far away."""

    engine = "none"
    raw = 0.8, 0.7, 0.6

    def predict(self, pixels: NDArray[np.uint8], *, all_cores: bool = False) -> Predictions:
        boxes = np.array([[10, 10, 60, 60], [11, 10, 60, 61], [100, 100, 150, 150]], np.float32)
        return Predictions(boxes, np.array([1, 2, 1]), np.array(self.raw, np.float32))


def boxes_of(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


BOX, NEAR, OTHER = [10.0, 10.0, 110.0, 110.0], [12.0, 10.0, 112.0, 110.0], [40.0, 10.0, 140.0, 110.0]
SHARED = {
    "two names of a box": ([BOX, NEAR], [1, 2], [0.7, 0.6], [0.7, 0.3]),
    "the other way round": ([NEAR, BOX], [2, 1], [0.6, 0.7], [0.3, 0.7]),
    "three names of a box": ([BOX, NEAR, BOX], [1, 2, 3], [0.9, 0.6, 0.05], [0.9, 0.1, 0.05]),
    "too little to take away": ([BOX, NEAR], [1, 2], [0.7, 0.2], [0.7, 0.2]),
    "no high score": ([BOX, NEAR], [1, 2], [0.5, 0.45], [0.5, 0.45]),
    "the same name": ([BOX, NEAR], [1, 1], [0.7, 0.6], [0.7, 0.6]),
    "other boxes": ([BOX, OTHER], [1, 2], [0.7, 0.6], [0.7, 0.6]),
    "one": ([BOX], [1], [0.7], [0.7]),
    "none": ([], [], [], []),
}


@pytest.mark.parametrize(("boxes", "labels", "scores", "expected"), SHARED.values(), ids=SHARED)
def test_names_of_a_box_share_its_score(
    boxes: list[list[float]], labels: list[int], scores: list[float], expected: list[float]
) -> None:
    """The scores of different names for nearly the same box add up to at most 1."""
    shared = _share_scores(boxes_of(*boxes), np.array(labels, np.int64), np.array(scores))
    assert shared.tolist() == pytest.approx(expected)


def test_scores_are_calibrated_before_they_are_shared(settings: Settings) -> None:
    """Scores are calibrated, then shared among the names of a box, then sorted, best first."""
    model = replace(find("bundled", settings), names=["background", "cat", "dog"])
    photo = np.zeros((200, 200, 3), np.uint8)
    as_found = FixedEngine(replace(model, calibration=[])).detect(photo)
    assert [(d.name, round(d.score, 6)) for d in as_found] == [("cat", 0.8), ("cat", 0.6), ("dog", 0.2)]
    halved = FixedEngine(replace(model, calibration=[[0, 0], [0.5, 0.25], [1, 1]])).detect(photo)
    assert [(d.name, round(d.score, 6)) for d in halved] == [("cat", 0.7), ("cat", 0.4), ("dog", 0.3)]


@pytest.mark.parametrize("engine", ["onnx", "torchvision"])
def test_the_calibration_in_model_json_is_used(model: Model, engine: str) -> None:
    """Both engines map their raw scores by the calibration in model.json."""
    points, coffee, found = [[0, 0], [0.5, 0.25], [1, 1]], np.asarray(PHOTOS["coffee"]), {}
    path = model.folder / "model.json"
    facts = json.loads(path.read_text())
    for name, calibration in (("without", []), ("with", points)):
        path.write_text(json.dumps(facts | {"calibration": calibration}))
        loaded = load(settings_for(model.folder, engine))
        assert isinstance(loaded, Engine)
        raw = loaded.predict(coffee)
        scores = np.interp(raw.scores, *np.array(calibration or [[0, 0], [1, 1]]).T)
        found[name] = [d.score for d in loaded.detect(coffee)]
        assert found[name] == pytest.approx(sorted(_share_scores(raw.boxes, raw.labels, scores), reverse=True))
    assert found["with"][0] == pytest.approx(float(np.interp(found["without"][0], *np.array(points).T)))


def test_torch_uses_all_cores_for_a_single_request(settings: Settings) -> None:
    """The torchvision engine also uses all cores if no other request needs them."""
    engine, photo = TorchvisionEngine(find("bundled", settings), 1), np.zeros((64, 64, 3), np.uint8)
    for all_cores, threads in ((True, CORES), (False, 1)):
        engine.detect(photo, all_cores=all_cores)
        assert torch.get_num_threads() == threads
