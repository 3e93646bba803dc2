"""Layouts of features: PyTorch's ``[B, C, N, H, W]``, flat, ``[B, C·N, H, W]``, and rotation-major."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unflatten_rotations(x: Tensor, channels: int, rotations: int) -> Tensor:
    """``[B, C·N, H, W]``, or anything that lies in memory like it, → ``[B, C, N, H, W]``.

    The published layer views its input as flat, and so takes features in any of these shapes.

    >>> unflatten_rotations(torch.zeros(2, 12, 5, 5), 4, 3).shape
    torch.Size([2, 4, 3, 5, 5])
    """
    if x.dim() == 5 and x.shape[1:3] == (channels, rotations):
        return x
    flat = flatten_rotations(x)
    # Where there is no choice, the export is simpler without a reshape.
    if channels == 1:
        return flat.unsqueeze(1)
    return flat.unsqueeze(2) if rotations == 1 else torch.unflatten(flat, 1, (channels, rotations))


def take_features(x: Tensor, channels: int, rotations: int, group_major: bool) -> Tensor:
    """``[B, N·C, H, W]`` where group-major, or else ``[B, C·N, H, W]``, → ``[B, C, N, H, W]``."""
    return (from_rotation_major if group_major else unflatten_rotations)(x, channels, rotations)


def give_features(y: Tensor, group_major: bool) -> Tensor:
    """``[B, C, N, H, W]`` as a layer gives them: ``[B, N·C, H, W]`` where group-major, else as they are.

    >>> features = torch.rand(1, 2, 3, 4, 4)
    >>> torch.equal(take_features(give_features(features, True), 2, 3, True), features)
    True
    """
    return y.transpose(1, 2).flatten(1, 2) if group_major else y


def flatten_rotations(x: Tensor) -> Tensor:
    """``[B, C, N, H, W]`` → ``[B, C·N, H, W]``; flat features are left as they are."""
    return x.flatten(1, -3) if x.dim() > 4 else x


def to_rotation_major(x: Tensor, channels: int) -> Tensor:
    """``[B, C, N, H, W]`` → ``[B, N, C', H, W]``, with zeros for the C' - C further channels."""
    return F.pad(x.transpose(1, 2), (0, 0, 0, 0, 0, channels - x.shape[1]))


def from_rotation_major(y: Tensor, channels: int, rotations: int) -> Tensor:
    """``[B, N, C', H, W]`` or ``[B, N·C', H, W]`` → the first C channels, ``[B, C, N, H, W]``.

    >>> x = torch.arange(6.0).view(1, 2, 3, 1, 1)
    >>> torch.equal(from_rotation_major(to_rotation_major(x, 4), 2, 3), x)
    True
    """
    flat = y.flatten(1, -3)  # [B, N·C', H, W]
    return torch.unflatten(flat, 1, (rotations, -1))[:, :, :channels].transpose(1, 2)
