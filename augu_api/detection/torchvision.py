"""The engine that runs the torchvision module itself."""

import numpy as np
import torch
import torchvision.models.detection
from numpy.typing import NDArray
from torch import nn
from torchvision.models import get_model_builder, list_models

from augu_api.config import CORES
from augu_api.detection import ModelUnavailable
from augu_api.detection.catalogue import Model
from augu_api.detection.engines import Engine, Predictions
from augu_api.detection.nano import nano_rcnn


class TorchvisionEngine(Engine):
    """A Faster R-CNN of the catalogue on the CPU, in this process."""

    engine = "torchvision"

    def __init__(self, model: Model, threads: int, module: nn.Module | None = None) -> None:
        super().__init__(model)
        self.threads = threads
        # channels_last is faster by a quarter
        self.module = (module or build(model)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack memory_format

    def predict(self, pixels: NDArray[np.uint8], *, all_cores: bool = False) -> Predictions:
        """The model's output for an RGB photo (H, W, 3)."""
        torch.set_num_threads(CORES if all_cores else self.threads)
        return run(self.module, pixels)


load = TorchvisionEngine


@torch.inference_mode()
def run(module: nn.Module, pixels: NDArray[np.uint8]) -> Predictions:
    """The output of a torchvision module for an RGB photo (H, W, 3)."""
    [output] = module([torch.tensor(pixels).permute(2, 0, 1) / 255])
    return Predictions(*(output[key].numpy() for key in Predictions._fields))


def build(model: Model) -> nn.Module:
    """The module with its weights, ready to detect; raises ModelUnavailable."""
    model.verify()
    module = architecture(model)
    try:
        module.load_state_dict(torch.load(model.weights, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        raise ModelUnavailable(f"{model.weights} does not fit {model.architecture}: {error}") from error
    return module.eval()


def architecture(model: Model) -> nn.Module:
    """The module without its weights. Raises ModelUnavailable."""
    if model.architecture == "nano_rcnn":
        return nano_rcnn(len(model.names), model.max_size)
    if model.architecture not in list_models(torchvision.models.detection):
        raise ModelUnavailable(f"{model.facts} cannot be used: architecture: torchvision has no {model.architecture}.")
    module: nn.Module = get_model_builder(model.architecture)(
        weights=None, weights_backbone=None, num_classes=len(model.names)
    )
    if model.architecture == "fasterrcnn_resnet50_fpn":  # published without epsilon (torchvision's overwrite_eps)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = 0.0
    return module
