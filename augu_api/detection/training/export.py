"""From a torchvision Faster R-CNN to an ONNX graph that runs faster than torchvision's own export.

The graph takes a photo as it is in memory and does what the module does, in fewer and larger steps: anchors are made
for the chosen locations only, regions are pooled level by level and put in order by one Gather, boxes are decoded for
the chosen classes only, and each non-maximum suppression is one node that stops when it has enough.
benchmarks/NOTES.md tells what each step brought.
"""

import copy
import math
import warnings
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection._utils import _topk_min
from torchvision.ops import nms, roi_align

from augu_api.detection import ModelUnavailable
from augu_api.detection.catalogue import Model
from augu_api.detection.engines import Found
from augu_api.detection.nano import Focus, OriginRoIAlign, ScoredRoIHeads, ScoredRPN, joint, vote
from augu_api.detection.torchvision import build, run

OPSET = 17
DIVISOR = 32  # torchvision pads the sides of its input to multiples of this
MIN_REGION, MIN_BOX = 1e-3, 1e-2  # torchvision's: the least side of a region and of a detection, in input pixels
MAX_BOX_DIFFERENCE, MAX_SCORE_DIFFERENCE = 0.5, 1e-3  # pixels, and of 1
MAX_LOG_SCALE = math.log(1000 / 16)  # torchvision's bound on how much a box may grow


class Resize(torch.autograd.Function):
    """Bilinear, without antialiasing: image (1, 3, H, W), size (2) -> (1, 3, *size)."""

    @staticmethod
    def forward(_: Any, image: Tensor, size: Tensor) -> Tensor:
        return F.interpolate(image, size=size.tolist(), mode="bilinear")

    @staticmethod
    def symbolic(g: Any, image: Any, size: Any) -> Any:
        whole = g.op("Concat", g.op("Constant", value_t=torch.tensor([1, 3])), size, axis_i=0)
        none = g.op("Constant", value_t=torch.tensor([], dtype=torch.float32))
        modes = {"mode_s": "linear", "coordinate_transformation_mode_s": "half_pixel"}
        return g.op("Resize", image, none, none, whole, **modes)


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
    """Non-maximum suppression: boxes (N, 4), scores (N) -> the indices of at most `most` boxes, best first."""

    @staticmethod
    def forward(_: Any, boxes: Tensor, scores: Tensor, iou: float, least: float, most: int) -> Tensor:
        above = (scores > least).nonzero()[:, 0]
        return above[nms(boxes[above], scores[above], iou)[:most]]

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou: float, least: float, most: int) -> Any:
        limits = (g.op("Constant", value_t=torch.tensor([value])) for value in (most, iou, least))
        batch = g.op("Constant", value_t=torch.tensor([0]))
        groups = g.op("Constant", value_t=torch.tensor([0, 1]))
        chosen = g.op("NonMaxSuppression", g.op("Unsqueeze", boxes, batch), g.op("Unsqueeze", scores, groups), *limits)
        return g.op("Gather", chosen, g.op("Constant", value_t=torch.tensor(2)), axis_i=1)


class Graph(nn.Module):
    """A Faster R-CNN as the graph sees it: an RGB photo (H, W, 3) of bytes -> boxes (N, 4), labels (N), scores (N)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # a FasterRCNN

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        original = torch._shape_as_tensor(pixels)[:2]
        image, size = self._transform(pixels, original)
        maps = list(self.model.backbone(image).values())
        regions, levels, support, cells = self._regions(image, maps, size.float())
        heads = self.model.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(self._pool(maps, regions, levels, cells)))
        boxes, labels, scores = self._detections(regions, support, logits, deltas, size.float())
        return boxes * (original / size).flip(0).repeat(2), labels, scores

    def _transform(self, pixels: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
        """Fit, normalise and pad: the image (1, 3, H, W), and the height and width of the photo in it."""
        transform = self.model.transform
        sides = original.double()
        limits = sides.new_tensor([transform.min_size[0], transform.max_size])
        scale = (limits / sides.sort()[0]).amin()
        size = (sides * scale).floor().long()
        image = Resize.apply(pixels.permute(2, 0, 1)[None].float(), size)
        mean, std = (
            255 * image.new_tensor(value)[:, None, None] for value in (transform.image_mean, transform.image_std)
        )
        return Pad.apply((image - mean) * (1 / std), -size % DIVISOR), size

    def _regions(self, image: Tensor, maps: list[Tensor], size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The RPN: regions (R, 4), best first; the level (R), the support of names (R, names) and the location (R, C).

        torchvision's own models use the regions alone.
        """
        rpn = self.model.rpn
        candidates = []
        outputs = zip(maps, *rpn.head(maps), rpn.anchor_generator.cell_anchors, strict=True)
        for level, (x, objectness, deltas, anchors) in enumerate(outputs):
            logits = objectness[0].permute(1, 2, 0).flatten()
            logits, chosen = logits.topk(_topk_min(logits, rpn.pre_nms_top_n(), 0))
            deltas = deltas[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).flatten(0, 2)[chosen]
            boxes = _decode(deltas, _anchors_at(chosen, anchors, objectness, image), rpn.box_coder.weights)
            cells = x[0].flatten(1).transpose(0, 1)[chosen // len(anchors)]
            candidates.append((boxes, logits.sigmoid(), torch.full_like(logits, level), cells))
        boxes, scores, levels, cells = (torch.cat(part) for part in zip(*candidates, strict=True))
        limits = MIN_REGION, rpn.nms_thresh, rpn.score_thresh, rpn.post_nms_top_n()
        if not isinstance(rpn, ScoredRPN):
            boxes, kept = _suppress(boxes, scores, levels, size, *limits)
            return boxes[kept], levels[kept], scores[kept], cells[kept]
        likely = (scores >= rpn.score_thresh).nonzero()[:, 0]
        boxes, levels, cells = boxes[likely], levels[likely], cells[likely]
        found = scores[likely, None] * rpn.head.names(cells).sigmoid()
        scores, names = found.max(1)
        boxes, kept = _suppress(boxes, scores, names, size, *limits)
        placed, support = vote(_overlaps(boxes[kept], boxes), boxes, found)
        return placed, levels[kept], support, cells[kept]

    def _pool(self, maps: list[Tensor], regions: Tensor, origin: Tensor, cells: Tensor) -> Tensor:
        """The maps' features in each region, (R, C, S, S); after those of its location, in one row, if that counts."""
        pool = self.model.roi_heads.box_roi_pool
        by_origin = isinstance(pool, OriginRoIAlign)
        level = origin if by_origin else _level_for(pool, regions)
        members = [(level == i).nonzero()[:, 0] for i in range(len(pool.scales))]
        pooled = torch.cat(
            [
                roi_align(x, [regions[chosen]], pool.output_size, scale, pool.sampling_ratio, aligned=by_origin)
                for x, scale, chosen in zip(maps, pool.scales, members, strict=False)
            ]
        )[torch.cat(members).argsort()]
        return torch.cat([cells, pooled.flatten(1)], 1) if by_origin else pooled

    def _detections(
        self, regions: Tensor, support: Tensor, logits: Tensor, deltas: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The second stage's boxes, labels and scores, best first."""
        heads = self.model.roi_heads
        scored = isinstance(heads, ScoredRoIHeads)
        scores = (joint(logits) * support).sqrt() if scored else logits.softmax(1)[:, 1:]
        region, name = (scores > heads.score_thresh).nonzero().unbind(1)
        codes = deltas.reshape(-1, logits.shape[1], 4)[region, name + 1]
        boxes = _decode(codes, regions[region], heads.box_coder.weights)
        scores, labels = scores[region, name], name + 1
        limits = MIN_BOX, heads.nms_thresh, heads.score_thresh, heads.detections_per_img
        boxes, kept = _suppress(boxes, scores, labels, size, *limits)
        return boxes[kept], labels[kept], scores[kept]


def _level_for(pool: Any, regions: Tensor) -> Tensor:
    """The level for each region's size, as torchvision's pooling chooses it."""
    side = (regions[:, 2:] - regions[:, :2]).prod(1).sqrt()
    level = (pool.canonical_level + (side / pool.canonical_scale).log2() + 1e-6).floor()
    first, last = -math.log2(pool.scales[0]), -math.log2(pool.scales[-1])
    return level.clamp(first, last) - first


def _anchors_at(chosen: Tensor, anchors: Tensor, grid: Tensor, image: Tensor) -> Tensor:
    """The anchors (K, 4) of these indices on a grid (1, A, h, w) laid over the image."""
    count, rows, columns = anchors.shape[0], grid.shape[2], grid.shape[3]
    cell = chosen // count
    x, y = cell % columns * (image.shape[3] // columns), cell // columns * (image.shape[2] // rows)
    return torch.stack([x, y, x, y], 1) + anchors[chosen % count]


def _decode(deltas: Tensor, boxes: Tensor, weights: Sequence[float]) -> Tensor:
    """Apply deltas (N, 4) to boxes (N, 4), as torchvision's BoxCoder does."""
    deltas = deltas / deltas.new_tensor(weights)
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = boxes[:, :2] + 0.5 * sides + deltas[:, :2] * sides
    half = 0.5 * deltas[:, 2:].clamp(max=MAX_LOG_SCALE).exp() * sides
    return torch.cat([centres - half, centres + half], 1)


def _overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """The IoU of boxes (N, 4) with others (M, 4): (N, M)."""
    left, top, right, bottom = boxes.split(1, 1)  # one matrix a side: onnxruntime is slow where the last axis is short
    sides = others.transpose(0, 1).split(1)
    width = (torch.minimum(right, sides[2]) - torch.maximum(left, sides[0])).clamp(min=0)
    height = (torch.minimum(bottom, sides[3]) - torch.maximum(top, sides[1])).clamp(min=0)
    both = width * height
    return both / ((right - left) * (bottom - top) + (sides[2] - sides[0]) * (sides[3] - sides[1]) - both)


def _suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, size: Tensor, min_side: float, iou: float, least: float, most: int
) -> tuple[Tensor, Tensor]:
    """The boxes clipped to the photo, and which to keep: the best `most` that overlap none of their group.

    The small and the unlikely are dropped.
    """
    boxes = torch.minimum(boxes.clamp(min=0), size.flip(0).repeat(2))
    large = ((boxes[:, 2:] - boxes[:, :2]) >= min_side).all(1)
    apart = boxes + (groups * (size.amax() + 1))[:, None]  # boxes of different groups do not meet
    return boxes, Suppress.apply(apart, torch.where(large, scores, -1.0), iou, least, most)


def export(model: Model, photos: Iterable[Image.Image]) -> Path:
    """Write the model's export beside its weights and return its path.

    It is kept only if it finds the same objects as the module in each photo. Raises ModelUnavailable.
    """
    module = build(model)
    graph = trace(module, model.sha256)
    verify(graph, module, photos)
    part = model.export.with_name(f"{model.export.name}.part")
    part.write_bytes(graph)
    return part.replace(model.export)


def verify(graph: bytes, module: nn.Module, photos: Iterable[Image.Image]) -> None:
    """Raise ModelUnavailable unless the graph finds in each photo what the module finds."""
    session = onnxruntime.InferenceSession(graph)
    for number, photo in enumerate(photos, 1):
        pixels = np.asarray(photo.convert("RGB"))
        if not _same(run(module, pixels), Found(*session.run(None, {"pixels": pixels}))):
            raise ModelUnavailable(f"The export is not kept: in photo {number} it finds other objects than the module.")


@torch.inference_mode()
def trace(module: nn.Module, sha256: str) -> bytes:
    """The module's graph as an ONNX file that names the hash of its weights."""
    file: Any = BytesIO()  # torch's signature wants a path, its code takes a file
    photo = torch.randint(256, (480, 640, 3), dtype=torch.uint8)
    module = copy.deepcopy(module)
    module([photo.permute(2, 0, 1) / 255])  # torchvision's pooling learns its scales from the first photo
    for name, child in list(module.named_modules()):
        if isinstance(child, Focus):
            module.set_submodule(name, child.as_convolution())
    dynamic = {"pixels": {0: "height", 1: "width"}} | {name: {0: "objects"} for name in Found._fields}
    with warnings.catch_warnings(action="ignore"):  # of constants that are meant, and of a newer exporter
        torch.onnx.export(
            Graph(module).eval(),
            (photo,),
            file,
            opset_version=OPSET,
            dynamo=False,
            input_names=["pixels"],
            output_names=list(Found._fields),
            dynamic_axes=dynamic,
        )
    graph = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(graph, {"sha256": sha256})
    return bytes(graph.SerializeToString())


def _same(found: Found, other: Found) -> bool:
    """Whether each object of one is in the other; one that just made it into the list may be missing."""
    return _is_in(found, other) and _is_in(other, found)


def _is_in(found: Found, other: Found) -> bool:
    apart = np.abs(found.boxes[:, None] - other.boxes[None]).max(2, initial=0) > MAX_BOX_DIFFERENCE
    differ = np.abs(found.scores[:, None] - other.scores[None]) > MAX_SCORE_DIFFERENCE
    there = ~(apart | differ | (found.labels[:, None] != other.labels[None])).all(1)
    last = found.scores <= found.scores.min(initial=1) + MAX_SCORE_DIFFERENCE
    return bool((there | last).all())
