"""The second stage: what each proposal is, and its final box."""

from typing import Any, cast

import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image, remove_small_boxes, roi_align

from augu_api.detection.nano.backbone import STRIDES
from augu_api.detection.nano.losses import roi_losses
from augu_api.detection.nano.targets import Target

BINS, HIDDEN = 3, 512


class OriginRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]  # torchvision has no types
    """A proposal's own features, and its RoIAlign on the level that made it, with one sample per bin."""

    def __init__(self, bins: int) -> None:
        super().__init__([str(level) for level in range(len(STRIDES))], bins, 1)
        self.scales = [1 / stride for stride in STRIDES]

    def forward(
        self,
        x: dict[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],  # noqa: ARG002 - torchvision's signature
    ) -> Tensor:
        """Feature maps, and each image's proposals (R, 4 + 1 + classes + C) -> (sum of R, C + C * S * S)."""
        proposals = torch.cat(boxes)
        image = torch.cat([proposals.new_full((len(rows), 1), i) for i, rows in enumerate(boxes)])
        rois, level = torch.cat([image, proposals[:, :4]], 1), proposals[:, 4]
        members = [(level == i).nonzero()[:, 0] for i in range(len(self.scales))]
        pooled = [
            roi_align(maps, rois[at], self.output_size, scale, self.sampling_ratio, aligned=True)
            for maps, scale, at in zip(x.values(), self.scales, members, strict=True)
        ]
        in_order = torch.cat(pooled)[torch.cat(members).argsort()]
        return torch.cat([proposals[:, -x["0"].shape[1] :], in_order.flatten(1)], 1)


class ScoredRoIHeads(RoIHeads):  # type: ignore[misc]  # torchvision has no types
    """torchvision's RoIHeads, whose first logit says whether there is an object, and the others of which class.

    A detection's score is the geometric mean of P(object) P(class), each the sigmoid of a logit, and of the support of
    its class. In training every proposal counts.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(
            OriginRoIAlign(BINS),
            TwoMLPHead(channels * (1 + BINS**2), HIDDEN),
            FastRCNNPredictor(HIDDEN, num_classes),
            fg_iou_thresh=0.5,  # unused, as are the next four: targets.py does the matching
            bg_iou_thresh=0.5,
            batch_size_per_image=512,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.002,
            nms_thresh=0.6,
            detections_per_img=100,
        )

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Target], Target]:
        """The detections, as torchvision returns them; in training the losses."""
        if targets is None:
            return cast("tuple[Any, Any]", super().forward(features, proposals, image_shapes))
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        return [], roi_losses(logits, deltas, [rows[:, :4] for rows in proposals], targets, self.box_coder)

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Each image's boxes (N, 4), scores (N) and labels (N), best first."""
        support = torch.cat([rows[:, 5 : 4 + class_logits.shape[1]] for rows in proposals])
        scores, counts = (joint(class_logits) * support).sqrt(), [len(rows) for rows in proposals]
        by_image = zip(scores.split(counts), box_regression.split(counts), proposals, image_shapes, strict=True)
        boxes, kept, labels = zip(*(self._detections(*one) for one in by_image), strict=True)
        return list(boxes), list(kept), list(labels)

    def _detections(
        self, scores: Tensor, deltas: Tensor, proposals: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """An image's boxes (N, 4), scores (N), labels (N) from scores (R, classes) and deltas (R, 4 + 4 * classes)."""
        row, column = (scores > self.score_thresh).nonzero().unbind(1)
        codes = deltas.unflatten(1, (-1, 4))[row, column + 1]
        boxes = clip_boxes_to_image(self.box_coder.decode_single(codes, proposals[row, :4]), size)
        scores = scores[row, column]
        large = remove_small_boxes(boxes, 1e-2)
        boxes, scores, column = boxes[large], scores[large], column[large]
        kept = batched_nms(boxes, scores, column, self.nms_thresh)[: self.detections_per_img]
        return boxes[kept], scores[kept], column[kept] + 1


def joint(logits: Tensor) -> Tensor:
    """Logits (R, 1 + classes) -> P(object and class) (R, classes)."""
    probabilities = logits.sigmoid()
    return probabilities[:, :1] * probabilities[:, 1:]
