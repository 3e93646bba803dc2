"""torch's zip archives, checked entry by entry and copied into a new archive in memory.

torch's reader compares no checksum and reads some damaged fields differently from Python's: of an entry that
is flagged as a folder it reads nothing and returns uninitialized memory. So torch is given an archive made
here, of the names and bytes that were checked, and never sees the directory of the file itself.
"""

from __future__ import annotations

import io
import shutil
import struct
import zipfile
from itertools import zip_longest
from pathlib import Path

from ceconv_convert.errors import UnreadableInputError

MAGIC = b"PK\x03\x04"
_CHUNK = 2**20
_PROGRAMS = {
    "constants.pkl": "a TorchScript program of torch.jit.save",
    "archive_format": "a program of torch.export.save",
    "serialized_exported_program.json": "a program of torch.export.save",
}
"""Files without module classes, by an entry that only they have."""


def checked_archive(path: Path) -> io.BytesIO:
    """The archive in a file, with nothing but the entries whose bytes are as they were written.

    Raises:
        UnreadableInputError: where it is damaged, compressed, or holds a program.
        Exception: where ``zipfile`` cannot read it.
    """
    whole = io.BytesIO()
    with path.open("rb") as file, zipfile.ZipFile(file) as found, zipfile.ZipFile(whole, "w") as made:
        names = _record_names(found, path)
        entries = sorted(found.infolist(), key=lambda entry: entry.header_offset)
        has_checksums = any(entry.CRC for entry in entries)  # torch can be told to write none
        if entries[0].header_offset != 0:
            raise UnreadableInputError(f"{path} is damaged: its archive does not begin with an entry")
        for entry, following in zip_longest(entries, entries[1:]):
            descriptors = _descriptors(entry)
            if not has_checksums:
                del entry.CRC  # zipfile compares it wherever there is one
            name = names.get(entry.filename)
            record = zipfile.ZipInfo(f"archive/{name}")
            record.file_size = entry.file_size
            with found.open(entry) as content, made.open(record, "w") if name else io.BytesIO() as target:
                shutil.copyfileobj(content, target, _CHUNK)
            stop = following.header_offset if following else found.start_dir
            between = file.read(stop - file.tell())
            if between and between not in descriptors:
                raise UnreadableInputError(
                    f"{path} is damaged: {entry.filename!r} is not where, or as large as, its directory says"
                )
    whole.seek(0)
    return whole


def _record_names(found: zipfile.ZipFile, path: Path) -> dict[str, str]:
    """Entries in the archive's folder, which is that of its first entry, with their names inside it."""
    folder = found.namelist()[0].partition("/")[0] + "/"
    names = {name: name.removeprefix(folder) for name in found.namelist() if name.startswith(folder)}
    program = next((what for name, what in _PROGRAMS.items() if name in names.values()), None)
    if program is not None:
        raise UnreadableInputError(
            f"{path} is {program}, which has no modules any more: save the module that it was made from, or "
            "its state dict, with torch.save"
        )
    seen = set()
    for entry in found.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UnreadableInputError(
                f"{path} has a compressed entry {entry.filename!r}: torch.save has none"
            )
        if entry.filename.lower() in seen:  # torch's reader ignores case
            raise UnreadableInputError(f"{path} is damaged: it has the entry {entry.filename!r} twice")
        seen.add(entry.filename.lower())
    return names


def _descriptors(entry: zipfile.ZipInfo) -> list[bytes]:
    """What may follow an entry's bytes: a signature, the checksum and both sizes, in 32 or 64 bits."""
    fields = (b"PK\x07\x08", entry.CRC, entry.file_size, entry.file_size)
    forms = ("<4s3L", "<4sL2Q") if entry.file_size < 2**32 else ("<4sL2Q",)
    return [struct.pack(form, *fields) for form in forms]
