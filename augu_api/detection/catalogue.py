"""The models that can be served: a name, how it is built, where its weights are.

A model is a folder with weights and their facts, `model.json`: `weights/` is the bundled one, and `AUGU_MODEL` takes
the path of any other. The published ones are torchvision's own builders and files, with their AP on COCO val2017
(https://docs.pytorch.org/vision/stable/models.html).
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from marshmallow import Schema, ValidationError

from augu_api.config import CHECKOUT, PACKAGE, ROOT, Settings
from augu_api.detection import ModelUnavailable
from augu_api.detection.facts import ExportFacts, Facts, first_error, unique

BUNDLED = (ROOT if CHECKOUT else PACKAGE) / "weights"
PUBLISHED: dict[str, dict[str, Any]] = {
    "mobilenet_320": {
        "architecture": "fasterrcnn_mobilenet_v3_large_320_fpn",
        "file": "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth",
        "min_size": 320,
        "max_size": 640,
        "megabytes": 77.8,
        "ap": 0.228,
        "speed": "fast",
    },
    "mobilenet": {
        "architecture": "fasterrcnn_mobilenet_v3_large_fpn",
        "file": "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth",
        "min_size": 800,
        "max_size": 1333,
        "megabytes": 77.8,
        "ap": 0.328,
        "speed": "slow",
    },
    "resnet50": {
        "architecture": "fasterrcnn_resnet50_fpn",
        "file": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        "min_size": 800,
        "max_size": 1333,
        "megabytes": 167.5,
        "ap": 0.370,
        "speed": "very slow",
    },
    "resnet50_v2": {
        "architecture": "fasterrcnn_resnet50_fpn_v2",
        "file": "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
        "min_size": 800,
        "max_size": 1333,
        "megabytes": 175.2,
        "ap": 0.467,
        "speed": "very slow",
    },
}


@dataclass(frozen=True)
class Model:
    """The facts of a model.

    architecture: a builder of torchvision.models.detection, or nano_rcnn
    file, sha256: the weights in `folder`, and their hash or, as torchvision's file names carry it, its first digits
    names: the category of each label, "N/A" where a label is unused; label 0 is the background
    min_size, max_size: a photo is fitted so that its sides have at most these pixels, the shorter and the longer one
    ap: COCO AP, 0 to 1: as published, for the bundled model as measured (see its card)
    export_sha256: the hash of the weights' export, if there is one; `augu-api weights export` notes it
    calibration: points of a piecewise linear map from raw score to precision
    """

    name: str
    folder: Path
    architecture: str
    file: str
    sha256: str
    names: list[str]
    min_size: int
    max_size: int
    megabytes: float
    ap: float
    speed: str
    export_sha256: str = ""
    calibration: list[list[float]] = field(default_factory=list)

    @property
    def weights(self) -> Path:
        """The file of the weights, whether it exists or not."""
        return self.folder / self.file

    @property
    def export(self) -> Path:
        """Their ONNX export, whether it exists or not."""
        return self.weights.with_suffix(".onnx")

    @property
    def facts(self) -> Path:
        """The file that notes the facts; of a published model only those of its export."""
        return self.weights.with_suffix(".json") if self.name in PUBLISHED else self.folder / "model.json"

    def note_export(self) -> None:
        """Note the hash of the current export."""
        noted = json.loads(self.facts.read_text()) if self.facts.exists() else {}
        noted["export_sha256"] = sha256_of(self.export)
        part = self.facts.with_name(f"{self.facts.name}.part")
        part.write_text(json.dumps(noted, indent=1) + "\n")
        part.replace(self.facts)

    def verify(self) -> None:
        """Raise ModelUnavailable if the weights are missing or damaged."""
        remedy = f"`augu-api weights pull {self.name}` downloads it" if self.name in PUBLISHED else "restore the file"
        if not self.weights.is_file():
            raise ModelUnavailable(f"{self.weights} is missing: {remedy}.")
        if not sha256_of(self.weights).startswith(self.sha256):
            raise ModelUnavailable(f"{self.weights} is damaged, its sha256 is not {self.sha256}: {remedy}.")


def sha256_of(path: Path) -> str:
    """The hash of a file, in hex. Raises ModelUnavailable if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelUnavailable(f"{path} cannot be read: {error.strerror}.") from error


def find(name: str, settings: Settings) -> Model:
    """The model of that name, or the one in the folder of that name. Raises ModelUnavailable."""
    if name in PUBLISHED:
        file = PUBLISHED[name]["file"]
        sha256 = file.rpartition("-")[2].removesuffix(".pth")
        names = _facts(BUNDLED)["names"]  # both know COCO's labels
        model = Model(name=name, folder=settings.weights_dir, sha256=sha256, names=names, **PUBLISHED[name])
        return replace(model, export_sha256=_noted(model.facts)) if model.facts.exists() else model
    folder = BUNDLED if name == "bundled" else Path(name)
    return Model(name=name, folder=folder, **_facts(folder))


def catalogue(settings: Settings) -> list[Model]:
    """Every model that has a name, with or without its weights."""
    return [find(name, settings) for name in ("bundled", *PUBLISHED)]


def _noted(path: Path) -> str:
    """The hash that is noted of a published model's export."""
    return str(_read(path, ExportFacts())["export_sha256"])


def _facts(folder: Path) -> dict[str, Any]:
    return _read(folder / "model.json", Facts())


def _read(path: Path, schema: Schema) -> dict[str, Any]:
    """The facts in a file. Raises ModelUnavailable, which names the field that is wrong."""
    try:
        facts: dict[str, Any] = schema.load(json.loads(path.read_text(), object_pairs_hook=unique))
    except FileNotFoundError:
        known = ", ".join(("bundled", *PUBLISHED))
        raise ModelUnavailable(f"{path.parent} is neither a folder with a model.json nor one of {known}.") from None
    except ValidationError as error:
        raise ModelUnavailable(f"{path} cannot be used: {first_error(error.messages)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{path} cannot be used: {error!r}.") from error
    return facts
