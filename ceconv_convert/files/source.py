"""A file that is read once, whole, and identified by its SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.files.pickles import read_pickle, read_unsafe
from ceconv_convert.files.safetensors_io import is_safetensors, open_stored
from ceconv_convert.files.system import reading, stat_of


@dataclass(frozen=True, eq=False)
class Source:
    """What a file held: the object in it, or of safetensors the tensors by name.

    The SHA-256 of a sharded checkpoint is that of the index and its shards in turn.
    """

    path: Path
    sha256: str
    content: object


def read_source(path: Path, allow: Iterable[str] = (), *, unsafe: bool = False) -> Source:
    """Read a file that holds a module or weights.

    Raises:
        UnreadableInputError: where it is missing, damaged, names what is not allowed, or changes meanwhile.
    """
    files = files_of(path)
    with unchanged(files):
        digest = sha256_of(files)
        content: object
        if is_safetensors(path):
            content = {name: tensor.read() for name, tensor in open_stored(path).tensors.items()}
        else:
            content = read_unsafe(path) if unsafe else read_pickle(path, allow)
    return Source(path, digest, content)


def files_of(path: Path) -> tuple[Path, ...]:
    """The file itself, or an index and its shards; UnreadableInputError where one is no regular file."""
    stat_of(path)
    return open_stored(path).files if is_safetensors(path) else (path,)


@contextmanager
def unchanged(files: tuple[Path, ...]) -> Iterator[None]:
    """Raise UnreadableInputError where one of ``files`` is replaced or written to within the block."""
    before = [stat_of(file) for file in files]
    yield
    for file, old in zip(files, before, strict=True):
        new = stat_of(file)
        if not os.path.samestat(old, new) or (old.st_size, old.st_mtime_ns) != (new.st_size, new.st_mtime_ns):
            raise UnreadableInputError(f"{file} changed while it was read: wait until its writer is done")


def sha256_of(files: Iterable[Path]) -> str:
    """Of the bytes of all files in turn, in hexadecimal."""
    digest = hashlib.sha256()
    for path in files:
        with reading(path), path.open("rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    return digest.hexdigest()
