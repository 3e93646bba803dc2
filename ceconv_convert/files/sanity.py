"""Are tensors out of a file what they claim to be? A pickle can declare views of any shape on a few bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.files.safetensors_io import is_safetensors

_OVERLAP = 2
"""Tensors may look at the same numbers, as tied ones do; together they stay near the size of the file."""


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise UnreadableInputError where ``tensors`` are larger than their file, or no plain numbers."""
    if is_safetensors(path):
        return  # the format knows no views
    size = path.stat().st_size
    claimed: dict[object, int] = {}
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            raise UnreadableInputError(f"{key} is sparse, quantized or nested: only plain tensors are read")
        if torch.nn.parameter.is_lazy(tensor):
            continue
        if tensor.is_meta:
            raise UnreadableInputError(f"{key} has no numbers: it was saved from the meta device")
        numbers = tensor.numel() * tensor.element_size()
        if numbers > size:
            raise UnreadableInputError(f"{key} claims {tensor.numel()} numbers, more than the file holds")
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        claimed[place] = numbers
    if sum(claimed.values()) > _OVERLAP * size:
        raise UnreadableInputError(
            f"its tensors claim {sum(claimed.values())} bytes together, and the file has {size}"
        )
