"""Disks that fill, processes that are killed: the input is never damaged, and no half file appears."""

import os
import resource
import signal
import sys
import time
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from ceconv_convert import migrate_checkpoint
from ceconv_convert.cli import main as cli
from tests.support import forked, names, same_state, small_network, start

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of Unix")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx", ".ckpt"])
@pytest.mark.parametrize("limit", [100, 20_000])
def test_a_disk_that_fills_is_said_and_leaves_nothing(tmp_path, suffix, limit, monkeypatch):
    model = small_network(width=16)
    torch.save({"state_dict": model.state_dict()} if suffix == ".ckpt" else model, tmp_path / "in.pt")
    whole = (tmp_path / "in.pt").read_bytes()
    (tmp_path / f"old{suffix}").write_text("kept")
    arguments = [str(tmp_path / "in.pt"), "-o", str(tmp_path / f"old{suffix}"), "--force"]
    arguments += ["--model", "tests.support:small_network", "--model-arg", "width=16"] * (suffix == ".ckpt")
    monkeypatch.setattr(sys, "argv", ["ceconv-convert", *arguments])

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as in every new Python
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        cli.main()

    code, out, err = forked(limited)
    assert code == 2, out + err
    assert err.startswith("Error: ")
    assert "cannot be written" in err
    assert len(err.splitlines()) == 1
    assert (tmp_path / f"old{suffix}").read_text() == "kept"
    assert (tmp_path / "in.pt").read_bytes() == whole
    assert names(tmp_path) == ["in.pt", f"old{suffix}"]


@pytest.fixture(params=[".pt", ".safetensors"])
def migration(request, tmp_path):
    """A checkpoint, what is migrated from it, and a check that this is whole."""
    state = small_network(width=40).state_dict()
    source, target, expected = (tmp_path / f"{name}{request.param}" for name in ("in", "out", "expected"))
    torch.save(state, source) if request.param == ".pt" else save_file(state, source)
    before = source.read_bytes()
    migrate_checkpoint(source, expected)
    read = load_file if request.param == ".safetensors" else torch.load
    exact = read(expected)

    def check():
        assert source.read_bytes() == before
        if target.exists():
            assert same_state(read(target), exact)

    yield source, target, check
    migrate_checkpoint(source, tmp_path / f"again{request.param}")
    assert not list(tmp_path.glob(".ceconv-convert.*"))  # what killed processes left is cleared


@pytest.mark.slow
def test_killed_before_any_step_on_the_file_system_the_output_is_whole_or_not_there(migration):
    """A process that dies at its first call to the system, at its second, and so on, until one is through."""
    source, target, check = migration
    steps = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "fcntl.flock"}

    def die_at(number):
        seen = []

        def watch(event, arguments):
            if event in steps:
                seen.append(event)
                if len(seen) == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        migrate_checkpoint(source, target, force=True)

    kills = 0
    while (forked(partial(die_at, kills + 1))[0]) == -signal.SIGKILL:
        kills += 1
        check()
    assert kills > 5
    assert target.exists()
    check()


@pytest.mark.slow
def test_killed_at_any_moment_the_output_is_whole_or_not_there(migration):
    source, target, check = migration
    start_time = time.monotonic()
    assert forked(partial(migrate_checkpoint, source, target))[0] == 0
    duration = time.monotonic() - start_time
    for part in range(12):
        child = start(partial(migrate_checkpoint, source, target, force=True))
        time.sleep(duration * part / 10)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check()


def test_an_input_shortened_while_it_is_read_is_said(tmp_path, monkeypatch):
    from ceconv_convert.checkpoint import migrate as migrate_file
    from ceconv_convert.errors import UnreadableInputError

    path = tmp_path / "a.safetensors"
    save_file(small_network().state_dict(), path)
    opened = migrate_file.open_stored

    def and_shorten(name):
        found = opened(name)
        path.write_bytes(path.read_bytes()[:-500])
        return found

    monkeypatch.setattr(migrate_file, "open_stored", and_shorten)
    with pytest.raises(UnreadableInputError, match=r"a\.safetensors became shorter while it was read"):
        migrate_checkpoint(path, tmp_path / "b.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
