"""How much memory a network takes, known before each operator takes it.

A file of a few bytes can demand any amount: an upsampling by 500, a padding of 5000. While the network runs,
every operator runs first on the meta device, where tensors have shapes and no numbers.
"""

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
_IMAGES = 2
_NUMBERS = _IMAGES * 3 * 224 * 224
"""Inputs of more images or more numbers may take more memory, in proportion."""
_EXPANDED = 100
"""Layers expand their weights once a rotation: the bytes of the network's own tensors, so many times, too."""


class TooLargeError(InputShapeError):
    """A network takes too much memory on an input."""


class BoundedMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, an operator that would take too much memory raises TooLargeError instead.

    ``x`` is the network's input, and its own tensors take ``held`` bytes.
    """

    def __init__(self, x: Tensor, held: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        scale = max(1.0, x.numel() / _NUMBERS, len(x) / _IMAGES)
        self._largest = _LARGEST * scale + _EXPANDED * held
        self._most = _MOST * scale + _EXPANDED * held
        self._made = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, if its results are small enough."""
        options = dict(kwargs or {})
        for made in _results_on_meta(func, args, options):
            size = made.untyped_storage().nbytes()
            self._made += size
            _check(f"a tensor of shape {'×'.join(map(str, made.shape))}", size, self._largest)
            _check("tensors", self._made, self._most)
        return func(*args, **options)


def _check(what: str, size: int, most: float) -> None:
    if size > most:
        raise TooLargeError(
            f"makes {what}, {size / 2**20:.0f} MiB, and at most {most / 2**20:.0f} MiB are "
            "taken: give a smaller --input-shape"
        )


def _results_on_meta(func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> list[Tensor]:
    """The new tensors that an operator would make; none where that depends on numbers."""

    def on_meta(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    try:
        args, options = tree_map_only(Tensor, on_meta, (args, options))
        if any(argument.name == "device" for argument in func._schema.arguments):
            options["device"] = "meta"
        old = [leaf.untyped_storage()._cdata for leaf in _tensors((args, options))]
        results = _tensors(func(*args, **options))
    except FOREIGN_FAILURES:
        return []
    return [result for result in results if result.untyped_storage()._cdata not in old]


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
