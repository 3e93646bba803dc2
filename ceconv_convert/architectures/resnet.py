"""ResNets of color-equivariant stages, of plain ones, or of both, and their residual blocks.

He et al., CVPR 2016, with layers of Lengyel et al., NeurIPS 2023, section 4. Attributes are registered in the
order of the published checkpoints: norms, shortcut, convolutions. A number of rotations of one makes a plain
layer. Channels a stage are arguments, not derived from a width: the published formula rounds and cannot be
inverted, and a checkpoint's tensors have them.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.errors import SpecError
from ceconv_convert.layers.ceconv2d import CEConv2d
from ceconv_convert.layers.pooling import GroupCosetMaxPool, GroupMaxPool2d


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


_STAGE_STRIDES = (1, 2, 2, 2)
Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """A ResNet: ``[B, 3, H, W]`` → ``[B, classes]``.

    Four stages have a 7×7 stem and pooling for large images, three a 3×3 stem for small ones. ``num_blocks``
    and ``channels``, those before a bottleneck's expansion, are of each stage; ``rotations`` N of each or of
    all, where 1 makes a plain stage. The rotations end in a maximum if ``groupcosetmaxpool``, else flattened
    into channels. The lifting layer's matrix is trained if ``learnable``. ``nopool`` returns the last stage's
    features instead. Raises SpecError where the arguments make no network.
    """

    def __init__(
        self,
        block: Block,
        num_blocks: Sequence[int],
        channels: Sequence[int],
        num_classes: int = 1000,
        rotations: int | Sequence[int] = 1,
        groupcosetmaxpool: bool = False,
        learnable: bool = False,
        separable: bool = False,
        nopool: bool = False,
    ) -> None:
        super().__init__()
        stages = len(num_blocks)
        if stages not in (3, 4) or len(channels) != stages:
            found = f"found {stages} stages and channels {list(channels)}"
            raise SpecError(f"a ResNet has 3 or 4 stages with channels for each, {found}")
        each = [rotations] * stages if isinstance(rotations, int) else rotations
        first, in_planes = each[0], channels[0]
        size, stride = (7, 2) if stages == 4 else (3, 1)
        stem: dict[str, Any] = {"stride": stride, "padding": 1, "bias": False}
        self.nopool = nopool
        self.conv1 = (
            nn.Conv2d(3, in_planes, size, **stem)
            if first == 1
            else CEConv2d(1, first, 3, in_planes, size, learnable, **stem)
        )
        self.bn1 = norm(first, in_planes)
        self.maxpool: nn.Module = nn.Identity()
        if stages == 4:
            pool = nn.MaxPool2d if first == 1 else GroupMaxPool2d
            self.maxpool = pool(kernel_size=3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.layers = nn.ModuleList()
        for count, planes, n, stride in zip(num_blocks, channels, each, _STAGE_STRIDES, strict=False):
            blocks = []
            for index in range(count):
                blocks.append(block(in_planes, planes, stride if index == 0 else 1, n, separable))
                in_planes = planes * block.expansion
            self.layers.append(nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.cosetpoollayer = GroupCosetMaxPool() if groupcosetmaxpool else None
        self.linear = nn.Linear(in_planes if groupcosetmaxpool else in_planes * each[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.layers:
            x = stage(x)
        return x if self.nopool else self.head(x)

    def drop_rotations(self, x: Tensor) -> Tensor:
        """``[B, C, N, H, W]`` → ``[B, C, H, W]`` by coset pooling, or ``[B, C·N, H, W]`` without."""
        if x.dim() == 4:
            return x
        features: Tensor = x.flatten(1, 2) if self.cosetpoollayer is None else self.cosetpoollayer(x)
        return features

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.avgpool(self.drop_rotations(x)).flatten(1))
        return logits


class HybridResNet(ResNet):
    """A ResNet whose first ``ce_stages`` stages are color-equivariant, and whose others are plain.

    Takes the arguments of ``ResNet`` but ``nopool``. Between the two kinds the rotations are coset-pooled.
    Raises SpecError where the arguments make no network.
    """

    def __init__(
        self,
        block: Block,
        num_blocks: Sequence[int],
        channels: Sequence[int],
        ce_stages: int,
        num_classes: int = 1000,
        rotations: int = 1,
        groupcosetmaxpool: bool = True,
        learnable: bool = False,
        separable: bool = False,
    ) -> None:
        stages = len(num_blocks)
        if not 1 <= ce_stages <= stages and rotations > 1:
            raise SpecError(f"ce_stages is 1 to {stages}, found {ce_stages}")
        if ce_stages < stages and not groupcosetmaxpool:
            raise SpecError("a network with plain stages after color-equivariant ones needs coset pooling")
        each = [rotations if stage < ce_stages else 1 for stage in range(stages)]
        super().__init__(
            block, num_blocks, channels, num_classes, each, groupcosetmaxpool, learnable, separable
        )
        self.ce_stages = [stage < ce_stages for stage in range(stages)] + [False]

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for index, stage in enumerate(self.layers):
            x = stage(x)
            if not self.ce_stages[index + 1]:
                x = self.drop_rotations(x)
        return self.head(x)
