"""Residual blocks, color-equivariant for more than one rotation and plain for one.

He et al., CVPR 2016, with layers of Lengyel et al., NeurIPS 2023, section 4. Attributes are registered in the
order of the published checkpoints: norms, shortcut, convolutions.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.layers.ceconv2d import CEConv2d


def convolution(
    rotations: int, in_channels: int, out_channels: int, size: int, stride: int = 1, separable: bool = False
) -> nn.Conv2d:
    """A layer without bias whose output keeps the size of its input, stride apart."""
    arguments: dict[str, Any] = {"stride": stride, "padding": size // 2, "bias": False}
    if rotations == 1:
        return nn.Conv2d(in_channels, out_channels, size, **arguments)
    return CEConv2d(rotations, rotations, in_channels, out_channels, size, separable=separable, **arguments)


def norm(rotations: int, channels: int) -> nn.BatchNorm2d | nn.BatchNorm3d:
    """Batch norm of features with or without rotations."""
    return nn.BatchNorm2d(channels) if rotations == 1 else nn.BatchNorm3d(channels)


def shortcut(rotations: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Nothing where shapes agree; else a 1×1 layer, never separable, and its norm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    layer = convolution(rotations, in_channels, out_channels, 1, stride)
    return nn.Sequential(layer, norm(rotations, out_channels))


class BasicBlock(nn.Module):
    """Two 3×3 layers around a shortcut: ``[B, in, (N,) H, W]`` → ``[B, planes, (N,) H', W']``."""

    expansion = 1

    def __init__(
        self, in_planes: int, planes: int, stride: int = 1, rotations: int = 1, separable: bool = False
    ) -> None:
        super().__init__()
        self.bn1 = norm(rotations, planes)
        self.bn2 = norm(rotations, planes)
        self.shortcut = shortcut(rotations, in_planes, planes, stride)
        self.conv1 = convolution(rotations, in_planes, planes, 3, stride, separable)
        self.conv2 = convolution(rotations, planes, planes, 3, separable=separable)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 layers around a shortcut: ``[B, in, (N,) H, W]`` → ``[B, 4·planes, (N,) H', W']``."""

    expansion = 4

    def __init__(
        self, in_planes: int, planes: int, stride: int = 1, rotations: int = 1, separable: bool = False
    ) -> None:
        super().__init__()
        out = self.expansion * planes
        self.bn1 = norm(rotations, planes)
        self.bn2 = norm(rotations, planes)
        self.bn3 = norm(rotations, out)
        self.shortcut = shortcut(rotations, in_planes, out, stride)
        self.conv1 = convolution(rotations, in_planes, planes, 1, separable=separable)
        self.conv2 = convolution(rotations, planes, planes, 3, stride, separable)
        self.conv3 = convolution(rotations, planes, out, 1, separable=separable)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.shortcut(x))
