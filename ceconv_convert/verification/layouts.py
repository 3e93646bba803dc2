"""The layouts in which a graph may hold a step's features.

As they are; flattened otherwise; with the rotations outermost, and then with further channels behind those
that there are: ``[B, N, C', H, W]`` or ``[B, N·C', H, W]`` for ``[B, C, N, H, W]``, ``[B, C', H, W]`` for
``[B, C, H, W]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_FEATURES = 5
_PLANES = 4
_FURTHER = 16
"""As many channels as a graph may fill up, less one."""


class Layouts:
    """The values of a graph, by what features they may hold."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._by_size: dict[int, list[Tensor]] = {}
        self._by_image: dict[tuple[int, ...], list[Tensor]] = {}
        for value in values:
            self._by_size.setdefault(value.numel(), []).append(value)
            if value.dim() in (_PLANES, _FEATURES):
                self._by_image.setdefault(_image(value.shape), []).append(value)

    def holding(self, shape: torch.Size) -> Iterator[Tensor]:
        """Every value that may hold features of ``shape``, flattened in the order of these."""
        for value in self._by_size.get(shape.numel(), ()):
            yield value.flatten()
        if len(shape) not in (_PLANES, _FEATURES):
            return
        channels, rotations = shape[1], shape[2] if len(shape) == _FEATURES else 1
        for value in self._by_image.get(_image(shape), ()):
            planes = value.flatten(1, -3) if value.dim() == _FEATURES else value
            aligned, rest = divmod(planes.shape[1], rotations)
            if value.dim() == _FEATURES and value.shape[1] != rotations:
                continue
            if not rest and channels <= aligned < channels + _FURTHER:
                split = torch.unflatten(planes, 1, (rotations, aligned))[:, :, :channels]
                yield split.transpose(1, 2).flatten()


def _image(shape: torch.Size) -> tuple[int, ...]:
    return (shape[0], shape[-2], shape[-1])
