"""The first stage: proposals that are suppressed by class and placed by box voting."""

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from augu_api.detection.nano.losses import rpn_losses
from augu_api.detection.nano.targets import Target

ANCHORS = (40,), (80,), (160,)  # sides in input pixels: one square anchor per location
VOTE_IOU = 0.7  # a location votes on a proposal that its box overlaps by more than this
FULL_SUPPORT = 8.0  # votes


class LinearRPNHead(nn.Module):
    """Feature maps -> objectness logits and box deltas, by one linear map that the levels share.

    `names` maps features of locations (K, C) to class logits (K, classes). They choose the proposals; no loss trains
    them.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.cls_logits, self.bbox_pred = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, 4, 1)
        self.names = nn.Linear(channels, classes)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [self.cls_logits(x) for x in maps], [self.bbox_pred(x) for x in maps]


class ScoredRPN(RegionProposalNetwork):  # type: ignore[misc]  # torchvision has no types
    """torchvision's RPN, whose proposals are suppressed by class and know what was detected around them.

    A proposal (4 + 1 + classes + C) is a box, the level that made it, the support of each class (0 to 1), and the
    features of the location that made it. Among locations with the same likeliest class, non-maximum suppression keeps
    the one with the highest score. Then all locations whose boxes overlap the proposal by more than VOTE_IOU vote,
    weighted by overlap: the proposal becomes the mean of their boxes (box voting: Gidaris and Komodakis, 2015,
    arXiv:1505.01749), and the support of a class is the sum of their scores for it, relative to FULL_SUPPORT.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(
            AnchorGenerator(sizes=ANCHORS, aspect_ratios=((1.0,),) * len(ANCHORS)),
            LinearRPNHead(channels, classes),
            fg_iou_thresh=0.7,  # unused, as are the next three: targets.py does the matching
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 300, "testing": 300},
            post_nms_top_n={"training": 100, "testing": 100},
            nms_thresh=0.6,
            score_thresh=0.005,
        )

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Target] | None = None
    ) -> tuple[list[Tensor], Target]:
        """The proposals of each image (R, 4 + 1 + classes + C) and, in training, the losses."""
        maps = list(features.values())
        anchors = self.anchor_generator(images, maps)
        objectness, deltas = concat_box_prediction_layers(*self.head(maps))
        boxes = self.box_coder.decode(deltas.detach(), anchors).reshape(len(anchors), -1, 4)
        logits = objectness.detach().reshape(len(anchors), -1)
        proposals = self._proposals(maps, boxes, logits, images.image_sizes)
        if not self.training or targets is None:
            return proposals, {}
        return proposals, rpn_losses(objectness, deltas, anchors, targets, self.box_coder)

    def _proposals(
        self, maps: list[Tensor], boxes: Tensor, logits: Tensor, sizes: list[tuple[int, int]]
    ) -> list[Tensor]:
        """Each image's proposals from the boxes (N, A, 4) and objectness (N, A) of all locations."""
        features = [x.flatten(2).transpose(-1, -2) for x in maps]
        counts = [x.shape[1] for x in features]
        levels = torch.cat([logits.new_full((count,), level) for level, count in enumerate(counts)])
        top = self._get_top_n_idx(logits, counts)
        proposals = []
        by_image = zip(boxes, logits.sigmoid(), torch.cat(features, 1), top, sizes, strict=True)
        for box, score, feature, best, size in by_image:
            at = best[score[best] >= self.score_thresh]
            proposals.append(self._select((box[at], score[at], levels[at], feature[at]), size))
        return proposals

    def _select(self, candidates: tuple[Tensor, Tensor, Tensor, Tensor], size: tuple[int, int]) -> Tensor:
        """An image's proposals from candidates: boxes (K, 4), objectness (K), levels (K) and features (K, C)."""
        boxes, objectness, levels, features = candidates
        boxes = clip_boxes_to_image(boxes, size)
        class_scores = objectness[:, None] * self.head.names(features).detach().sigmoid()
        scores, classes = class_scores.max(1)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= self.min_size).all(1)
        valid = (large & (scores >= self.score_thresh)).nonzero()[:, 0]
        kept = valid[batched_nms(boxes[valid], scores[valid], classes[valid], self.nms_thresh)]
        kept = kept[: self.post_nms_top_n()]
        voted, support = vote(box_iou(boxes[kept], boxes), boxes, class_scores)
        return torch.cat([voted, levels[kept, None], support, features[kept]], 1)


def vote(iou: Tensor, boxes: Tensor, class_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Where proposals are and how much their classes are supported: boxes (R, 4) and (R, classes).

    From their IoU (R, K) with all candidates, and the candidates' boxes (K, 4) and scores of each class (K, classes).
    """
    weights = torch.where(iou > VOTE_IOU, iou, 0.0)
    votes = weights * class_scores.amax(1)
    return votes @ boxes / votes.sum(1, keepdim=True), (weights @ class_scores / FULL_SUPPORT).clamp(max=1)
