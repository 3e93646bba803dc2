"""How much memory a network takes, found out before each operator takes it.

A file of a few bytes can ask for any amount: an upsampling by 500, a padding of 5000. While the network
runs, every operator is first asked on the meta device, where tensors have shapes and no numbers, what it
would make.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ceconv_convert.errors import FOREIGN_FAILURES, InputShapeError

_LARGEST = 2**28
"""Bytes of one tensor: four times the largest of a ResNet152 of width 64 on two images of 3×224×224."""
_MOST = 2**33
"""Bytes of all tensors that one run makes: half as many again as there."""
_NUMBERS = 2 * 3 * 224 * 224
"""Whoever says a larger input asks for more."""
_EXPANDED = 100
"""Layers expand their weights once for each rotation: what the file really holds is taken so many times."""


class TooLargeError(InputShapeError):
    """What a network makes out of an input takes too much memory."""


class BoundedMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, an operator that would take too much memory is an error instead.

    Args:
        x: what the network runs on; 256 MiB a tensor and 8 GiB in all are taken for it, and for more numbers
            than two images of 3×224×224 have, more in proportion.
        held: bytes of the network's own tensors.

    Raises:
        TooLargeError: for a larger tensor, or more of them.
    """

    def __init__(self, x: Tensor, held: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        scale = max(1.0, x.numel() / _NUMBERS)
        self._largest = _LARGEST * scale + _EXPANDED * held
        self._most = _MOST * scale + _EXPANDED * held
        self._made = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, if what it makes is small enough."""
        options = dict(kwargs or {})
        for made in _made_by(func, args, options):
            size = made.untyped_storage().nbytes()
            self._made += size
            if size > self._largest:
                shape = "×".join(map(str, made.shape))
                raise TooLargeError(_too_large(f"a tensor of shape {shape}", size, self._largest))
            if self._made > self._most:
                raise TooLargeError(_too_large("tensors", self._made, self._most))
        return func(*args, **options)


def _too_large(what: str, size: int, most: float) -> str:
    return (
        f"makes {what}, {size / 2**20:.0f} MiB, of two images, and at most {most / 2**20:.0f} MiB are taken: "
        "give a smaller --input-shape"
    )


def _made_by(func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> list[Tensor]:
    """What an operator would make, as meta tensors; nothing where it does not say without numbers."""
    try:
        args, options = tree_map_only(Tensor, _without_numbers, (args, options))
        if any(argument.name == "device" for argument in func._schema.arguments):
            options["device"] = "meta"
        given = {_place(leaf) for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)}
        found = tree_leaves(func(*args, **options))
    except FOREIGN_FAILURES:
        return []
    return [leaf for leaf in found if isinstance(leaf, Tensor) and _place(leaf) not in given]


def _without_numbers(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _place(tensor: Tensor) -> object:
    return tensor.untyped_storage()._cdata
