"""ResNets of color-equivariant stages, of plain ones, or of both.

Lengyel et al., NeurIPS 2023, section 4. Channels a stage are arguments, not derived from a width: the
published formula rounds and cannot be inverted, and a checkpoint's tensors have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ceconv_convert.architectures.blocks import BasicBlock, Bottleneck, norm
from ceconv_convert.errors import SpecError
from ceconv_convert.layers.ceconv2d import CEConv2d
from ceconv_convert.layers.pooling import GroupCosetMaxPool, GroupMaxPool2d

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
