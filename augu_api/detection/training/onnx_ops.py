"""Operations of the ONNX graph that torch would export as many nodes or not at all."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from torchvision.ops import nms


class Limits(NamedTuple):
    """Which boxes are kept: at most `most`, with sides of `min_side`, of which no two overlap by more than `iou`."""

    min_side: float
    iou: float
    min_score: float
    most: int


class Resize(torch.autograd.Function):
    """Bilinear, without antialiasing: image (1, 3, H, W), size (2) -> (1, 3, *size)."""

    @staticmethod
    def forward(_: Any, image: Tensor, size: Tensor) -> Tensor:
        return F.interpolate(image, size=size.tolist(), mode="bilinear")

    @staticmethod
    def symbolic(g: Any, image: Any, size: Any) -> Any:
        full_size = g.op("Concat", g.op("Constant", value_t=torch.tensor([1, 3])), size, axis_i=0)
        none = g.op("Constant", value_t=torch.tensor([], dtype=torch.float32))
        modes = {"mode_s": "linear", "coordinate_transformation_mode_s": "half_pixel"}
        return g.op("Resize", image, none, none, full_size, **modes)


class Pad(torch.autograd.Function):
    """Zeros at the bottom and right: image (1, 3, H, W), sides (2) -> (1, 3, H + sides[0], W + sides[1])."""

    @staticmethod
    def forward(_: Any, image: Tensor, sides: Tensor) -> Tensor:
        bottom, right = sides.tolist()
        return F.pad(image, (0, right, 0, bottom))

    @staticmethod
    def symbolic(g: Any, image: Any, sides: Any) -> Any:
        before = g.op("Constant", value_t=torch.tensor([0, 0, 0, 0, 0, 0]))
        return g.op("Pad", image, g.op("Concat", before, sides, axis_i=0))


class Suppress(torch.autograd.Function):
    """Non-maximum suppression: boxes (N, 4), scores (N) -> the indices of the boxes to keep, best first."""

    @staticmethod
    def forward(_: Any, boxes: Tensor, scores: Tensor, limits: Limits) -> Tensor:
        above = (scores > limits.min_score).nonzero()[:, 0]
        return above[nms(boxes[above], scores[above], limits.iou)[: limits.most]]

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, limits: Limits) -> Any:
        inputs = (limits.most, limits.iou, limits.min_score)
        constants = (g.op("Constant", value_t=torch.tensor([value])) for value in inputs)
        batch = g.op("Constant", value_t=torch.tensor([0]))
        groups = g.op("Constant", value_t=torch.tensor([0, 1]))
        kept = g.op("NonMaxSuppression", g.op("Unsqueeze", boxes, batch), g.op("Unsqueeze", scores, groups), *constants)
        return g.op("Gather", kept, g.op("Constant", value_t=torch.tensor(2)), axis_i=1)
