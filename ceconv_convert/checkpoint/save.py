"""Write a converted model."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ceconv_convert.errors import OutputError, first_line


def save_module(model: nn.Module, path: Path) -> None:
    """The whole module, as ``torch.save`` does; ``load`` reads it back.

    Raises:
        OutputError: where it cannot be written.
    """
    try:
        torch.save(model, path)
    except (OSError, RuntimeError, AttributeError, TypeError, pickle.PicklingError) as error:
        raise OutputError(f"the module cannot be written to {path}: {first_line(error)}") from error


def save_tensors(model: nn.Module, path: Path) -> None:
    """The state dict as safetensors.

    Tensors that share memory are written once each: the format knows no sharing.

    Raises:
        OutputError: where it cannot be written.
    """
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in seen else tensor.contiguous()
        seen.add(storage)
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise OutputError(f"the state dict cannot be written to {path}: {first_line(error)}") from error
