"""safetensors, tensor by tensor: whole files, shards, and writing without holding more than one tensor.

Files are read, not mapped into memory: a mapped file that somebody changes or shortens meanwhile changes the
tensors, or ends the process. The format: 8 bytes with the length of a JSON header, the header, the numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ceconv_convert.errors import OutputError, UnreadableInputError, first_line
from ceconv_convert.files.system import stat_of

SHARD_INDEX = ".safetensors.index.json"
_LENGTH = 8
_CHUNK = 2**24
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "C64": torch.complex64,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and what it looks like."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    def read(self) -> Tensor:
        """Its numbers, in memory of their own."""
        if self.start == self.stop:
            return torch.empty(self.shape, dtype=self.dtype)
        content = bytearray(self.stop - self.start)
        place = memoryview(content)
        for piece in self.chunks():
            place[: len(piece)] = piece
            place = place[len(piece) :]
        return torch.frombuffer(content, dtype=self.dtype).reshape(self.shape)

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, a piece at a time."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                left = self.stop - self.start
                while left:
                    piece = file.read(min(left, _CHUNK))
                    if not piece:
                        raise UnreadableInputError(f"{self.path} became shorter while it was read")
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def empty(self) -> Tensor:
        """A tensor of its shape and dtype, without numbers."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


@dataclass(frozen=True, eq=False)
class Stored:
    """The tensors of a file, or of shards and their index, and what is written beside them."""

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    files: tuple[Path, ...]

    def read(self) -> dict[str, Tensor]:
        """All of them."""
        return {name: tensor.read() for name, tensor in self.tensors.items()}


def is_safetensors(path: Path) -> bool:
    """Whether a name is that of a safetensors file, or of an index of shards."""
    return path.name.endswith((".safetensors", SHARD_INDEX))


def open_stored(path: Path) -> Stored:
    """What a file holds, or all the files that an index names.

    Raises:
        UnreadableInputError: where it is missing or damaged.
    """
    return _open_shards(path) if path.name.endswith(SHARD_INDEX) else _open_file(path)


def _open_file(path: Path) -> Stored:
    stat_of(path)
    try:
        with safe_open(path, "pt"):
            pass  # the library has looked at every entry of the header
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            header = json.loads(file.read(length))
    except OSError as error:
        raise _unreadable(path, error) from error
    except (SafetensorError, ValueError) as error:
        raise UnreadableInputError(f"{path} cannot be read as safetensors: {first_line(error)}") from error
    metadata = header.pop("__metadata__", {})
    unknown = sorted({entry["dtype"] for entry in header.values()} - _DTYPES.keys())
    if unknown:
        raise UnreadableInputError(f"{path} has tensors in {', '.join(unknown)}, which torch does not have")
    begin = _LENGTH + length
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        tensors[name] = StoredTensor(path, dtype, shape, begin + start, begin + stop)
    return Stored(tensors, metadata, (path,))


def _open_shards(index: Path) -> Stored:
    """In the index's order; a shard that lies elsewhere is refused."""
    stat_of(index)
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        entries = {str(key): str(name) for key, name in weight_map.items()}
    except OSError as error:
        raise _unreadable(index, error) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableInputError(
            f"{index} is no index of safetensors shards: {first_line(error)}"
        ) from error
    shards: dict[str, Stored] = {}
    for name in dict.fromkeys(entries.values()):
        if name != Path(name).name:
            raise UnreadableInputError(f"{index} names the shard {name!r}, which does not lie beside it")
        shards[name] = _open_file(index.with_name(name))
    missing = [key for key, name in entries.items() if key not in shards[name].tensors]
    if missing:
        raise UnreadableInputError(f"{index} names {missing[0]!r}, which is not in {entries[missing[0]]}")
    tensors = {key: shards[name].tensors[key] for key, name in entries.items()}
    metadata = {key: text for shard in shards.values() for key, text in shard.metadata.items()}
    return Stored(tensors, metadata, (index, *(index.with_name(name) for name in shards)))


def write_stored(
    path: Path,
    tensors: Mapping[str, Tensor],
    chunks: Callable[[str], Iterable[bytes | memoryview]],
    metadata: Mapping[str, str],
) -> None:
    """Write a file one tensor after the other.

    Args:
        path: the file.
        tensors: of the shapes and dtypes to write; the numbers are not looked at.
        chunks: gives the bytes of a tensor by its name, when its turn has come.
        metadata: texts beside the tensors.

    Raises:
        OutputError: where it cannot be written.
    """
    foreign = sorted(name for name, tensor in tensors.items() if tensor.dtype not in _NAMES)
    if foreign:
        raise OutputError(f"{path.name} cannot be written: safetensors has no {tensors[foreign[0]].dtype}")
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    stop = 0
    # As the format's own library orders them: numbers of more bytes first, so that each is aligned.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    for name in order:
        start, tensor = stop, tensors[name]
        stop += math.prod(tensor.shape) * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(_LENGTH, "little"))
            file.write(text)
            for name in order:
                for piece in chunks(name):
                    file.write(piece)
    except OSError as error:
        raise OutputError(f"{path.name} cannot be written: {error.strerror}") from error


def bytes_of(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as the format has them."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _unreadable(path: Path, error: OSError) -> UnreadableInputError:
    return UnreadableInputError(f"{path} cannot be read: {error.strerror or first_line(error)}")
