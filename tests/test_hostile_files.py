"""A corpus of hostile and damaged files: a clear error, nothing executed, bounded memory and time."""

import contextlib
import functools
import io
import operator
import os
import random
import resource
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from ceconv_convert import CEConv2d, ConversionError, load, migrate_checkpoint
from ceconv_convert.cli import main as cli
from ceconv_convert.errors import UnreadableInputError
from tests.support import FIXTURES, forked, same_state, small_network

GOLDEN = FIXTURES / "golden" / "checkpoints"
FILES = sorted(path for path in GOLDEN.iterdir() if not path.name.endswith(".io.safetensors"))


class Calls:
    """Unpickled without care, it calls a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class WithState:
    """An allowed class that is given a state."""

    def __init__(self, cls, state):
        self.cls, self.state = cls, state

    def __reduce__(self):
        return object.__new__, (self.cls,), self.state


def reduces(mark):
    """Things that make a folder where they are unpickled without care."""
    return {
        "os.system": Calls(os.system, f"mkdir {mark}"),
        "eval": Calls(eval, f"__import__('os').mkdir({str(mark)!r})"),
        "a nested reduce": Calls(functools.reduce, operator.add, [Calls(os.mkdir, str(mark))]),
        "a functools chain": Calls(functools.partial, Calls(functools.partial, os.mkdir), str(mark)),
        "a getattr": Calls(getattr, Calls(__import__, "os"), "mkdir"),
        "a method caller": Calls(operator.methodcaller, "mkdir", str(mark)),
        "torch.load": Calls(torch.load, str(mark)),
        "a subprocess": Calls(subprocess.Popen, ["mkdir", str(mark)]),
        "a file": Calls(io.FileIO, str(mark), "w"),
        "a rebuilt function": Calls(torch._utils._rebuild_parameter, Calls(os.mkdir, str(mark)), False, {}),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", reduces(""))
def test_nothing_is_executed(tmp_path, name, legacy):
    mark, path = tmp_path / "mark", tmp_path / "a.pt"
    for holder in (lambda thing: thing, lambda thing: {"state_dict": {"a": torch.ones(1)}, "extra": thing}):
        torch.save(holder(reduces(mark)[name]), path, _use_new_zipfile_serialization=not legacy)
        for read in (load, lambda path: migrate_checkpoint(path, tmp_path / "b.pt")):
            with pytest.raises(UnreadableInputError, match=r"a\.pt"):
                read(path)
            assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "state",
    [
        {"forward": "x"},
        {"_modules": {"a": Calls(list)}, "_parameters": 5},
        {"__class__": 3},
        {"_forward_hooks": OrderedDict({0: nn.ReLU()})},
        5,
        None,
    ],
    ids=["method", "modules", "class", "hooks", "number", "none"],
)
def test_an_allowed_class_with_a_hostile_state(tmp_path, state):
    path = tmp_path / "a.pt"
    model = nn.Sequential(CEConv2d(1, 3, 3, 2, 3), nn.ReLU())
    vars(model)["_modules"]["1"] = WithState(nn.ReLU, state)
    torch.save(model, path)
    with pytest.raises(ConversionError):
        load(path)


def repacked(source, target, change):
    """An archive written anew, with its entries (name → bytes) changed."""
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target


@pytest.mark.parametrize("name", ["../../climbed", "/tmp/climbed", "archive/../../../climbed"])
def test_a_path_that_climbs_out_is_not_followed(tmp_path, name):
    torch.save(small_network(), tmp_path / "a.pt")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    path = repacked(tmp_path / "a.pt", tmp_path / "deep" / "er" / "b.pt", lambda e: e.update({name: b"x"}))
    with contextlib.suppress(UnreadableInputError):
        load(path)
    assert not list(tmp_path.rglob("climbed*"))
    assert not Path("/tmp/climbed").exists()


def in_a_small_process(path, *, seconds=60, gigabytes=2):
    """The command line, with as much more memory as that, and as much time: its code, outputs and errors."""

    def main():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + gigabytes * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        sys.argv = ["ceconv-convert", str(path), "-o", str(path.with_name("out.onnx"))]
        cli.main()

    return forked(main, seconds=seconds)


def views(tmp_path):
    """Thirty thousand views that claim 30 GB together."""
    one = torch.zeros(2**18)
    state = {f"k{i}.weight": one.expand(1, 2**18) if i % 2 else one[i:] for i in range(30_000)}
    torch.save(state, tmp_path / "a.pt")


def prefixes(tmp_path):
    torch.save({"module." * 100_000 + "a": torch.ones(1)}, tmp_path / "a.pt")


def nests(tmp_path):
    depth = 50_000
    pickled = b"}X\x05\x00\x00\x00model" * depth + b"}" + b"s" * depth
    _raw_archive(tmp_path / "a.pt", b"\x80\x02" + pickled + b".")


def shared(tmp_path):
    found = {f"k{i}": torch.ones(1) for i in range(300)} | {"n": 1}
    for _ in range(12):
        found = {f"k{i}": found for i in range(300)}
    torch.save(found, tmp_path / "a.pt")


def keys(tmp_path):
    state = small_network().state_dict()
    state.update({f"extra.{i}.weight": torch.ones(()) for i in range(30_000)})
    torch.save(state, tmp_path / "a.pt")


def header(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def brackets(tmp_path):
    text = b"[" * 200_000
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


def brackets_in_an_index(tmp_path):
    (tmp_path / "a.safetensors.index.json").write_text('{"weight_map":' + "[" * 200_000)


def _raw_archive(path, pickled):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/version", b"3\n")
        archive.writestr("a/byteorder", b"little")


def memory(tmp_path):
    """A pickle that doubles a list by reference, thirty times over."""
    body = b"\x80\x02]q\x00"
    for index in range(30):
        body += b"]" + b"q" + bytes([index + 1]) + b"(" + (b"h" + bytes([index])) * 2 + b"e"
    _raw_archive(tmp_path / "a.pt", body + b".")


@pytest.mark.slow
@pytest.mark.parametrize(
    "build", [views, prefixes, nests, shared, keys, header, brackets, brackets_in_an_index, memory]
)
def test_memory_and_time_are_bounded(tmp_path, build):
    build(tmp_path)
    (path,) = tmp_path.iterdir()
    start = time.monotonic()
    code, out, err = in_a_small_process(path)
    assert code == 2, out + err
    assert err.startswith("Error: ")
    assert "Traceback" not in err
    assert time.monotonic() - start < 45
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize("source", FILES, ids=lambda path: path.name)
def test_damaged_copies_of_every_container_are_errors_or_harmless(tmp_path, source):
    """Bytes flipped, cut out and zeroed: an error of the family, or the very same network.

    Formats without checksums cannot tell damaged numbers; but no more of them change than bytes were damaged.
    """
    random_ = random.Random(source.name)
    whole = source.read_bytes()
    expected = load(source).state_dict()
    path = tmp_path / source.name
    for _ in range(25):
        content = bytearray(whole)
        start = random_.randrange(len(content))
        kind = random_.choice(["flip", "cut", "zero", "end"])
        if kind == "flip":
            for _ in range(random_.randint(1, 8)):
                content[random_.randrange(min(len(content), 4096))] ^= 1 << random_.randrange(8)
        elif kind == "cut":
            del content[start : start + random_.randint(1, 5000)]
        elif kind == "zero":
            content[start : start + 200] = bytes(len(content[start : start + 200]))
        else:
            del content[start:]
        path.write_bytes(content)
        with contextlib.suppress(ConversionError):
            found = load(path).state_dict()
            if zipfile.is_zipfile(source):
                assert same_state(found, expected)
            else:
                assert found.keys() == expected.keys()
                assert sum(int((found[key] != expected[key]).sum()) for key in expected) <= 200
