"""torch's zip archives, checked entry by entry and copied into a new archive in memory.

torch's reader compares no checksum and reads some damaged fields differently from Python's: of an entry that
is flagged as a folder it reads nothing and returns uninitialized memory. So torch is given an archive made
here, of the names and bytes that were checked, and never sees the directory of the file itself.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from itertools import zip_longest
from pathlib import Path

_CHUNK = 2**20
_PROGRAMS = {
    "constants.pkl": "a TorchScript program of torch.jit.save",
    "archive_format": "a program of torch.export.save",
    "serialized_exported_program.json": "a program of torch.export.save",
}
"""Files without module classes, by an entry that only they have."""
_DESCRIPTOR, _DESCRIPTOR_SIZES = b"PK\x07\x08", (16, 24)
"""What may follow an entry: this signature, the checksum and both sizes, in 32 or 64 bits."""


def checked_archive(path: Path) -> io.BytesIO:
    """The archive in a file, with nothing but the entries whose bytes are as they were written.

    Raises an error of ``zipfile``, or ValueError, where it is damaged, compressed, or holds a program.
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
