"""The file of a model: read once, whole, identified by its SHA-256, and without running what it says.

Besides the zip format there is the one before torch 1.6: five pickles (a magic number, a version, the system,
the object, the keys of its storages), then the numbers. Of that one, whole modules are not read: it wraps
every module class together with its source code.
"""

import hashlib
import io
import os
import pickletools
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.files.class_names import Made, allowed_by_user, resolve, restore_classes, stand_in
from ceconv_convert.files.safetensors_io import is_safetensors, open_stored
from ceconv_convert.files.system import reading, stat_of

_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_LEGACY_PICKLES, _LEGACY_OBJECT = 5, 3
_CHUNK = 2**20
_PROGRAMS = {
    "constants.pkl": "a TorchScript program of torch.jit.save",
    "archive_format": "a program of torch.export.save",
    "serialized_exported_program.json": "a program of torch.export.save",
}
"""Files without module classes, by an entry that only they have."""
_DESCRIPTOR, _DESCRIPTOR_SIZES = b"PK\x07\x08", (16, 24)
"""What may follow an entry: this signature, the checksum and both sizes, in 32 or 64 bits."""
_KIND = " as a torch file"
_RESAVE = "torch.save(torch.load(path, weights_only=False), path)"


@dataclass(frozen=True, eq=False)
class Source:
    """What a file held: the object in it, or of safetensors the tensors by name."""

    path: Path
    sha256: str
    content: object


def read_source(path: Path, allow: Iterable[str] = (), *, unsafe: bool = False) -> Source:
    """Read a file of a module or weights; UnreadableInputError where it cannot be read, or not safely."""
    files = files_of(path)
    with unchanged(files):
        digest = sha256_of(files)
        content: object
        if is_safetensors(path):
            content = {name: tensor.read() for name, tensor in open_stored(path).tensors.items()}
        else:
            content = read_pickle(path, allow, unsafe=unsafe)
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
    """Of the bytes of all files in turn, as of an index and its shards; in hexadecimal."""
    digest = hashlib.sha256()
    for path in files:
        with reading(path), path.open("rb") as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
    return digest.hexdigest()


def read_pickle(path: Path, allow: Iterable[str] = (), *, unsafe: bool = False) -> object:
    """The object in a torch file, on the CPU; ``allow`` names further classes that the file may name."""
    file = _open(path, unsafe=unsafe)
    if unsafe:
        return _load(file, path, weights_only=False)
    with reading(path, _KIND):
        names = _names_in(file)
    allowed = allowed_by_user(allow)
    classes = {name: allowed.get(name) or resolve(name) for name in names}
    known = {name: cls for name, cls in classes.items() if cls is not None}
    if refused := sorted(classes.keys() - known.keys()):
        flags = " ".join(f"--allow {name}" for name in refused)
        resave = f"; if it is a whole module, first re-save it with a current torch, {_RESAVE}"
        advice = f"pass {flags}{resave if _is_legacy(file) else ''}"
        raise UnreadableInputError(
            f"{path} names what is not allowed ({', '.join(refused)}); nothing of it was run. If you trust "
            f"it, and these are classes that are installed here, {advice}"
        )
    if _is_legacy(file) and any(issubclass(cls, nn.Module) for cls in known.values()):
        raise UnreadableInputError(
            f"{path} is a whole module in torch's format from before 1.6, of which only weights are read: if "
            f"you trust it, re-save it with a current torch, {_RESAVE}, or pass --unsafe"
        )
    made: list[Made] = []
    pairs: list[Any] = [(stand_in(cls, name, made), name) for name, cls in known.items()]
    with torch.serialization.safe_globals(pairs):
        found = _load(file, path, weights_only=True)
    restore_classes(made)
    return found


def _load(file: io.BytesIO, path: Path, *, weights_only: bool) -> object:
    with reading(path, _KIND), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch checks sparse tensors, say
        found: object = torch.load(file, map_location="cpu", weights_only=weights_only)
        if _is_legacy(file) and file.read(1):
            # A storage may have been read short, and left with uninitialized memory.
            raise ValueError("bytes follow the last of its storages")
    return found


def _open(path: Path, *, unsafe: bool) -> io.BytesIO:
    """The bytes that torch loads: of the zip format those that were checked, else all."""
    with reading(path, _KIND):
        with path.open("rb") as file:
            head = file.read(len(_LEGACY))
        if head.startswith(b"PK"):
            if not zipfile.is_zipfile(path):
                raise ValueError("it is a truncated or damaged zip archive")
            return _checked_archive(path)
        if not head:
            raise ValueError("it is empty")
        if head != _LEGACY and not unsafe:
            onnx = ": an .onnx file has no layers left to convert; MODEL --verify-only checks it"
            hint = onnx if path.suffix == ".onnx" else ""
            raise ValueError(f"it is not a file that torch.save writes{hint}")
        whole = io.BytesIO(path.read_bytes())
        if _is_legacy(whole):
            # A storage that the list of keys leaves out would keep uninitialized memory.
            keys = [(code.name, text) for code, text, _ in pickletools.genops(_legacy_pickles(whole)[-1])]
            texts = [text for name, text in keys if name == "BINUNICODE"]
            if len(set(texts)) < len(texts) or any(name in ("BINGET", "LONG_BINGET") for name, _ in keys):
                raise ValueError("it names a storage twice")
        return whole


def _checked_archive(path: Path) -> io.BytesIO:
    """An archive made here of the entries whose bytes are as they were written.

    torch's reader compares no checksum, and of an entry that is flagged as a folder it returns uninitialized
    memory. So it is given these names and bytes, and never sees the directory of the file itself.
    """
    whole = io.BytesIO()
    with path.open("rb") as file, zipfile.ZipFile(file) as found, zipfile.ZipFile(whole, "w") as made:
        folder = found.namelist()[0].partition("/")[0] + "/"
        program = next((what for name, what in _PROGRAMS.items() if folder + name in found.namelist()), None)
        if program is not None:
            advice = "save the module that it was made from, or its state dict, with torch.save"
            raise ValueError(f"it is {program}, which has no modules any more: {advice}")
        entries = sorted(found.infolist(), key=lambda entry: entry.header_offset)
        has_checksums = any(entry.CRC for entry in entries)  # torch can be told to write none
        if entries[0].header_offset != 0:
            raise ValueError("it does not begin with an entry of its archive")
        seen = set()
        for entry, following in zip_longest(entries, entries[1:]):
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ValueError(f"it has a compressed entry {entry.filename!r}: torch.save has none")
            if entry.filename.lower() in seen:  # torch's reader ignores case
                raise ValueError(f"it has the entry {entry.filename!r} twice")
            seen.add(entry.filename.lower())
            if not has_checksums:
                del entry.CRC  # zipfile compares it wherever there is one
            record = zipfile.ZipInfo(f"archive/{entry.filename.removeprefix(folder)}")
            record.file_size = entry.file_size
            is_record = entry.filename.startswith(folder) and entry.filename != folder
            copy = made.open(record, "w") if is_record else io.BytesIO()
            with copy as target, found.open(entry) as content:
                shutil.copyfileobj(content, target, _CHUNK)
            between = file.read((following.header_offset if following else found.start_dir) - file.tell())
            if between and not (between.startswith(_DESCRIPTOR) and len(between) in _DESCRIPTOR_SIZES):
                raise ValueError(f"its entry {entry.filename!r} is not where its directory says, or as large")
    whole.seek(0)
    return whole


def _is_legacy(file: io.BytesIO) -> bool:
    return file.getbuffer()[: len(_LEGACY)] == _LEGACY


def _legacy_pickles(file: io.BytesIO) -> list[bytes]:
    ends = [file.seek(0)]
    for _ in range(_LEGACY_PICKLES):
        for _instruction in pickletools.genops(file):
            pass
        ends.append(file.tell())
    file.seek(0)
    return [file.getvalue()[start:end] for start, end in pairwise(ends)]


def _names_in(file: io.BytesIO) -> list[str]:
    """Every class and function that the object's pickle names and torch does not allow by itself."""
    archive = file
    if _is_legacy(file):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as made:
            made.writestr("archive/data.pkl", _legacy_pickles(file)[_LEGACY_OBJECT])
            made.writestr("archive/version", "3")
        archive.seek(0)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(archive)
    file.seek(0)
    return names
