"""Runs the torchvision module itself."""

import torch
import torchvision.models.detection
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from augu_api.detection import Detection, ModelUnavailable
from augu_api.detection.catalogue import Model
from augu_api.detection.nano import nano_rcnn

MAX_ASPECT = 128  # a thinner photo is padded, since torchvision would shrink its short side to nothing


class TorchvisionDetector:
    """A Faster R-CNN of the catalogue on the CPU, in this process."""

    def __init__(self, model: Model, threads: int) -> None:
        """Load the weights and detect once; raises ModelUnavailable."""
        torch.set_num_threads(threads)
        self.labels = model.names
        self.names = [name for name in model.names[1:] if name != "N/A"]
        self.facts = {"model": model.name, "engine": "torchvision", "sha256": model.sha256}
        self.module = load(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster by a quarter
        self.detect(Image.new("RGB", (640, 480)))

    def detect(self, image: Image.Image) -> list[Detection]:
        """Find the objects in an RGB image, best score first."""
        found = self._run(pil_to_tensor(image))
        boxes, labels, scores = (found[key].tolist() for key in ("boxes", "labels", "scores"))
        return [
            Detection(self.labels[label], (x1, y1, x2, y2), score)
            for (x1, y1, x2, y2), label, score in zip(boxes, labels, scores, strict=True)
        ]

    @torch.inference_mode()
    def _run(self, pixels: Tensor) -> dict[str, Tensor]:
        """Pixels (3, H, W) of 0 to 255 -> boxes (N, 4) in pixels, labels (N), scores (N)."""
        _, height, width = pixels.shape
        right, bottom = max(0, height // MAX_ASPECT - width), max(0, width // MAX_ASPECT - height)
        padded = nn.functional.pad(pixels, (0, right, 0, bottom))
        [found] = self.module([padded / 255])
        found["boxes"] = torchvision.ops.clip_boxes_to_image(found["boxes"], (height, width))
        return found


def load(model: Model) -> nn.Module:
    """The module with its weights, ready to detect; raises ModelUnavailable."""
    model.verify()
    module = _build(model)
    try:
        module.load_state_dict(torch.load(model.weights, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        raise ModelUnavailable(f"{model.weights} does not fit {model.architecture}: {error}") from error
    return module.eval()


def _build(model: Model) -> nn.Module:
    if model.architecture == "nano_rcnn":
        return nano_rcnn(len(model.names))
    build = getattr(torchvision.models.detection, model.architecture)
    module: nn.Module = build(weights=None, weights_backbone=None, num_classes=len(model.names))
    if model.name == "resnet50":  # its batch norms were frozen with no epsilon (torchvision's overwrite_eps)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = 0.0
    return module
