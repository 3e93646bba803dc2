"""Writing modules, checkpoints and tensors; each raises OutputError where the file cannot be written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ceconv_convert.files.provenance import KEY, Record, as_text
from ceconv_convert.files.safetensors_io import bytes_of, write_stored
from ceconv_convert.files.system import writing


def save_module(model: nn.Module, path: Path, made: Record | None = None) -> None:
    """A whole module, with its record as an attribute; ``model`` itself is not changed."""
    annotated = copy.copy(model)
    if made is not None:
        vars(annotated)[KEY] = made
    save_object(annotated, path)


def save_object(thing: object, path: Path) -> None:
    """A module or a checkpoint, as ``torch.save`` does."""
    # torch's own file object may fail a second time when it is closed.
    with writing(path.name), path.open("wb") as file:
        torch.save(thing, file)


def save_tensors(state: Mapping[str, Tensor], path: Path, made: Record | None = None) -> None:
    """A state dict as safetensors, with its record in the metadata; tied tensors are written once each.

    The same tensors and record give the same bytes: the format's own library writes metadata in random order.
    """
    metadata = {"format": "pt"} | ({KEY: as_text(made)} if made else {})
    write_stored(path, state, lambda name: bytes_of(state[name]), metadata)
