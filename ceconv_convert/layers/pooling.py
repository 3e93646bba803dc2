"""Pooling over space and over rotations of ``[B, C, N, H, W]`` features."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.pooling import _MaxPoolNd


class GroupMaxPool2d(_MaxPoolNd):
    """Spatial max pooling of every (channel, rotation) plane: ``[B, C, N, H, W]`` → ``[B, C, N, H', W']``.

    Takes the arguments of ``nn.MaxPool2d``; with ``return_indices`` it returns those too, in the same shape.

    >>> import torch
    >>> GroupMaxPool2d(2)(torch.zeros(1, 4, 3, 8, 8)).shape
    torch.Size([1, 4, 3, 4, 4])
    """

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        rotations = (-1, input.shape[2])
        planes = input.flatten(1, 2)  # [B, C·N, H, W]
        window = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        if self.return_indices:
            values, indices = F.max_pool2d(planes, *window, return_indices=True)
            return values.unflatten(1, rotations), indices.unflatten(1, rotations)
        features: Tensor = F.max_pool2d(planes, *window).unflatten(1, rotations)
        return features


class GroupCosetMaxPool(nn.Module):
    """Maximum over the rotations: ``[B, C, N, H, W]`` → ``[B, C, H, W]``.

    >>> import torch
    >>> GroupCosetMaxPool()(torch.zeros(1, 4, 3, 8, 8)).shape
    torch.Size([1, 4, 8, 8])
    """

    def forward(self, input: Tensor) -> Tensor:
        return input.max(dim=2).values


class GroupCosetAvgPool(nn.Module):
    """Mean over the rotations: ``[B, C, N, H, W]`` → ``[B, C, H, W]``.

    >>> import torch
    >>> GroupCosetAvgPool()(torch.zeros(1, 4, 3, 8, 8)).shape
    torch.Size([1, 4, 8, 8])
    """

    def forward(self, input: Tensor) -> Tensor:
        return input.mean(dim=2)
