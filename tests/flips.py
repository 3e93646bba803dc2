"""Flip every bit of a small checkpoint: what loads has the very same tensors, everything else is an error.

``python -m tests.flips`` tries all bits of each format, which takes minutes; the tests try a sample.
"""

from __future__ import annotations

import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch

from ceconv_convert import CEConv2d
from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.files.source import read_pickle


def checkpoint() -> dict[str, object]:
    """The state dict of a small layer in a container, with an empty tensor and one that is shared."""
    torch.manual_seed(0)
    state = CEConv2d(3, 3, 2, 2, 2).state_dict()
    return {"epoch": 3, "state_dict": state, "shared": state["bias"], "empty": torch.empty(0)}


def as_torch_does(path: Path) -> None:
    """The zip format, with checksums."""
    torch.save(checkpoint(), path)


def without_checksums(path: Path) -> None:
    """The zip format, as torch writes it where it is told to spare checksums."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(checkpoint(), path)
    finally:
        torch.serialization.set_crc32_options(before)


def as_python_does(path: Path) -> None:
    """The zip format, written anew by Python: another way to fill the same fields."""
    torch.save(checkpoint(), path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def the_old_way(path: Path) -> None:
    """The format before zip."""
    torch.save(checkpoint(), path, _use_new_zipfile_serialization=False)


WRITERS = (as_torch_does, as_python_does, without_checksums, the_old_way)


def outside_of_records(path: Path) -> list[int]:
    """Positions of bits in an archive's headers, descriptors and directories."""
    whole = path.read_bytes()
    inside = set()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            lengths = struct.unpack("<2H", whole[entry.header_offset + 26 : entry.header_offset + 30])
            start = entry.header_offset + 30 + sum(lengths)
            inside.update(range(start, start + entry.file_size))
    return [8 * byte + bit for byte in range(len(whole)) if byte not in inside for bit in range(8)]


def outcomes(path: Path, bits: Iterable[int]) -> dict[str, list[int]]:
    """What comes of flipping each of ``bits``: ``refused``, ``same`` or ``different`` tensors."""
    whole = path.read_bytes()
    expected = read_pickle(path)
    found: dict[str, list[int]] = {"refused": [], "same": [], "different": []}
    for bit in bits:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            outcome = "same" if same(read_pickle(path), expected) else "different"
        except UnreadableInputError:
            outcome = "refused"
        found[outcome].append(bit)
    path.write_bytes(whole)
    return found


def same(found: object, expected: object) -> bool:
    """Whether two contents are equal, tensors bit by bit."""
    if isinstance(expected, torch.Tensor):
        return (
            isinstance(found, torch.Tensor)
            and found.dtype == expected.dtype
            and found.shape == expected.shape
            and found.detach().numpy().tobytes() == expected.detach().numpy().tobytes()
        )
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and list(found) == list(expected)
            and all(same(found[key], value) for key, value in expected.items())
        )
    if isinstance(expected, (list, tuple)):
        return type(found) is type(expected) and same(dict(enumerate(found)), dict(enumerate(expected)))
    return type(found) is type(expected) and found == expected


def main() -> None:
    """All bits, in every format."""
    with tempfile.TemporaryDirectory() as folder:
        for write in WRITERS:
            path = Path(folder) / f"{write.__name__}.pt"
            write(path)
            size = path.stat().st_size
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of protocols and dtypes
                found = outcomes(path, range(8 * size))
            counts = ", ".join(f"{len(bits)} {outcome}" for outcome, bits in found.items())
            sys.stdout.write(f"{write.__name__}: {8 * size} bits, {counts}\n")
            if zipfile.is_zipfile(path):
                silent = set(found["different"]) & set(outside_of_records(path))
                sys.stdout.write(f"  different, of bits in no record: {sorted(silent)}\n")


if __name__ == "__main__":
    main()
