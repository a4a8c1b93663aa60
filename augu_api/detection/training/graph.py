"""A torchvision Faster R-CNN as the graph that is exported: it does what the module does, in fewer and larger steps.

Anchors are made for the chosen locations only, proposals are pooled level by level and put in order by one Gather,
boxes are decoded for the chosen classes only, and each non-maximum suppression is one node that stops when it has
enough. benchmarks/NOTES.md says what each step brought.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import _topk_min
from torchvision.ops import roi_align

from augu_api.detection.nano.roi_heads import OriginRoIAlign, ScoredRoIHeads, joint
from augu_api.detection.nano.rpn import ScoredRPN, vote
from augu_api.detection.training.onnx_ops import Limits, Pad, Resize, Suppress

DIVISOR = 32  # torchvision pads the sides of its input to multiples of this
MIN_PROPOSAL, MIN_BOX = 1e-3, 1e-2  # torchvision's: the least side of a proposal and of a detection, in input pixels
MAX_LOG_SCALE = math.log(1000 / 16)  # torchvision's bound on how much a box may grow


class Candidates(NamedTuple):
    """The RPN's best boxes (K, 4), their objectness (K), the levels that made them (K) and their features (K, C)."""

    boxes: Tensor
    objectness: Tensor
    levels: Tensor
    features: Tensor


class Proposals(NamedTuple):
    """Boxes (R, 4), the levels that made them (R), the support of each class (R, classes) and features (R, C).

    torchvision's own models use the boxes alone.
    """

    boxes: Tensor
    levels: Tensor
    support: Tensor
    features: Tensor


class Graph(nn.Module):
    """A Faster R-CNN as the graph sees it: an RGB photo (H, W, 3) of bytes -> boxes (N, 4), labels (N), scores (N)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # a GeneralizedRCNN

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        original = torch._shape_as_tensor(pixels)[:2]  # noqa: SLF001 - `pixels.shape` would become a constant
        image, size = self._transform(pixels, original)
        maps = list(self.model.backbone(image).values())
        proposals = self._proposals(image, maps, size.float())
        heads = self.model.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(self._pool(maps, proposals)))
        boxes, labels, scores = self._detections(proposals, logits, deltas, size.float())
        return boxes * (original / size).flip(0).repeat(2), labels, scores

    def _transform(self, pixels: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
        """Resize, normalise and pad: the image (1, 3, H, W), and the height and width of the photo in it."""
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

    def _candidates(self, image: Tensor, maps: list[Tensor]) -> Candidates:
        rpn = self.model.rpn
        by_level = []
        outputs = zip(maps, *rpn.head(maps), rpn.anchor_generator.cell_anchors, strict=True)
        for level, (x, objectness, deltas, anchors) in enumerate(outputs):
            logits = objectness[0].permute(1, 2, 0).flatten()
            logits, top = logits.topk(_topk_min(logits, rpn.pre_nms_top_n(), 0))
            codes = deltas[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).flatten(0, 2)[top]
            boxes = _decode(codes, _anchors_at(top, anchors, objectness, image), rpn.box_coder.weights)
            features = x[0].flatten(1).transpose(0, 1)[top // len(anchors)]
            by_level.append(Candidates(boxes, logits.sigmoid(), torch.full_like(logits, level), features))
        return Candidates(*(torch.cat(part) for part in zip(*by_level, strict=True)))

    def _proposals(self, image: Tensor, maps: list[Tensor], size: Tensor) -> Proposals:
        rpn, candidates = self.model.rpn, self._candidates(image, maps)
        limits = Limits(MIN_PROPOSAL, rpn.nms_thresh, rpn.score_thresh, rpn.post_nms_top_n())
        if isinstance(rpn, ScoredRPN):
            return _scored_proposals(rpn, candidates, size, limits)
        boxes, scores, levels, features = candidates
        boxes, kept = _suppress(boxes, scores, levels, size, limits)
        return Proposals(boxes[kept], levels[kept], scores[kept], features[kept])

    def _pool(self, maps: list[Tensor], proposals: Proposals) -> Tensor:
        """The features in each proposal, (R, C, S, S), or OriginRoIAlign's."""
        pool = self.model.roi_heads.box_roi_pool
        by_origin = isinstance(pool, OriginRoIAlign)
        level = proposals.levels if by_origin else _level_for(pool, proposals.boxes)
        members = [(level == i).nonzero()[:, 0] for i in range(len(pool.scales))]
        pooled = [
            roi_align(x, [proposals.boxes[at]], pool.output_size, scale, pool.sampling_ratio, aligned=by_origin)
            for x, scale, at in zip(maps, pool.scales, members, strict=False)  # the last map may serve the RPN alone
        ]
        in_order = torch.cat(pooled)[torch.cat(members).argsort()]
        return torch.cat([proposals.features, in_order.flatten(1)], 1) if by_origin else in_order

    def _detections(
        self, proposals: Proposals, logits: Tensor, deltas: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The second stage's boxes, labels and scores, best first."""
        heads = self.model.roi_heads
        scored = isinstance(heads, ScoredRoIHeads)
        scores = (joint(logits) * proposals.support).sqrt() if scored else logits.softmax(1)[:, 1:]
        row, column = (scores > heads.score_thresh).nonzero().unbind(1)
        codes = deltas.reshape(-1, logits.shape[1], 4)[row, column + 1]
        boxes = _decode(codes, proposals.boxes[row], heads.box_coder.weights)
        scores, labels = scores[row, column], column + 1
        limits = Limits(MIN_BOX, heads.nms_thresh, heads.score_thresh, heads.detections_per_img)
        boxes, kept = _suppress(boxes, scores, labels, size, limits)
        return boxes[kept], labels[kept], scores[kept]


def _scored_proposals(rpn: ScoredRPN, candidates: Candidates, size: Tensor, limits: Limits) -> Proposals:
    """ScoredRPN's proposals: suppressed by class and placed by vote."""
    likely = (candidates.objectness >= limits.min_score).nonzero()[:, 0]
    boxes, levels, features = candidates.boxes[likely], candidates.levels[likely], candidates.features[likely]
    class_scores = candidates.objectness[likely, None] * rpn.head.names(features).sigmoid()
    scores, classes = class_scores.max(1)
    boxes, kept = _suppress(boxes, scores, classes, size, limits)
    voted, support = vote(_iou(boxes[kept], boxes), boxes, class_scores)
    return Proposals(voted, levels[kept], support, features[kept])


def _level_for(pool: Any, boxes: Tensor) -> Tensor:
    """The level for each box's size, as torchvision's pooling chooses it."""
    side = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    level = (pool.canonical_level + (side / pool.canonical_scale).log2() + 1e-6).floor()
    first, last = -math.log2(pool.scales[0]), -math.log2(pool.scales[-1])
    return level.clamp(first, last) - first


def _anchors_at(indices: Tensor, anchors: Tensor, grid: Tensor, image: Tensor) -> Tensor:
    """The anchors (K, 4) of these indices on a grid (1, A, h, w) laid over the image."""
    count, rows, columns = anchors.shape[0], grid.shape[2], grid.shape[3]
    location = indices // count
    x, y = location % columns * (image.shape[3] // columns), location // columns * (image.shape[2] // rows)
    return torch.stack([x, y, x, y], 1) + anchors[indices % count]


def _decode(deltas: Tensor, boxes: Tensor, weights: Sequence[float]) -> Tensor:
    """Apply deltas (N, 4) to boxes (N, 4), as torchvision's BoxCoder does."""
    deltas = deltas / deltas.new_tensor(weights)
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = boxes[:, :2] + 0.5 * sides + deltas[:, :2] * sides
    half = 0.5 * deltas[:, 2:].clamp(max=MAX_LOG_SCALE).exp() * sides
    return torch.cat([centres - half, centres + half], 1)


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """The IoU of boxes (N, 4) with others (M, 4): (N, M)."""
    left, top, right, bottom = boxes.split(1, 1)  # a matrix per side: onnxruntime is slow if the last axis is short
    sides = others.transpose(0, 1).split(1)
    width = (torch.minimum(right, sides[2]) - torch.maximum(left, sides[0])).clamp(min=0)
    height = (torch.minimum(bottom, sides[3]) - torch.maximum(top, sides[1])).clamp(min=0)
    both = width * height
    return both / ((right - left) * (bottom - top) + (sides[2] - sides[0]) * (sides[3] - sides[1]) - both)


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, size: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """The boxes clipped to the photo, and the indices of those to keep, best first; groups are suppressed apart."""
    boxes = torch.minimum(boxes.clamp(min=0), size.flip(0).repeat(2))
    large = ((boxes[:, 2:] - boxes[:, :2]) >= limits.min_side).all(1)
    apart = boxes + (groups * (size.amax() + 1))[:, None]  # boxes of different groups do not overlap
    return boxes, Suppress.apply(apart, torch.where(large, scores, -1.0), limits)
