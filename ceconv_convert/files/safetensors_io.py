"""safetensors, tensor by tensor: single files, shards, and writing with one tensor in memory at a time.

The format: 8 bytes with the length of a JSON header, the header, the numbers. The format's own library maps
files into memory, where somebody else can change or cut them, and writes metadata in random order.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ceconv_convert.errors import OutputError, UnreadableInputError
from ceconv_convert.files.system import reading, stat_of, writing

SHARD_INDEX = ".safetensors.index.json"
_LENGTH = 8
_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    **{f"F{bits}": getattr(torch, f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": getattr(torch, f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": getattr(torch, f"uint{bits}") for bits in (8, 16, 32, 64)},
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's dtype and shape, and where its bytes are in a file."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    def on_meta(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    def read(self) -> Tensor:
        """Its numbers, in memory of their own."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        content = bytes_of(tensor)
        with reading(self.path), self.path.open("rb") as file:
            file.seek(self.start)
            if file.readinto(content) < len(content):
                raise UnreadableInputError(f"{self.path} became shorter while it was read")
        return tensor


@dataclass(frozen=True, eq=False)
class Stored:
    """The tensors of a file, or of shards and their index, with their metadata."""

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    files: tuple[Path, ...]


def is_safetensors(path: Path) -> bool:
    """Whether a name is that of a safetensors file, or of an index of shards."""
    return path.name.endswith((".safetensors", SHARD_INDEX))


def open_stored(path: Path) -> Stored:
    """What a file holds, or all the files that an index names; UnreadableInputError where one is damaged."""
    stat_of(path)
    if path.name.endswith(SHARD_INDEX):
        return _open_shards(path)
    with reading(path, " as safetensors"):
        with safe_open(path, "pt"):
            pass  # the library checks every entry of the header
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        unknown = sorted({entry["dtype"] for entry in header.values()} - _DTYPES.keys())
        if unknown:
            raise ValueError(f"it has tensors in {', '.join(unknown)}, which torch does not have")
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start = _LENGTH + length + entry["data_offsets"][0]
        tensors[name] = StoredTensor(path, _DTYPES[entry["dtype"]], tuple(entry["shape"]), start)
    return Stored(tensors, metadata, (path,))


def _open_shards(index: Path) -> Stored:
    """In the index's order; a shard that is not beside the index is refused."""
    with reading(index, " as an index of safetensors shards"):
        entries = {str(key): str(name) for key, name in json.loads(index.read_text())["weight_map"].items()}
        shards = {}
        for key, name in entries.items():
            if name != Path(name).name or name.endswith(SHARD_INDEX):
                raise ValueError(f"it names {name!r}, which is no shard that lies beside it")
            if name not in shards:
                shards[name] = open_stored(index.with_name(name))
            if key not in shards[name].tensors:
                raise ValueError(f"it names {key!r}, which is not in {name}")
    tensors = {key: shards[name].tensors[key] for key, name in entries.items()}
    metadata = {key: text for shard in shards.values() for key, text in shard.metadata.items()}
    return Stored(tensors, metadata, (index, *(index.with_name(name) for name in shards)))


def write_stored(
    path: Path,
    tensors: Mapping[str, Tensor],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write a file one tensor after the other; raises OutputError where it cannot be written.

    ``tensors`` have the shapes and dtypes to write, and may be on the meta device: ``read`` returns a tensor
    by its name, when its turn has come.
    """
    # As the format's own library orders them: wider numbers first, so that each is aligned.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    stop = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise OutputError(f"{path.name} cannot be written: safetensors has no {tensor.dtype}")
        start, stop = stop, stop + tensor.nbytes
        dtype, shape = _NAMES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    with writing(path.name), path.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH, "little") + text)
        for name in order:
            file.write(bytes_of(read(name)))


def bytes_of(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as the format has them; its own memory, if that is how they lie in it."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
