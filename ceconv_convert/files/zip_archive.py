"""torch's zip archives, checked entry by entry and written anew.

torch's reader compares no checksum, and reads some damaged fields otherwise than Python's: of an entry that
is flagged as a folder it reads nothing and keeps whatever the memory held. So torch is given an archive made
here, of the names and bytes that were checked; the directory of the file itself it never sees.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from ceconv_convert.errors import UnreadableInputError

MAGIC = b"PK\x03\x04"
_CHUNK = 2**20
_LOCAL = struct.Struct("<4s22xHH")
"""An entry's own header: a signature, what the directory says, the lengths of its name and extra field."""
_DESCRIPTORS = (struct.Struct("<4s3L"), struct.Struct("<4sL2Q"))
"""What may follow an entry's bytes: a signature, the checksum, the sizes."""
_DESCRIPTOR = b"PK\x07\x08"
_UTF_8 = 0x800

_FOREIGN = {
    "constants.pkl": "a TorchScript program of torch.jit.save",
    "archive_format": "a program of torch.export.save",
    "serialized_exported_program.json": "a program of torch.export.save",
}
"""Programs without their classes, by an entry that they alone have."""


def checked_archive(path: Path) -> io.BytesIO:
    """The archive in a file, with nothing but the entries whose bytes are as they were written.

    Raises:
        UnreadableInputError: where it is damaged, compressed, or holds a program.
        zipfile.BadZipFile, ValueError, struct.error, OSError: where it is damaged otherwise.
    """
    whole = io.BytesIO()
    with path.open("rb") as file, zipfile.ZipFile(file) as found, zipfile.ZipFile(whole, "w") as made:
        entries = sorted(found.infolist(), key=lambda entry: entry.header_offset)
        names = _record_names(found, path)
        has_checksums = any(entry.CRC for entry in entries)  # torch can be told to write none
        stops = [*(entry.header_offset for entry in entries), found.start_dir]
        if stops[0] != 0:
            raise UnreadableInputError(f"{path} is damaged: its archive does not begin with an entry")
        for entry, (_, stop) in zip(entries, pairwise(stops), strict=True):
            _seek_content(file, entry)
            name = names.get(entry.filename)
            checksum = 0
            record = zipfile.ZipInfo(f"archive/{name}")
            record.file_size = entry.file_size
            with made.open(record, "w") if name else io.BytesIO() as target:
                for piece in _pieces(file, entry.file_size):
                    checksum = zlib.crc32(piece, checksum)
                    target.write(piece)
            if has_checksums and checksum != entry.CRC:
                raise UnreadableInputError(f"{path} is damaged: Bad CRC-32 for file {entry.filename!r}")
            if not _is_descriptor(file, entry, stop - file.tell()):
                raise UnreadableInputError(
                    f"{path} is damaged: {entry.filename!r} is not where, or as large as, its directory says"
                )
    whole.seek(0)
    return whole


def _record_names(found: zipfile.ZipFile, path: Path) -> dict[str, str]:
    """Entries in the archive's folder, that of its first entry, with their names in it."""
    folder = found.namelist()[0].partition("/")[0] + "/" if found.namelist() else ""
    names = {name: name.removeprefix(folder) for name in found.namelist() if name.startswith(folder)}
    program = next((what for name, what in _FOREIGN.items() if name in names.values()), None)
    if program is not None:
        raise UnreadableInputError(
            f"{path} is {program}, whose layers are no modules any more: save the module that it was made "
            "from, or its state dict, with torch.save"
        )
    seen = set()
    for entry in found.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UnreadableInputError(
                f"{path} has a compressed entry {entry.filename!r}: torch.save has none"
            )
        if entry.filename.lower() in seen:  # torch's reader takes upper and lower case for the same
            raise UnreadableInputError(f"{path} is damaged: it has the entry {entry.filename!r} twice")
        seen.add(entry.filename.lower())
    return names


def _seek_content(file: BinaryIO, entry: zipfile.ZipInfo) -> None:
    """Go to an entry's bytes, behind its own header, which has to have the same name as the directory."""
    file.seek(entry.header_offset)
    signature, name_length, extra_length = _LOCAL.unpack(file.read(_LOCAL.size))
    name = file.read(name_length).decode("utf-8" if entry.flag_bits & _UTF_8 else "cp437")
    if signature != MAGIC or name != entry.orig_filename:
        raise zipfile.BadZipFile(f"no entry {entry.filename!r} is where its directory says")
    file.seek(extra_length, io.SEEK_CUR)


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = file.read(min(size, _CHUNK))
        if not piece:
            raise zipfile.BadZipFile("it is shorter than its directory says")
        size -= len(piece)
        yield piece


def _is_descriptor(file: BinaryIO, entry: zipfile.ZipInfo, length: int) -> bool:
    """Whether the bytes up to the next entry are none, or say of this one what the directory says."""
    fields = (_DESCRIPTOR, entry.CRC, entry.file_size, entry.file_size)
    fitting = [shape for shape in _DESCRIPTORS if shape.size == length]
    return length == 0 or any(file.read(length) == shape.pack(*fields) for shape in fitting)
