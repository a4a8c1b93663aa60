"""Write a model's ONNX export, and check that it detects the same objects as the module."""

import copy
import warnings
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from torch import nn

from augu_api.detection import ModelUnavailable
from augu_api.detection.catalogue import Model
from augu_api.detection.engines import Predictions
from augu_api.detection.nano.backbone import Focus
from augu_api.detection.torchvision import build, run
from augu_api.detection.training.graph import Graph

OPSET = 17
MAX_BOX_DIFFERENCE, MAX_SCORE_DIFFERENCE = 0.5, 1e-3  # pixels, and of 1
EXAMPLE = torch.randint(256, (480, 640, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def export(model: Model, photos: Iterable[Image.Image]) -> Path:
    """Write the model's export beside its weights and return its path.

    It is kept only if it detects the same objects as the module in each photo. Raises ModelUnavailable.
    """
    module = build(model)
    graph = trace(module, model.sha256)
    verify(graph, module, photos)
    part = model.export.with_name(f"{model.export.name}.part")
    part.write_bytes(graph)
    return part.replace(model.export)


def verify(graph: bytes, module: nn.Module, photos: Iterable[Image.Image]) -> None:
    """Raise ModelUnavailable unless the graph detects in each photo what the module detects."""
    session = onnxruntime.InferenceSession(graph)
    for number, photo in enumerate(photos, 1):
        pixels = np.asarray(photo.convert("RGB"))
        if not _same(run(module, pixels), Predictions(*session.run(None, {"pixels": pixels}))):
            raise ModelUnavailable(
                f"The export is not kept: in photo {number} it detects other objects than the module."
            )


@torch.inference_mode()
def trace(module: nn.Module, sha256: str) -> bytes:
    """The module's graph as an ONNX file that names the hash of its weights."""
    file: Any = BytesIO()  # torch's signature asks for a path, its code takes a file
    outputs = list(Predictions._fields)
    with warnings.catch_warnings(action="ignore"):  # about constants that are meant, and about a newer exporter
        torch.onnx.export(
            Graph(_prepared(module)).eval(),
            (EXAMPLE,),
            file,
            opset_version=OPSET,
            dynamo=False,
            input_names=["pixels"],
            output_names=outputs,
            dynamic_axes={"pixels": {0: "height", 1: "width"}} | {name: {0: "objects"} for name in outputs},
        )
    graph = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(graph, {"sha256": sha256})
    return bytes(graph.SerializeToString())


def _prepared(module: nn.Module) -> nn.Module:
    """A copy of the module that is ready to be traced."""
    module = copy.deepcopy(module)
    run(module, EXAMPLE.numpy())  # torchvision's pooling computes its scales from the first photo
    for name, child in list(module.named_modules()):
        if isinstance(child, Focus):
            module.set_submodule(name, child.as_convolution())
    return module


def _same(predictions: Predictions, others: Predictions) -> bool:
    """Whether each object of one is in the other; one that just made it into the list may be missing."""
    return _is_in(predictions, others) and _is_in(others, predictions)


def _is_in(predictions: Predictions, others: Predictions) -> bool:
    distance = np.abs(predictions.boxes[:, None] - others.boxes[None]).max(2, initial=0)
    same = distance <= MAX_BOX_DIFFERENCE
    same &= np.abs(predictions.scores[:, None] - others.scores[None]) <= MAX_SCORE_DIFFERENCE
    same &= predictions.labels[:, None] == others.labels[None]
    last = predictions.scores <= predictions.scores.min(initial=1) + MAX_SCORE_DIFFERENCE
    return bool((same.any(1) | last).all())
