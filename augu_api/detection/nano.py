"""The bundled model: torchvision's FasterRCNN on a nano CSP-PAN backbone, 2.1 million parameters in all.

The backbone and its branches follow YOLOX-nano (Ge et al., 2021, arXiv:2107.08430): a focus stem, CSP-Darknet of
depth 0.33 and width 0.25 with depthwise convolutions, a PAN neck and a decoupled head, batch norm folded into the
convolutions. Each location of the three maps (strides 8, 16 and 32) holds 128 numbers, so that the RPN's head is one
linear map. A region keeps those of the location that found it for the second stage.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import (
    MultiScaleRoIAlign,
    batched_nms,
    box_area,
    box_iou,
    clip_boxes_to_image,
    generalized_box_iou_loss,
    remove_small_boxes,
    roi_align,
)

STRIDES = 8, 16, 32
SURE = 8.0  # a logit
VOTING = 0.7  # overlap with a region from which on a location has a vote
CROWD = 8.0  # locations that agree and are sure
Target = dict[str, Tensor]


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its SiLU: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    return nn.Sequential(layer, nn.SiLU(inplace=True))


def depthwise(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A depthwise separable convolution of 3 x 3."""
    return nn.Sequential(conv(inputs, inputs, 3, stride, groups=inputs), conv(inputs, outputs))


class Focus(nn.Module):
    """Space to depth, then a convolution: (N, 3, H, W) -> (N, outputs, H / 2, W / 2)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = conv(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.conv(torch.cat(corners, 1))

    def as_convolution(self) -> nn.Sequential:
        """The same as a single convolution of 6 x 6 and its activation, which onnxruntime runs faster."""
        layer: Any = self.conv[0]
        whole = nn.Conv2d(3, layer.out_channels, 6, 2, 2)
        corners = layer.weight.detach().unflatten(1, (2, 2, 3))  # (outputs, right, bottom, 3, 3, 3)
        weight = corners.permute(0, 3, 4, 2, 5, 1)  # (outputs, 3, rows, bottom, columns, right)
        whole.weight, whole.bias = nn.Parameter(weight.flatten(4).flatten(2, 3)), layer.bias
        return nn.Sequential(whole, self.conv[1])


class Bottleneck(nn.Module):
    """Two convolutions, with a residual connection if `shortcut`."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.a, self.b, self.shortcut = conv(channels, channels), depthwise(channels, channels), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        return x + y if self.shortcut else y


class CSP(nn.Module):
    """A cross stage partial block (Wang et al., 2020, arXiv:1911.11929): half goes through `depth` bottlenecks."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.a, self.b, self.c = conv(inputs, half), conv(inputs, half), conv(2 * half, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat([self.m(self.a(x)), self.b(x)], 1))


class SPP(nn.Module):
    """Spatial pyramid pooling (He et al., 2014, arXiv:1406.4729) at one resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = conv(channels, channels // 2), conv(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(torch.cat([x] + [F.max_pool2d(x, kernel, 1, kernel // 2) for kernel in (5, 9, 13)], 1))


class Branch(nn.Module):
    """A level's map (N, inputs, H, W) -> (N, outputs, H, W): what is there and where, each by its own path."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.what = nn.Sequential(depthwise(inputs, inputs), depthwise(inputs, inputs))
        self.where = nn.Sequential(depthwise(inputs, inputs), depthwise(inputs, inputs))
        self.mix = nn.Conv2d(2 * inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat([self.what(x), self.where(x)], 1))


class NanoBackbone(nn.Module):
    """Images (N, 3, H, W), H and W multiples of 32 -> {"0": /8, "1": /16, "2": /32}, 128 channels each."""

    out_channels = 128

    def __init__(self) -> None:
        super().__init__()
        self.stem = Focus(16)
        self.dark2 = nn.Sequential(depthwise(16, 32, 2), CSP(32, 32))
        self.dark3 = nn.Sequential(depthwise(32, 64, 2), CSP(64, 64, 3))
        self.dark4 = nn.Sequential(depthwise(64, 128, 2), CSP(128, 128, 3))
        self.dark5 = nn.Sequential(depthwise(128, 256, 2), SPP(256), CSP(256, 256, shortcut=False))
        self.lat5, self.p4 = conv(256, 128), CSP(256, 128, shortcut=False)
        self.lat4, self.p3 = conv(128, 64), CSP(128, 64, shortcut=False)
        self.down3, self.n4 = depthwise(64, 64, 2), CSP(128, 128, shortcut=False)
        self.down4, self.n5 = depthwise(128, 128, 2), CSP(256, 256, shortcut=False)
        self.out3, self.out4, self.out5 = conv(64, 64), conv(128, 64), conv(256, 64)
        self.branches = nn.ModuleList(Branch(64, self.out_channels) for _ in STRIDES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        c3 = self.dark3(self.dark2(self.stem(x)))
        c4 = self.dark4(c3)
        l5 = self.lat5(self.dark5(c4))
        l4 = self.lat4(self.p4(torch.cat([F.interpolate(l5, scale_factor=2.0), c4], 1)))
        n3 = self.p3(torch.cat([F.interpolate(l4, scale_factor=2.0), c3], 1))
        n4 = self.n4(torch.cat([self.down3(n3), l4], 1))
        n5 = self.n5(torch.cat([self.down4(n4), l5], 1))
        maps = self.out3(n3), self.out4(n4), self.out5(n5)
        return {str(level): branch(x) for level, (branch, x) in enumerate(zip(self.branches, maps, strict=True))}


class LinearRPNHead(nn.Module):
    """Maps -> objectness logits and box deltas, one anchor a location, by one linear map shared by the levels.

    `names` tells from a location's numbers (K, C) what its object would be called: logits (K, names). They choose the
    regions; no loss trains them.
    """

    def __init__(self, channels: int, names: int) -> None:
        super().__init__()
        self.cls_logits, self.bbox_pred = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, 4, 1)
        self.names = nn.Linear(channels, names)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [self.cls_logits(x) for x in maps], [self.bbox_pred(x) for x in maps]


class Transform(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, which fits the target's "ignore" boxes as well."""

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """Fit an image (3, H, W) and its boxes."""
        fitted, target = super().resize(image, target)
        if target and "ignore" in target:
            target["ignore"] = resize_boxes(target["ignore"], image.shape[-2:], fitted.shape[-2:])
        return fitted, target


class ScoredRPN(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's RPN whose regions are suppressed by name and know what was found around them.

    A region (4 + 1 + names + C) is a box, the level that found it, how much each name is supported (0 to 1), and the
    numbers of the location that found it. Of the locations with the same likeliest name, the one that is surest of it
    wins. All locations whose boxes overlap the region much then have a vote, weighted by overlap: the region becomes
    the mean of their boxes (box voting: Gidaris and Komodakis, 2015, arXiv:1505.01749), and a name's
    support is the sum of how likely each takes it for that, where CROWD sure ones are all that can be had.

    In training, anchors are assigned by ATSS (Zhang et al., 2020, arXiv:1912.02424, section 3.2) and objectness learns
    how well a box fits (quality focal loss: Li et al., 2020, arXiv:2006.04388), times the box's own "scores" if the
    target has them. Anchors that overlap a box of the target's "ignore" (K, 4) are neither object nor background.
    """

    candidates = 9  # nearest anchors of each level
    ignored = 0.3  # overlap with a box to ignore

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Target] | None = None
    ) -> tuple[list[Tensor], Target]:
        """As torchvision's: the regions of each image (R, 4 + 1 + names + C) and, in training, the losses."""
        maps = list(features.values())
        anchors = self.anchor_generator(images, maps)
        objectness, deltas = concat_box_prediction_layers(*self.head(maps))
        boxes = self.box_coder.decode(deltas.detach(), anchors).reshape(len(anchors), -1, 4)
        logits, cells = objectness.detach().reshape(len(anchors), -1), [x.flatten(2).transpose(-1, -2) for x in maps]
        counts = [x.shape[1] for x in cells]
        levels = torch.cat([logits.new_full((count,), level) for level, count in enumerate(counts)])
        chosen = self._get_top_n_idx(logits, counts)
        regions = []
        by_image = zip(boxes, logits.sigmoid(), torch.cat(cells, 1), chosen, images.image_sizes, strict=True)
        for box, score, cell, best, shape in by_image:
            at = best[score[best] >= self.score_thresh]
            regions.append(self._regions(box[at], score[at], levels[at], cell[at], shape))
        if not self.training or targets is None:
            return regions, {}
        labels, found = self.assign_targets_to_anchors(anchors, targets)
        loss, box_loss = self.compute_loss(objectness, deltas, labels, self.box_coder.encode(found, anchors))
        return regions, {"loss_objectness": loss, "loss_rpn_box_reg": box_loss}

    def _regions(
        self, boxes: Tensor, objectness: Tensor, levels: Tensor, cells: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """An image's regions from candidates: boxes (K, 4), objectness (K), levels (K) and locations (K, C)."""
        boxes = clip_boxes_to_image(boxes, shape)
        found = objectness[:, None] * self.head.names(cells).detach().sigmoid()
        scores, name = found.max(1)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= self.min_size).all(1)
        there = (large & (scores >= self.score_thresh)).nonzero()[:, 0]
        apart = batched_nms(boxes[there], scores[there], name[there], self.nms_thresh)
        kept = there[apart[: self.post_nms_top_n()]]
        placed, support = vote(box_iou(boxes[kept], boxes), boxes, found)
        return torch.cat([placed, levels[kept, None], support, cells[kept]], 1)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Each anchor's label (0 background, -1 ignored, else the box's score) and the box it is to find."""
        labels, boxes = zip(*map(self._assign, anchors, targets), strict=True)
        return list(labels), list(boxes)

    def _assign(self, anchors: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        labels, boxes = anchors.new_zeros(len(anchors)), target["boxes"]
        if len(ignore := target.get("ignore", boxes[:0])):
            labels[box_iou(anchors, ignore).amax(1) > self.ignored] = -1
        if not len(boxes):
            return labels, torch.zeros_like(anchors)
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        distance = torch.cdist((boxes[:, :2] + boxes[:, 2:]) / 2, centres)
        side = (anchors[:, 2] - anchors[:, 0]).round()
        levels = [(side == s).nonzero()[:, 0] for s in side.unique()]  # one size of anchor a level
        near = [at[distance[:, at].topk(min(self.candidates, len(at)), largest=False)[1]] for at in levels]
        index = torch.cat(near, 1)
        iou, at = box_iou(boxes, anchors).gather(1, index), centres[index]
        inside = ((at > boxes[:, None, :2]) & (at < boxes[:, None, 2:])).all(2)
        positive = inside & (iou >= (iou.mean(1) + iou.std(1))[:, None])
        fallback = inside & (
            iou == torch.where(inside, iou, -1.0).amax(1, keepdim=True)
        )  # no square anchor fits it well
        positive = torch.where(positive.any(1, keepdim=True), positive, fallback)
        overlap = anchors.new_full((len(boxes), len(anchors)), -1.0)
        overlap.scatter_(1, index, torch.where(positive, iou * _scores(target)[:, None], -1.0))
        best, owner = overlap.max(0)
        found = best >= 0
        labels[found] = _scores(target)[owner[found]]
        return labels, boxes[owner]

    def compute_loss(
        self, objectness: Tensor, deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The quality focal loss of objectness and the GIoU loss of the boxes."""
        label, wanted = torch.cat(labels), torch.cat(regression_targets)
        positive = label > 0
        unit = deltas.new_tensor([[-0.5, -0.5, 0.5, 0.5]]).expand(int(positive.sum()), 4)  # overlap knows no scale
        found = self.box_coder.decode_single(deltas[positive], unit)
        box = self.box_coder.decode_single(wanted[positive], unit)
        weight = label[positive]
        total = weight.sum().clamp(min=1)
        quality = torch.zeros_like(label)
        quality[positive] = weight * paired_iou(found.detach(), box)
        known, logits = label >= 0, objectness.flatten()
        focus = (logits.sigmoid().detach() - quality).square()
        loss = F.binary_cross_entropy_with_logits(logits, quality, focus * known, reduction="sum")
        return loss / total, 2 * (generalized_box_iou_loss(found, box) * weight).sum() / total


class OriginRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]
    """What is known where a region was found, and its RoIAlign on the level that found it, with one sample a bin."""

    def __init__(self, bins: int) -> None:
        super().__init__([str(level) for level in range(len(STRIDES))], bins, 1)
        self.scales = [1 / stride for stride in STRIDES]

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Maps, and each image's regions (R, 4 + 1 + names + C) at input scale -> (sum of R, C + C * S * S)."""
        whole = torch.cat(boxes)
        image = torch.cat([whole.new_full((len(regions), 1), i) for i, regions in enumerate(boxes)])
        regions, level, cells = torch.cat([image, whole[:, :4]], 1), whole[:, 4], whole[:, -x["0"].shape[1] :]
        members = [(level == i).nonzero()[:, 0] for i in range(len(self.scales))]
        pooled = [
            roi_align(maps, regions[chosen], self.output_size, scale, self.sampling_ratio, aligned=True)
            for maps, scale, chosen in zip(x.values(), self.scales, members, strict=True)
        ]
        return torch.cat([cells, torch.cat(pooled)[torch.cat(members).argsort()].flatten(1)], 1)


class ScoredRoIHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's RoIHeads whose first logit says whether there is an object, the others what it is called.

    A detection's score is the geometric mean of P(object) P(name), each the sigmoid of a logit, and of its name's
    support.

    In training every region counts. What it should be called is shared among the boxes that it overlaps by half, as
    far as their "scores" go; the rest is background.
    """

    overlap = 0.5

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Target], Target]:
        """As torchvision's; in training the losses."""
        if targets is None:
            return cast("tuple[Any, Any]", super().forward(features, proposals, image_shapes))
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        regions = [region[:, :4] for region in proposals]
        wanted = zip(*(self._wanted(*one, logits.shape[1]) for one in zip(regions, targets, strict=True)), strict=True)
        names, boxes, labels, known = map(list, wanted)
        codes, label, counts = torch.cat(self.box_coder.encode(boxes, regions)), torch.cat(labels), torch.cat(known)
        total = counts.sum().clamp(min=1)
        called, likely = torch.cat(names)[:, 1:], F.logsigmoid(logits.float())  # half precision knows no -1e-6
        both = (likely[:, :1] + likely[:, 1:]).clamp(max=-1e-6)
        loss = -(called * both + (1 - called) * torch.log1p(-both.exp())).sum(1)[counts].sum() / total
        found = label.nonzero()[:, 0]
        moved = deltas.unflatten(1, (-1, 4))[found, label[found]]
        box = F.smooth_l1_loss(moved, codes[found], beta=1 / 9, reduction="sum") / total
        return [], {"loss_classifier": loss, "loss_box_reg": box}

    def _wanted(self, regions: Tensor, target: Target, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What regions (R, 4) should be called (R, C), their boxes (R, 4) and labels (R), and which of them count (R).

        Box 0 stands for no box.
        """
        boxes = F.pad(target["boxes"], (0, 0, 1, 0))
        labels, scores = F.pad(target["labels"], (1, 0)), F.pad(_scores(target), (1, 0))
        iou = box_iou(regions, boxes)
        share = torch.where(iou >= self.overlap, scores, 0.0)
        names = share.new_zeros(len(regions), classes)
        names.scatter_reduce_(1, labels.expand_as(share), share, "amax")
        names = names / names.sum(1, keepdim=True).clamp(min=1)
        names[:, 0] = 1 - names.sum(1)
        owner = (iou * (share > 0)).argmax(1)
        apart = (box_iou(regions, target.get("ignore", boxes[:0])) < self.overlap).all(1)
        return names, boxes[owner], labels[owner], apart | (owner > 0)

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """As torchvision's: each image's boxes (N, 4), scores (N) and labels (N), best first."""
        support = torch.cat([regions[:, 5 : 4 + class_logits.shape[1]] for regions in proposals])
        scores, counts = (joint(class_logits) * support).sqrt(), [len(regions) for regions in proposals]
        by_image = zip(scores.split(counts), box_regression.split(counts), proposals, image_shapes, strict=True)
        boxes, kept, labels = zip(*(self._detections(*one) for one in by_image), strict=True)
        return list(boxes), list(kept), list(labels)

    def _detections(
        self, scores: Tensor, deltas: Tensor, regions: Tensor, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """An image's boxes (N, 4), scores (N) and labels (N) from scores (R, names) and deltas (R, 4 + 4 * names)."""
        region, name = (scores > self.score_thresh).nonzero().unbind(1)
        codes = deltas.unflatten(1, (-1, 4))[region, name + 1]
        boxes = clip_boxes_to_image(self.box_coder.decode_single(codes, regions[region, :4]), shape)
        scores = scores[region, name]
        large = remove_small_boxes(boxes, 1e-2)
        boxes, scores, name = boxes[large], scores[large], name[large]
        kept = batched_nms(boxes, scores, name, self.nms_thresh)[: self.detections_per_img]
        return boxes[kept], scores[kept], name[kept] + 1


def joint(logits: Tensor) -> Tensor:
    """Logits (R, 1 + names) -> P(object and name) (R, names)."""
    likely = logits.sigmoid()
    return likely[:, :1] * likely[:, 1:]


def vote(overlap: Tensor, boxes: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Where regions are and how much their names are supported: boxes (R, 4) and (R, names).

    From their overlap (R, K) with all candidates, and these: boxes (K, 4), how likely each has found what (K, names).
    """
    near = torch.where(overlap > VOTING, overlap, 0.0)
    votes = near * found.amax(1)
    return votes @ boxes / votes.sum(1, keepdim=True), (near @ found / CROWD).clamp(max=1)


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """The overlap of each box (N, 4) with the other of its row: (N)."""
    low, high = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    return both / (box_area(boxes) + box_area(others) - both).clamp(min=1e-9)


def _scores(target: Target) -> Tensor:
    """How likely each box is right: 1 unless the target says otherwise."""
    return target.get("scores", target["boxes"].new_ones(len(target["boxes"])))


def nano_rcnn(num_classes: int = 91, size: int = 412) -> FasterRCNN:
    """A Faster R-CNN whose input is fitted into size x size; label 0 is the background.

    The thresholds are those that gave the best AP for their time (see weights/README.md).
    """
    backbone, bins, hidden = NanoBackbone(), 3, 512
    model = FasterRCNN(
        backbone,
        min_size=size,
        max_size=size,
        rpn_anchor_generator=AnchorGenerator(sizes=((40,), (80,), (160,)), aspect_ratios=((1.0,),) * len(STRIDES)),
        rpn_head=LinearRPNHead(backbone.out_channels, num_classes - 1),
        rpn_pre_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=100,
        rpn_score_thresh=0.005,
        rpn_nms_thresh=0.6,
        box_roi_pool=OriginRoIAlign(bins),
        box_head=TwoMLPHead(backbone.out_channels * (1 + bins**2), hidden),
        box_predictor=FastRCNNPredictor(hidden, num_classes),
        box_score_thresh=0.002,
        box_nms_thresh=0.6,
        box_detections_per_img=100,
    )
    # FasterRCNN builds its own of each
    model.transform.__class__, model.rpn.__class__, model.roi_heads.__class__ = Transform, ScoredRPN, ScoredRoIHeads
    return model


def rename(model: FasterRCNN, names: int) -> None:
    """Forget what objects are called, and make room for so many names; what an object is stays known."""
    head, old = model.rpn.head, model.roi_heads.box_predictor
    head.names = nn.Linear(head.names.in_features, names)
    nn.init.zeros_(head.names.weight)
    nn.init.constant_(head.names.bias, SURE)  # all names are likely: regions are chosen by objectness alone
    new = model.roi_heads.box_predictor = FastRCNNPredictor(old.cls_score.in_features, 1 + names)
    with torch.no_grad():
        new.cls_score.weight[0], new.cls_score.bias[0] = old.cls_score.weight[0], old.cls_score.bias[0]
        for part in ("weight", "bias"):  # boxes move as a nameless one
            moves = getattr(old.bbox_pred, part)[:4]
            getattr(new.bbox_pred, part).copy_(torch.cat([moves] * (1 + names)))
