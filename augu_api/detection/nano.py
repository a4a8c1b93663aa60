"""The bundled model: torchvision's FasterRCNN on a nano CSP-PAN backbone, 3.1 million parameters in all.

The backbone and its branches follow YOLOX-nano (Ge et al., 2021, arXiv:2107.08430): a focus stem, CSP-Darknet of
depth 0.33 and width 0.25 with depthwise convolutions, a PAN neck and a decoupled head, batch norm folded into the
convolutions. Each location of the three maps (strides 8, 16 and 32) holds 128 numbers, so that the RPN's head is one
linear map. Regions are pooled from every level and keep their objectness for the final score.
"""

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign, roi_align

STRIDES = 8, 16, 32


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
    """Maps -> objectness logits and box deltas, one anchor a location, by one linear map shared by the levels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cls_logits, self.bbox_pred = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, 4, 1)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [self.cls_logits(x) for x in maps], [self.bbox_pred(x) for x in maps]


class ScoredRPN(RegionProposalNetwork):  # type: ignore[misc]  # torchvision has no types
    """torchvision's RPN whose regions (R, 5) keep their objectness, 0 to 1, as a fifth column."""

    def filter_proposals(self, *args: Any) -> tuple[list[Tensor], list[Tensor]]:
        boxes, scores = super().filter_proposals(*args)
        return [torch.cat([b, s[:, None]], 1) for b, s in zip(boxes, scores, strict=True)], scores


class EveryLevelRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]
    """RoIAlign of every region on every level, joined by the maximum: an object is read where its level speaks up.

    Adaptive feature pooling (Liu et al., 2018, arXiv:1803.01534, section 3.2) with one sample a bin.
    """

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Maps, and each image's regions (R, 4 or 5) at input scale -> (sum of R, C, S, S)."""
        regions = [b[:, :4] for b in boxes]
        levels = zip(x.values(), STRIDES, strict=True)
        pooled = [roi_align(f, regions, self.output_size, 1 / stride, 1, aligned=True) for f, stride in levels]
        return reduce(torch.maximum, pooled)


class ScoredRoIHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's RoIHeads for regions with objectness: a detection's score is sqrt(P(object) P(class | region)).

    After the probabilistic two-stage detector (Zhou et al., 2021, arXiv:2103.07461). Of two nested regions with the
    same class score, the one that the RPN took for an object wins.
    """

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        objectness = torch.cat([p[:, 4] for p in proposals])
        joint = class_logits.log_softmax(1)[:, 1:] + objectness.log()[:, None]
        background = torch.log1p(-joint.exp().sum(1, keepdim=True).clamp(max=1 - 1e-6))
        logits, boxes = torch.cat([background, joint], 1), [p[:, :4] for p in proposals]
        boxes, scores, labels = super().postprocess_detections(logits, box_regression, boxes, image_shapes)
        return boxes, [s.sqrt() for s in scores], labels


def nano_rcnn(num_classes: int = 91, size: int = 416) -> FasterRCNN:
    """A Faster R-CNN whose input is fitted into size x size; label 0 is the background.

    The thresholds are those that gave the best AP for their time (see weights/README.md).
    """
    backbone, bins, hidden = NanoBackbone(), 5, 512
    model = FasterRCNN(
        backbone,
        min_size=size,
        max_size=size,
        rpn_anchor_generator=AnchorGenerator(sizes=((40,), (80,), (160,)), aspect_ratios=((1.0,),) * len(STRIDES)),
        rpn_head=LinearRPNHead(backbone.out_channels),
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=50,
        rpn_score_thresh=0.05,
        rpn_nms_thresh=0.5,
        box_roi_pool=EveryLevelRoIAlign(["0", "1", "2"], bins, 1),
        box_head=TwoMLPHead(backbone.out_channels * bins**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, num_classes),
        box_score_thresh=0.02**2,  # compared before the square root
        box_detections_per_img=100,
    )
    model.rpn.__class__, model.roi_heads.__class__ = ScoredRPN, ScoredRoIHeads  # FasterRCNN builds its own of each
    return model
