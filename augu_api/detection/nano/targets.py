"""What anchors and proposals should learn from a photo's boxes; only training needs it."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from torchvision.ops import box_iou

CANDIDATES = 9  # nearest anchors of each level
ANCHOR_IGNORE_IOU = 0.3  # an anchor that overlaps a box to ignore by more than this does not count
PROPOSAL_IOU = 0.5  # a proposal that overlaps a box by this much gets the box's class

Target = dict[str, Tensor]
"""A photo's "boxes" (N, 4) and "labels" (N). Optional: "scores" (N), how likely each box is right, and "ignore" (K, 4),
boxes that are neither object nor background."""


def box_scores(target: Target) -> Tensor:
    """How likely each box is right: 1 unless the target says otherwise."""
    return target.get("scores", target["boxes"].new_ones(len(target["boxes"])))


def assign_anchors(anchors: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Each anchor's label (0: background, -1: ignored, otherwise the score of its box) and box, by ATSS.

    Source: Zhang et al., 2020, arXiv:1912.02424, section 3.2.
    """
    labels, boxes, scores = anchors.new_zeros(len(anchors)), target["boxes"], box_scores(target)
    if len(ignore := target.get("ignore", boxes[:0])):
        labels[box_iou(anchors, ignore).amax(1) > ANCHOR_IGNORE_IOU] = -1
    if not len(boxes):
        return labels, torch.zeros_like(anchors)
    index = _nearest(anchors, boxes)
    iou = box_iou(boxes, anchors).gather(1, index)
    positive = _positive(_centres(anchors)[index], boxes, iou)
    quality = anchors.new_full((len(boxes), len(anchors)), -1.0)
    quality.scatter_(1, index, torch.where(positive, iou * scores[:, None], -1.0))
    best, owner = quality.max(0)
    matched = best >= 0
    labels[matched] = scores[owner[matched]]
    return labels, boxes[owner]


def assign_proposals(proposals: Tensor, target: Target, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class probabilities for proposals (R, 4): (R, classes); their boxes (R, 4), labels (R), and which count (R).

    A proposal's probability is shared among the boxes that it overlaps by PROPOSAL_IOU, up to their scores; the rest
    is background.
    """
    boxes = F.pad(target["boxes"], (0, 0, 1, 0))  # box 0 stands for no box
    labels, scores = F.pad(target["labels"], (1, 0)), F.pad(box_scores(target), (1, 0))
    iou = box_iou(proposals, boxes)
    share = torch.where(iou >= PROPOSAL_IOU, scores, 0.0)
    probabilities = share.new_zeros(len(proposals), classes)
    probabilities.scatter_reduce_(1, labels.expand_as(share), share, "amax")
    probabilities = probabilities / probabilities.sum(1, keepdim=True).clamp(min=1)
    probabilities[:, 0] = 1 - probabilities.sum(1)
    owner = (iou * (share > 0)).argmax(1)
    not_ignored = (box_iou(proposals, target.get("ignore", boxes[:0])) < PROPOSAL_IOU).all(1)
    return probabilities, boxes[owner], labels[owner], not_ignored | (owner > 0)


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _nearest(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The anchors of each level that are nearest to each box (G, 4), by their centres: indices (G, K)."""
    distance = torch.cdist(_centres(boxes), _centres(anchors))
    side = (anchors[:, 2] - anchors[:, 0]).round()
    levels = [(side == s).nonzero()[:, 0] for s in side.unique()]  # each level has one size of anchor
    return torch.cat([at[distance[:, at].topk(min(CANDIDATES, len(at)), largest=False)[1]] for at in levels], 1)


def _positive(centres: Tensor, boxes: Tensor, iou: Tensor) -> Tensor:
    """Which candidates (G, K), at these centres (G, K, 2), belong to the boxes (G, 4)."""
    inside = ((centres > boxes[:, None, :2]) & (centres < boxes[:, None, 2:])).all(2)
    positive = inside & (iou >= (iou.mean(1) + iou.std(1))[:, None])
    best = inside & (iou == torch.where(inside, iou, -1.0).amax(1, keepdim=True))
    return torch.where(positive.any(1, keepdim=True), positive, best)  # a square anchor may fit a long box badly
