"""Write modules, checkpoints and tensors."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ceconv_convert.errors import OutputError, first_line
from ceconv_convert.files.provenance import KEY, Record, as_text
from ceconv_convert.files.safetensors_io import bytes_of, write_stored


def save_module(model: nn.Module, path: Path, made: Record | None = None) -> None:
    """A whole module, with its record as an attribute; ``load`` reads it back. ``model`` is not changed."""
    annotated = copy.copy(model)
    if made is not None:
        vars(annotated)[KEY] = made
    save_object(annotated, path)


def save_object(thing: object, path: Path) -> None:
    """A module, or a checkpoint, as ``torch.save`` does; ``load`` reads it back.

    Raises:
        OutputError: where it cannot be written.
    """
    try:
        with path.open("wb") as file:  # torch's own file may fail once more when it is closed
            torch.save(thing, file)
    except (OSError, RuntimeError, AttributeError, TypeError, pickle.PicklingError) as error:
        raise OutputError(f"{path.name} cannot be written: {first_line(error)}") from error


def save_tensors(state: Mapping[str, Tensor], path: Path, made: Record | None = None) -> None:
    """A state dict as safetensors, with its record in the metadata.

    Tensors that share memory are written once each: the format knows no sharing. The format's own library
    writes several entries of metadata in another order each time; here the same tensors give the same bytes.

    Raises:
        OutputError: where it cannot be written.
    """
    metadata = {"format": "pt"} | ({KEY: as_text(made)} if made else {})
    write_stored(path, state, lambda name: [bytes_of(state[name])], metadata)
