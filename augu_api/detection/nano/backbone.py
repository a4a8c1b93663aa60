"""The backbone: feature maps of a photo at three scales.

It follows YOLOX-nano (Ge et al., 2021, arXiv:2107.08430): a focus stem, CSP-Darknet of depth 0.33 and width 0.25 with
depthwise convolutions, a PAN neck and a decoupled head, with batch norm folded into the convolutions. The attributes'
names are the keys of the weights.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

STRIDES = 8, 16, 32


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its SiLU: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    return nn.Sequential(layer, nn.SiLU(inplace=True))


def depthwise(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A depthwise separable 3 x 3 convolution."""
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
        """The same as a single 6 x 6 convolution and its activation, which onnxruntime runs faster."""
        layer: Any = self.conv[0]
        merged = nn.Conv2d(3, layer.out_channels, 6, 2, 2)
        corners = layer.weight.detach().unflatten(1, (2, 2, 3))  # (outputs, right, bottom, 3, 3, 3)
        weight = corners.permute(0, 3, 4, 2, 5, 1)  # (outputs, 3, rows, bottom, columns, right)
        merged.weight, merged.bias = nn.Parameter(weight.flatten(4).flatten(2, 3)), layer.bias
        return nn.Sequential(merged, self.conv[1])


class Bottleneck(nn.Module):
    """Two convolutions, with a residual connection if `shortcut`."""

    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.a, self.b, self.shortcut = conv(channels, channels), depthwise(channels, channels), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        return x + y if self.shortcut else y


class CSP(nn.Module):
    """A cross stage partial block (Wang et al., 2020, arXiv:1911.11929): one half goes through `depth` bottlenecks."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, *, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.a, self.b, self.c = conv(inputs, half), conv(inputs, half), conv(2 * half, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut=shortcut) for _ in range(depth)))

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
    """A decoupled head, a path for classes and one for boxes: (N, inputs, H, W) -> (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # classification, box and merging path
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
