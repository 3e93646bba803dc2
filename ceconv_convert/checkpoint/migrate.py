"""Migration without any module: state dict → state dict, and file → file with everything else as it was."""

import copy
import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ceconv_convert.checkpoint import container
from ceconv_convert.checkpoint.container import Weights, find_weights
from ceconv_convert.checkpoint.optimizer import OPTIMIZER_KEYS, carry_over
from ceconv_convert.conversion.read_state_dict import Direction, LayerTensors, layers_in_state
from ceconv_convert.errors import (
    ConversionError,
    NothingToConvertError,
    StateDictError,
    UnreadableInputError,
    VerificationError,
)
from ceconv_convert.files import provenance
from ceconv_convert.files.provenance import save_object, save_tensors
from ceconv_convert.files.safetensors_io import is_safetensors, open_stored, write_stored
from ceconv_convert.files.sanity import check_tensors
from ceconv_convert.files.source import Source, files_of, read_source, sha256_of, unchanged
from ceconv_convert.files.staging import Staging
from ceconv_convert.files.system import name_of


def migrate_state_dict(
    state: Mapping[str, Tensor], to: Direction = "conv3d", *, hidden: Collection[str] | None = None
) -> OrderedDict[str, Tensor]:
    """The weights of the other form: ``convert(m).load_state_dict(migrate_state_dict(m.state_dict()))``.

    Keys keep their names and order, under any prefix; tensors keep their dtype and device; those that are
    shared stay shared, and what belongs to no color-equivariant layer is passed on as it is. A separable
    layer becomes a hidden one, and comes back as one: its factors are gone.

    Args:
        state: a state dict; it is not changed.
        to: ``conv3d``, or ``ceconv`` for the way back.
        hidden: names of the hidden layers, where their weights cannot be told from those of a plain Conv3d.

    Returns:
        The migrated state dict; without separable layers, there and back is the identity, bit for bit.

    Raises:
        StateDictError: where keys are ambiguous, or the state dict is in both forms at once; they are named.
        NothingToConvertError: where it has no layers, or is in the form ``to`` already.

    >>> from ceconv_convert import CEConv2d
    >>> state = CEConv2d(3, 3, 4, 8, 3).state_dict()
    >>> [(key, list(tensor.shape)) for key, tensor in migrate_state_dict(state).items()]
    [('weight', [8, 4, 3, 3, 3]), ('bias', [8])]
    """
    layers = layers_to_migrate(state, to, hidden)
    migrated: OrderedDict[str, Tensor] = OrderedDict(state)
    if hasattr(state, "_metadata"):
        vars(migrated)["_metadata"] = state._metadata  # module versions, which torch keeps beside the tensors
    made: dict[tuple[object, ...], Tensor] = {}
    for layer in layers:
        if layer.identity() not in made:
            weight = layer.moved(layer.effective_weight(), to)
            made[layer.identity()] = weight.clone(memory_format=torch.contiguous_format)
        migrated[f"{layer.name}weight"] = made[layer.identity()]
        migrated.pop(f"{layer.name}pointwise_weight", None)
    return migrated


def layers_to_migrate(
    state: Mapping[str, Tensor], to: Direction, hidden: Collection[str] | None = None
) -> list[LayerTensors]:
    """The layers of ``state``, whose tensors, but for color matrices, may be on the meta device."""
    if to not in ("conv3d", "ceconv"):
        raise StateDictError(f"to is 'conv3d' or 'ceconv', found {to!r}")
    layers = layers_in_state(state, hidden)
    if not layers:
        raise NothingToConvertError("the state dict has no color-equivariant layer")
    found: dict[str, list[str]] = {"conv3d": [], "ceconv": []}
    for layer in layers:
        if (form := layer.form()) is not None:
            found[form].append(layer.name.rstrip(".") or "the root")
    if all(found.values()):
        sides = "; ".join(f"{form}: {', '.join(names)}" for form, names in found.items())
        raise StateDictError(f"the state dict is in both forms at once ({sides})")
    if found[to]:
        raise NothingToConvertError(f"the state dict is in {to} form already: see {', '.join(found[to])}")
    return layers


def is_migrated(state: Mapping[str, Tensor]) -> bool:
    """Whether a lifting layer is in the form ``conv3d`` already; without one the tensors do not tell."""
    matrices = [key for key in state if key.endswith("transformation_matrix")]
    weights = [state.get(f"{key.removesuffix('transformation_matrix')}weight") for key in matrices]
    return any(weight is not None and weight.dim() == 5 and weight.shape[2] == 3 for weight in weights)


@dataclass(frozen=True, eq=False)
class Migrated:
    """A checkpoint in the other form, its layers before, and a line on each thing that is not simply kept."""

    content: Mapping[str, Any]
    weights: Weights
    layers: tuple[LayerTensors, ...]
    notes: tuple[str, ...]


def migrate_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: Direction = "conv3d",
    hidden: Collection[str] | None = None,
    allow: Iterable[str] = (),
    unsafe: bool = False,
    force: bool = False,
) -> list[str]:
    """Migrate the weights in a file, without model code; the container around them is kept.

    Epoch, hyper-parameters and other keys stay as they are. Copies of the weights (averages) go along.
    An optimizer's state moves with its weights. A separable layer loses its factors and what was remembered
    of them: it does not train on as it did, which it does from ``source`` itself with ``accelerate``. From
    safetensors to safetensors no more than a layer is in memory at a time.

    Args:
        source: a checkpoint in torch's formats, or safetensors (or the index of its shards).
        target: the file to write: ``.safetensors`` takes the weights alone, any other suffix the container.
        to: ``conv3d``, or ``ceconv`` for the way back.
        hidden: see ``migrate_state_dict``.
        allow: further classes that the file may name, ``package.module.Class``.
        unsafe: run whatever the file's pickle says.
        force: overwrite ``target``.

    Returns:
        A line on each thing that is not simply kept.

    Raises:
        UnreadableInputError: for a file that is missing, damaged or holds no weights.
        StateDictError, NothingToConvertError: as ``migrate_state_dict`` does.
        OutputError: where ``target`` exists, is a file of the source's, or cannot be written.
    """
    path, output = Path(source), Path(target)
    with Staging(files_of(path), force=force) as staging:
        staged = staging.path_for(output)
        if is_safetensors(path) and is_safetensors(output):
            notes: list[str] = []
            _stream(path, staged, to, hidden)
        else:
            found = read_source(path, allow, unsafe=unsafe)
            try:
                migrated = migrate_content(found, to, hidden)
            except UnreadableInputError as error:
                raise UnreadableInputError(f"{path}: {error}") from error
            made = _record(path, found.sha256, to, migrated.layers)
            notes = save_migrated(migrated, staged, made)
        staging.commit()
    return notes


def migrate_content(
    source: Source, to: Direction = "conv3d", hidden: Collection[str] | None = None
) -> Migrated:
    """What a file held, migrated; hidden layers may be named as in the file or as in the network."""
    weights = find_weights(source.content)
    if not isinstance(weights, Weights):
        advice = ": convert that instead" if isinstance(weights, nn.Module) else ""
        raise UnreadableInputError(f"it holds {container.describe(source.content)}, not weights{advice}")
    check_tensors(weights.tensors, source.path)
    layers = layers_to_migrate(weights.tensors, to, weights.own_names(hidden))
    keys = weights.without_prefix().keys()
    notes = []

    def change(found: Mapping[Any, Any], nest: tuple[Any, ...]) -> Mapping[Any, object]:
        path = ".".join(map(str, nest)) or "state and param_groups"
        if found.keys() >= OPTIMIZER_KEYS:
            items, note = carry_over(found, weights.tensors, layers, to)
            notes.append(f"{path}: {note}")
            return items
        if not container.is_state_dict(found):
            return {}
        average = Weights(found)
        if nest != weights.nest and not keys <= average.without_prefix().keys():
            return {}
        try:
            check_tensors(found, source.path)
            migrated = migrate_state_dict(found, to, hidden=average.own_names(hidden))
        except ConversionError as error:
            if nest == weights.nest:
                raise
            notes.append(f"{path}: kept as it is: {error}")
            return {}
        return {key: migrated.get(key, container.DROPPED) for key in found}

    content = container.replace_items(source.content, change)
    tensors = reduce(getitem, weights.nest, content)
    return Migrated(content, Weights(tensors, weights.nest), tuple(layers), tuple(notes))


def save_migrated(migrated: Migrated, path: Path, made: provenance.Record) -> list[str]:
    """Write a migrated checkpoint; a line on each thing that is not simply kept."""
    nest = migrated.weights.nest
    if is_safetensors(path):
        save_tensors(migrated.weights.tensors, path, made)
        others = [str(key) for key in migrated.content if key != nest[0]] if nest else []
        return [f"{', '.join(others)}: left out, safetensors holds tensors alone"] if others else []
    content: Any = copy.copy(migrated.content) if nest else OrderedDict(migrated.content)
    if nest:
        content[provenance.KEY] = made
    else:  # where torch keeps the versions of modules
        metadata = OrderedDict(getattr(migrated.content, "_metadata", {}))
        metadata[""] = {**metadata.get("", {}), provenance.KEY: made}
        vars(content)["_metadata"] = metadata
    save_object(content, path)
    return list(migrated.notes)


def check_same(migrated: Migrated, network: nn.Module) -> None:
    """Raise VerificationError where the migrated weights are not, bit by bit, those of ``network``."""
    expected = network.state_dict()
    for found in (migrated.weights.as_published(), migrated.weights.without_prefix()):
        if found.keys() <= expected.keys():
            different = [name for name, tensor in found.items() if not torch.equal(tensor, expected[name])]
            if different:
                names = ", ".join(different)
                raise VerificationError(f"the migrated weights differ from the network's: {names}")
            return
    raise VerificationError("the migrated weights have other names than the network's")


def _record(path: Path, sha256: str, to: Direction, layers: Iterable[LayerTensors]) -> provenance.Record:
    rows: list[dict[str, object]] = [
        {"name": layer.name.rstrip("."), "kind": layer.kind, "weight": list(layer.effective_weight().shape)}
        for layer in layers
    ]
    return provenance.record(name_of(path), sha256, to, rows, None)


def _stream(path: Path, staged: Path, to: Direction, hidden: Collection[str] | None) -> None:
    """Safetensors → safetensors, a layer at a time."""
    with unchanged(files_of(path)):
        stored = open_stored(path)
        state = {
            name: tensor.read() if name.endswith("transformation_matrix") else tensor.on_meta()
            for name, tensor in stored.tensors.items()
        }
        names = Weights(state).own_names(hidden)
        layers = {f"{layer.name}weight": layer for layer in layers_to_migrate(state, to, names)}

        def read(name: str) -> Tensor:
            if name not in layers:
                return stored.tensors[name].read()
            layer = layers[name]
            numbers: Any = {key: stored.tensors[layer.name + key].read() for key in layer.factors}
            full = replace(layer, **numbers)
            return full.moved(full.effective_weight(), to)

        made = _record(path, sha256_of(stored.files), to, layers.values())
        metadata = {**stored.metadata, provenance.KEY: provenance.as_text(made)}
        write_stored(staged, migrate_state_dict(state, to, hidden=names), read, metadata)
