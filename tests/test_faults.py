"""Disks that fill, processes that are killed: the input is never damaged, and no half file appears."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from ceconv_convert import migrate_checkpoint
from tests.support import same_state, small_network

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of Unix")

LIMITED = """
import resource, sys
from ceconv_convert.cli import main as cli
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = ["ceconv-convert", *{arguments}]
cli.main()
"""


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx", ".ckpt"])
@pytest.mark.parametrize("limit", [100, 20_000])
def test_a_disk_that_fills_is_said_and_leaves_nothing(tmp_path, suffix, limit):
    model = small_network(width=16)
    torch.save({"state_dict": model.state_dict()} if suffix == ".ckpt" else model, tmp_path / "in.pt")
    whole = (tmp_path / "in.pt").read_bytes()
    (tmp_path / f"old{suffix}").write_text("kept")
    arguments = [str(tmp_path / "in.pt"), "-o", str(tmp_path / f"old{suffix}"), "--force"]
    arguments += ["--model", "tests.support:small_network", "--model-arg", "width=16"] * (suffix == ".ckpt")
    script = LIMITED.format(limit=limit, arguments=arguments)
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 2, finished.stdout + finished.stderr
    assert finished.stderr.startswith("Error: ")
    assert "cannot be written" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert (tmp_path / f"old{suffix}").read_text() == "kept"
    assert (tmp_path / "in.pt").read_bytes() == whole
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.pt", f"old{suffix}"]


KILLED = """
import os, random, signal, sys, time
import torch
from ceconv_convert import migrate_checkpoint
from safetensors.torch import load_file
torch.set_num_threads(1)
source, target = sys.argv[1:]
random_ = random.Random(0)
migrate_checkpoint(source, target.replace("out", "warm"))  # imports take longer than all the rest
for _ in range(60):
    child = os.fork()
    if child == 0:
        while True:
            migrate_checkpoint(source, target, force=True)
    time.sleep(random_.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if os.path.exists(target):
        load_file(target) if target.endswith("safetensors") else torch.load(target)
print(os.path.exists(target))
"""


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_killed_at_any_moment_the_output_is_whole_or_not_there(tmp_path, suffix):
    from safetensors.torch import load_file, save_file

    state = small_network(width=40).state_dict()
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    if suffix == ".pt":
        torch.save(state, source)
    else:
        save_file(state, source)
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    command = [sys.executable, "-c", KILLED, source, target]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "True\n"  # some of them came so far
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before
    migrate_checkpoint(source, tmp_path / f"again{suffix}")
    assert not list(tmp_path.glob(".ceconv-convert.*"))  # what killed processes left is cleared
    found, again = (
        (torch.load(path, weights_only=True) if suffix == ".pt" else load_file(path))
        for path in (target, tmp_path / f"again{suffix}")
    )
    assert same_state(found, again)


def test_an_input_shortened_while_it_is_read_is_said(tmp_path, monkeypatch):
    from safetensors.torch import save_file

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
