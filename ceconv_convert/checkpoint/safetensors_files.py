"""safetensors in, whole or in shards."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ceconv_convert.errors import UnreadableInputError, first_line


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file.

    Raises:
        UnreadableInputError: where it is missing or damaged.
    """
    try:
        return load_file(path)
    except OSError as error:
        raise UnreadableInputError(f"{path} cannot be read: {error.strerror or first_line(error)}") from error
    except SafetensorError as error:
        raise UnreadableInputError(f"{path} cannot be read as safetensors: {first_line(error)}") from error


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all the files that an index names, in the index's order.

    Raises:
        UnreadableInputError: where the index or a shard is missing or damaged, or a shard lies elsewhere.
    """
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        entries = {str(key): str(name) for key, name in weight_map.items()}
    except OSError as error:
        raise UnreadableInputError(f"{index} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnreadableInputError(
            f"{index} is no index of safetensors shards: {first_line(error)}"
        ) from error
    shards: dict[str, dict[str, Tensor]] = {}
    for name in dict.fromkeys(entries.values()):
        if name != Path(name).name:
            raise UnreadableInputError(f"{index} names the shard {name!r}, which does not lie beside it")
        shards[name] = read_safetensors(index.with_name(name))
    missing = [key for key, name in entries.items() if key not in shards[name]]
    if missing:
        raise UnreadableInputError(f"{index} names {missing[0]!r}, which is not in {entries[missing[0]]}")
    return {key: shards[name][key] for key, name in entries.items()}
