"""The losses of both stages; only training needs them."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_area, generalized_box_iou_loss

from augu_api.detection.nano.targets import Target, assign_anchors, assign_proposals


def rpn_losses(
    objectness: Tensor, deltas: Tensor, anchors: list[Tensor], targets: list[Target], box_coder: BoxCoder
) -> dict[str, Tensor]:
    """The quality focal loss of objectness, which learns how well a box fits, and the GIoU loss of the boxes.

    Source: Li et al., 2020, arXiv:2006.04388.
    """
    labels, boxes = zip(*map(assign_anchors, anchors, targets), strict=True)
    label, expected = torch.cat(labels), torch.cat(box_coder.encode(list(boxes), anchors))
    positive = label > 0
    weight = label[positive]
    unit = deltas.new_tensor([[-0.5, -0.5, 0.5, 0.5]]).expand(len(weight), 4)  # IoU does not depend on the scale
    box = box_coder.decode_single(deltas[positive], unit)
    expected_box = box_coder.decode_single(expected[positive], unit)
    quality = torch.zeros_like(label)
    quality[positive] = weight * paired_iou(box.detach(), expected_box)
    total = weight.sum().clamp(min=1)
    loss = _quality_focal_loss(objectness.flatten(), quality, counts=label >= 0) / total
    box_loss = 2 * (generalized_box_iou_loss(box, expected_box) * weight).sum() / total
    return {"loss_objectness": loss, "loss_rpn_box_reg": box_loss}


def roi_losses(
    logits: Tensor, deltas: Tensor, proposals: list[Tensor], targets: list[Target], box_coder: BoxCoder
) -> dict[str, Tensor]:
    """The cross-entropy of P(object) P(class) and the smooth L1 loss of the boxes, over all proposals (R, 4)."""
    assigned = [assign_proposals(*one, logits.shape[1]) for one in zip(proposals, targets, strict=True)]
    probabilities, boxes, labels, counts = map(list, zip(*assigned, strict=True))
    label, counted = torch.cat(labels), torch.cat(counts)
    total = counted.sum().clamp(min=1)
    loss = _joint_cross_entropy(logits, torch.cat(probabilities)[:, 1:])[counted].sum() / total
    positive = label.nonzero()[:, 0]
    expected = torch.cat(box_coder.encode(boxes, proposals))[positive]
    predicted = deltas.unflatten(1, (-1, 4))[positive, label[positive]]
    box_loss = F.smooth_l1_loss(predicted, expected, beta=1 / 9, reduction="sum") / total
    return {"loss_classifier": loss, "loss_box_reg": box_loss}


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """The IoU of each box (N, 4) with the other box of its row: (N)."""
    low, high = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    return both / (box_area(boxes) + box_area(others) - both).clamp(min=1e-9)


def _quality_focal_loss(logits: Tensor, quality: Tensor, counts: Tensor) -> Tensor:
    focus = (logits.sigmoid().detach() - quality).square()
    return F.binary_cross_entropy_with_logits(logits, quality, focus * counts, reduction="sum")


def _joint_cross_entropy(logits: Tensor, probabilities: Tensor) -> Tensor:
    """From logits (R, 1 + classes), of which the first is of an object, and class probabilities (R, classes): (R)."""
    log = F.logsigmoid(logits.float())  # in half precision exp(-1e-6) is 1, and the loss infinite
    joint = (log[:, :1] + log[:, 1:]).clamp(max=-1e-6)
    return -(probabilities * joint + (1 - probabilities) * torch.log1p(-joint.exp())).sum(1)
