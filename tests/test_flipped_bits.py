"""A flipped bit is an error or harmless, wherever it is: what torch reads is what was checked."""

import io
import struct
import tracemalloc
import warnings
import zipfile
from functools import partial

import pytest
import torch
from torch import nn

from ceconv_convert import load, migrate_checkpoint
from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.files.source import read_pickle
from tests import flips
from tests.support import same_state, small_network


def every(count, of, start):
    """As many bits as that, spread over all, other ones for each start."""
    bits = [*of]
    return bits[start :: max(1, len(bits) // count)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*pickle protocol")
@pytest.mark.parametrize("start", range(3))
@pytest.mark.parametrize("write", [flips.as_torch_does, flips.as_python_does])
def test_a_flipped_bit_in_an_archive(tmp_path, write, start):
    path = tmp_path / "a.pt"
    write(path)
    found = flips.outcomes(path, every(200, range(8 * path.stat().st_size), start))
    assert not found["different"]
    assert len(found["refused"]) > 50


def test_a_flipped_bit_outside_of_records_without_checksums(tmp_path):
    path = tmp_path / "a.pt"
    flips.without_checksums(path)
    assert not flips.outcomes(path, every(400, flips.outside_of_records(path), 1))["different"]


@pytest.mark.filterwarnings("ignore:.*pickle protocol")
def test_a_flipped_bit_in_the_format_before_is_an_error_or_reads_what_the_file_holds(tmp_path):
    """It has no checksums; but no storage is left with what the memory held."""
    path = tmp_path / "a.pt"
    flips.the_old_way(path)
    found = flips.outcomes(path, every(300, range(8 * path.stat().st_size), 1))
    assert len(found["refused"]) > 50
    for bit in found["different"]:
        changed = bytearray(path.read_bytes())
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "b.pt").write_bytes(changed)
        assert flips.same(read_pickle(tmp_path / "b.pt"), read_pickle(tmp_path / "b.pt"))


def directory_entry(content, name):
    """Where the archive's directory has an entry."""
    at = content.index(b"PK\x01\x02")
    while content[at + 46 : at + 46 + len(name)] != name:
        at = content.index(b"PK\x01\x02", at + 4)
    return at


@pytest.mark.parametrize("read", [read_pickle, partial(read_pickle, unsafe=True)])
def test_an_entry_flagged_as_a_folder_is_read(tmp_path, read):
    """torch's own reader takes it for one, and gives what the memory held."""
    path = tmp_path / "a.pt"
    state = small_network().state_dict()
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    content[directory_entry(content, b"a/data/1") + 38] |= 0x10
    path.write_bytes(content)
    assert same_state(read(path), state)


def rewritten(path, change):
    """The archive with its entries, pairs of name and content, changed."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    change(entries)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # Python's, of names that are there twice
        for name, content in entries:
            archive.writestr(name, content)


@pytest.mark.parametrize("name", ["a/data/0", "a/DATA/0", "a/data.pkl", "a/version"])
def test_an_entry_that_is_there_twice_is_refused(tmp_path, name):
    path = tmp_path / "a.pt"
    torch.save(small_network().state_dict(), path)
    rewritten(path, lambda entries: entries.append((name, b"x" * 100)))
    with pytest.raises(UnreadableInputError, match=f"it has the entry '{name}' twice"):
        load(path)


@pytest.mark.parametrize("place", ["before", "between", "behind the entries"])
def test_bytes_that_no_entry_explains(tmp_path, place):
    path = tmp_path / "a.pt"
    torch.save(small_network().state_dict(), path)
    content = path.read_bytes()
    at = {
        "before": 0,
        "between": content.index(b"PK\x03\x04", 4),
        "behind the entries": content.index(b"PK\x01\x02"),
    }
    path.write_bytes(content[: at[place]] + bytes(64) + content[at[place] :])
    with pytest.raises(UnreadableInputError, match=r"a\.pt"):
        load(path)


def test_folders_and_foreign_entries_are_no_records(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(small_network(), path)
    rewritten(path, lambda entries: entries.extend([("a/data/", b""), ("__MACOSX/._a", b"x")]))
    assert same_state(load(path).state_dict(), small_network().state_dict())


@pytest.mark.parametrize("change", [lambda content: content[:-8], lambda content: content + b"\0" * 8])
def test_the_format_before_is_read_to_its_end(tmp_path, change):
    path = tmp_path / "a.pt"
    flips.the_old_way(path)
    path.write_bytes(change(path.read_bytes()))
    for read in (read_pickle, partial(read_pickle, unsafe=True)):
        with pytest.raises(UnreadableInputError, match=r"a\.pt"):
            read(path)


def test_a_storage_that_is_never_read(tmp_path):
    """The list of storages names one twice: the other would keep what the memory held."""
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(4), "b": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    keys = content[content.rindex(b"\x80\x02]") :]
    lengths = [place for place in range(len(keys)) if keys[place : place + 1] == b"X"][:2]
    size = struct.unpack("<I", keys[lengths[0] + 1 : lengths[0] + 5])[0]
    first, second = (keys[place + 5 : place + 5 + size] for place in lengths)
    path.write_bytes(content[: -len(keys)] + keys.replace(second, first))
    for read in (read_pickle, partial(read_pickle, unsafe=True)):
        with pytest.raises(UnreadableInputError, match="it names a storage twice"):
            read(path)


def test_what_is_read_takes_no_more_than_a_copy_of_the_file(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a.weight": torch.zeros(2**22)}, path)
    tracemalloc.start()
    read_pickle(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * path.stat().st_size  # tensors are not Python's memory


def scripted(path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)


def exported(path):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), path)


def in_onnx(path):
    path.write_bytes(b"\x08\x08\x12\x07pytorch")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("write", "name", "sentence"),
    [
        (scripted, "a.pt", "is a TorchScript program of torch.jit.save.*save the module .* with torch.save"),
        (exported, "a.pt2", "is a program of torch.export.save.*save the module .* with torch.save"),
        (in_onnx, "a.onnx", "an .onnx file has no layers left to convert"),
    ],
)
def test_programs_are_told_what_they_are(tmp_path, write, name, sentence):
    write(tmp_path / name)
    for read in (load, lambda path: migrate_checkpoint(path, tmp_path / "b.pt")):
        with pytest.raises(UnreadableInputError, match=sentence):
            read(tmp_path / name)
    if name != "a.onnx":
        with pytest.raises(UnreadableInputError, match=sentence):
            load(tmp_path / name, unsafe=True)


def test_streams_of_more_than_one_object(tmp_path):
    """torch's own loading takes the first of two archives in a file for none."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1)}, buffer)
    (tmp_path / "a.pt").write_bytes(buffer.getvalue() * 2)
    with pytest.raises(UnreadableInputError, match=r"a\.pt"):
        load(tmp_path / "a.pt")


def test_an_entry_beyond_all_files(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(small_network().state_dict(), path)
    content = bytearray(path.read_bytes())
    at = directory_entry(content, b"a/version")
    extra = struct.pack("<2HQ", 1, 8, 2**64 - 10**6)
    content[at + 42 : at + 46] = b"\xff" * 4  # the place is in the extra field, in 64 bits
    content[at + 30 : at + 32] = struct.pack("<H", len(extra))
    content[at + 46 + 9 : at + 46 + 9] = extra
    end, end64 = content.rindex(b"PK\x05\x06"), content.rindex(b"PK\x06\x06")
    for place, form in ((end + 12, "<L"), (end64 + 40, "<Q")):
        (size,) = struct.unpack_from(form, content, place)
        struct.pack_into(form, content, place, size + len(extra))
    path.write_bytes(content)
    with pytest.raises(UnreadableInputError, match=r"a\.pt"):
        load(path)
