"""The command line as a user sees it: what it prints, its exit code, and what is on disk afterwards."""

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys

import click
import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import ceconv_convert
from ceconv_convert import CEConv2d, convert, load, migrate_state_dict
from ceconv_convert.cli import candidates, onnx_candidates
from ceconv_convert.cli import main as cli
from ceconv_convert.cli.options import cli as command
from ceconv_convert.forms.table import FORMS
from ceconv_convert.onnx.export import DEFAULT_OPSET
from ceconv_convert.onnx.runtime import OnnxRunner
from tests import foreign, hostile
from tests.support import COLOR_DIGITS, GOLDEN_SEQUENTIAL, forked, names, relative, same_state, small_network
from tests.test_verify import Deciding


def without_phases(err):
    """Standard error without the lines on phases that took a second."""
    return re.sub(r"^[\w .]+: \d+ s\n", "", err, flags=re.MULTILINE)


def test_everything_at_once(run, folder):
    outputs = ["a.pt", "b.pth", "c.safetensors", "d.onnx"]
    code, out, err = run(COLOR_DIGITS, *(x for name in outputs for x in ("-o", name)))
    assert code == 0
    assert without_phases(err) == ""
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["layer", "kind", "N", "channels"]
    assert lines[6] == "5 layers to conv3d, 37.8 kB → 63.7 kB"
    assert [line.split()[1] for line in lines if line.startswith("wrote ")] == outputs
    verdict = next(line for line in lines if line.startswith("PASS: "))
    assert re.fullmatch(
        "PASS: the conv3d network and d.onnx in ONNX Runtime: worst error [^,]*, tolerance [^,]*", verdict
    )
    assert "  on 5 inputs and 5 layers" in lines[lines.index(verdict) :]
    assert names(folder) == outputs
    converted = convert(load(COLOR_DIGITS))
    assert load_file("c.safetensors").keys() == converted.state_dict().keys()
    assert type(load("a.pt")[0]) is type(converted[0])
    onnx.checker.check_model("d.onnx", full_check=True)


def test_the_table_of_an_onnx_file_has_its_forms_and_bytes(run, folder):
    _, out, _ = run(COLOR_DIGITS, "--input-shape", "3,16,16", "-o", "d.onnx")
    lines = out.splitlines()
    table = [line.split() for line in lines if re.match(r"\d+ +(lifting|separable|hidden) ", line)]
    assert [row[0] for row in table] == ["0", "3", "7", "11", "14"]
    assert {row[-5] for row in table} <= {"conv2d", "fourier"}
    weights = {tensor.name: tensor for tensor in onnx.load("d.onnx").graph.initializer}
    taken = sum(
        len(tensor.raw_data) for name, tensor in weights.items() if re.fullmatch(r"(0|3|7|11|14)\..*", name)
    )
    assert f"5 layers to auto, 37.8 kB → {taken / 1000:.1f} kB" in lines
    assert any("d.onnx: larger than color_digits.pt (56.8 kB): " in line for line in lines)
    assert all(len(line) <= 80 for line in lines if line.startswith(("layer ", "0 ", "PASS")))


def test_the_default_output_lies_beside_the_model(run, folder):
    (folder / "net.pt").write_bytes(GOLDEN_SEQUENTIAL.read_bytes())
    assert run("net.pt")[0] == 0
    assert run("net.pt", "--form", "conv2d")[0] == 0
    assert names(folder) == ["net.conv2d.pt", "net.conv3d.pt", "net.pt"]


def test_a_second_run_says_that_nothing_is_left(run, folder):
    run(GOLDEN_SEQUENTIAL, "-o", "a.pt")
    code, _, err = run("a.pt", "-o", "b.pt")
    assert code == 3
    assert err == "Error: nothing is left to convert: all 3 layers are converted already\n"
    assert names(folder) == ["a.pt"]


def test_dry_run_prints_the_table_and_stops(run, folder):
    code, out, _ = run(COLOR_DIGITS, "--dry-run", "--form", "conv2d")
    assert code == 0
    assert out.splitlines()[-1] == "5 layers to conv2d, 37.8 kB → 191.1 kB"
    assert names(folder) == []


@pytest.mark.slow
def test_quiet_leaves_the_verdict(run, folder):
    code, out, err = run(GOLDEN_SEQUENTIAL, "-o", "a.pt", "-o", "a.onnx", "--quiet")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 1
    assert out.startswith("PASS: ")


@pytest.mark.slow
def test_opset_and_input_shape_are_used(run, folder):
    code, out, _ = run(GOLDEN_SEQUENTIAL, "-o", "a.onnx", "--opset", "20", "--input-shape", "3x19x23")
    assert code == 0
    assert "inputs: 1×3×19×23, 2×3×19×23" in out
    assert onnx.load("a.onnx").opset_import[0].version == 20


def test_outputs_are_not_overwritten_without_force(run, folder):
    (folder / "a.pt").write_text("precious")
    code, _, err = run(GOLDEN_SEQUENTIAL, "-o", "a.pt")
    assert code == 2
    assert err == "Error: a.pt exists: pass --force to overwrite it\n"
    assert (folder / "a.pt").read_text() == "precious"
    assert run(GOLDEN_SEQUENTIAL, "-o", "a.pt", "--force")[0] == 0
    assert load("a.pt")


def test_the_input_is_never_an_output(run, folder):
    model = folder / "net.pt"
    model.write_bytes(GOLDEN_SEQUENTIAL.read_bytes())
    os.link(model, folder / "same.pt")
    for output in ("net.pt", "same.pt"):
        code, _, err = run("net.pt", "-o", output, "--force")
        assert code == 2
        assert "is the input" in err
    assert model.read_bytes() == GOLDEN_SEQUENTIAL.read_bytes()


def test_a_failed_verdict_writes_nothing(run, folder, monkeypatch):
    replace_layers = candidates.replace_layers

    def damaged(*arguments, **options):
        model = replace_layers(*arguments, **options)
        with torch.no_grad():
            model[2].weight[0] += 1
        return model

    monkeypatch.setattr(candidates, "replace_layers", damaged)
    code, out, _ = run(GOLDEN_SEQUENTIAL, "-o", "a.pt", "-o", "a.onnx")
    assert code == 1
    assert out.splitlines()[-1].startswith("FAIL: the conv3d network: layer 2: its error ")
    assert names(folder) == []


@pytest.mark.slow
def test_a_failed_onnx_verdict_writes_nothing_at_all(run, folder, monkeypatch):
    original = onnx_candidates.write_in_precision

    def damaged(evidence, converted, *rest, **options):
        converted = convert(load(GOLDEN_SEQUENTIAL))
        with torch.no_grad():
            converted[4].bias[0] += 1
        return original(evidence, converted, *rest, **options)

    monkeypatch.setattr(onnx_candidates, "write_in_precision", damaged)
    code, out, _ = run(GOLDEN_SEQUENTIAL, "-o", "a.pt", "-o", "a.onnx")
    assert code == 1
    assert out.splitlines()[-1].startswith("FAIL: a.onnx in ONNX Runtime: layer 4: its error ")
    assert names(folder) == []


BAD = {
    "a missing file": (["none.pt"], 2, "none.pt cannot be read: No such file or directory"),
    "a folder": (["."], 2, ". is a folder"),
    "an empty file": (["empty.pt"], 2, "empty.pt cannot be read as a torch file: it is empty"),
    "a truncated file": (["truncated.pt"], 2, "truncated or damaged"),
    "a random file": (["random.pt"], 2, "not a file that torch.save writes"),
    "a foreign class": (["foreign.pt"], 2, "--allow tests.hostile.HelperNetwork"),
    "no layers": (["plain.pt"], 3, "no CEConv2d layer"),
    "a refused layer": (
        ["refused.pt", "--allow", "tests.foreign.Gated"],
        3,
        "1: its output is gated by the input",
    ),
    "a wrong shape": (["good.pt", "--input-shape", "4,32,32"], 2, "does not run on inputs of shape 4×32×32"),
    "a shape too small": (["good.pt", "--input-shape", "3,2,2"], 2, "does not run on inputs of shape 3×2×2"),
    "a shape beyond memory": (["good.pt", "--input-shape", "3,1000000,1000000"], 2, "does not run on inputs"),
    "opset zero": (["good.pt", "-o", "a.onnx", "--opset", "0"], 2, "opset 0 does not exist"),
    "no shape": (["good.pt", "--input-shape", "big"], 2, "'big' is not an input shape"),
    "a shape of zeros": (["good.pt", "--input-shape", "3,0,5"], 2, "is not an input shape"),
    "an unknown suffix": (["good.pt", "-o", "a.tflite"], 2, "the suffix decides the format"),
    "no folder": (["good.pt", "-o", "none/a.pt"], 2, "there is no folder none"),
    "twice the same": (["good.pt", "-o", "a.pt", "-o", "./a.pt"], 2, "is written twice"),
    "a missing file and an existing output": (
        ["none.pt", "-o", "good.pt", "--force"],
        2,
        "none.pt cannot be",
    ),
    "an opset of nothing": (["good.pt", "-o", "a.pt", "--opset", "18"], 2, "--opset needs an .onnx output"),
    "an unknown form": (["good.pt", "--form", "fft"], 2, "'fft' is not one of"),
    "an unknown opset": (["good.pt", "-o", "a.onnx", "--opset", "999"], 2, "opset 999 does not exist"),
    "no model": ([], 2, "Missing argument 'MODEL'"),
}


@pytest.mark.parametrize(("arguments", "code", "sentence"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_sentence(run, folder, arguments, code, sentence):
    (folder / "empty.pt").touch()
    (folder / "random.pt").write_bytes(bytes(range(256)) * 9)
    (folder / "good.pt").write_bytes(GOLDEN_SEQUENTIAL.read_bytes())
    hostile.truncated(folder / "truncated.pt", GOLDEN_SEQUENTIAL, 0.7)
    torch.save(hostile.HelperNetwork(), "foreign.pt")
    torch.save(nn.Sequential(nn.Conv2d(3, 2, 3)), "plain.pt")
    torch.save(nn.Sequential(CEConv2d(1, 3, 3, 2, 3), foreign.Gated(3, 3, 2, 2, 3)), "refused.pt")
    before = names(folder)
    found, _, err = run(*arguments)
    assert found == code
    assert sentence in err
    assert names(folder) == before


@pytest.mark.parametrize(("damage", "sentence"), hostile.DAMAGED_STATES.values(), ids=hostile.DAMAGED_STATES)
def test_a_module_in_a_hostile_state_is_one_clear_sentence(run, folder, damage, sentence):
    model = small_network()
    damage(model)
    torch.save(model, "model.pt")
    code, _, err = run("model.pt")
    assert code in (2, 3)
    assert re.search(sentence, err), err
    assert names(folder) == ["model.pt"]


def test_a_dry_run_shows_refusals(run, folder):
    torch.save(nn.Sequential(CEConv2d(1, 3, 3, 2, 3), foreign.Gated(3, 3, 2, 2, 3)), "refused.pt")
    code, out, _ = run("refused.pt", "--allow", "tests.foreign.Gated", "--dry-run")
    assert code == 3
    assert "1 is refused: its output is gated by the input" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagenet_hybrid18.pth.tar", "half_resnet18.pth", "whole_module_cecnn.pt"])
def test_a_checkpoint_becomes_onnx_without_the_code_that_trained_it(run, folder, name):
    checkpoint = GOLDEN_SEQUENTIAL.with_name(name)
    code, out, _ = run(checkpoint, "-o", "a.onnx", "--quiet")
    assert code == 0, out
    own = checkpoint.with_name(name.split(".")[0] + ".io.safetensors")
    golden = load_file(own if own.exists() else checkpoint.with_name("whole_module_resnet18.io.safetensors"))
    half = name.startswith("half")
    (found,) = OnnxRunner(folder / "a.onnx")(golden["input"].half() if half else golden["input"])
    assert relative(found, golden["output_float64"]) < (2e-3 if half else 1e-6)


def test_a_network_of_ones_own_is_built_by_its_factory(run, folder):
    torch.save({"state_dict": small_network(rotations=4).state_dict()}, "a.pt")
    options = ("--model", "tests.support:small_network", "--model-arg", "rotations=4")
    code, out, _ = run("a.pt", *options, "-o", "a.safetensors")
    assert code == 0, out
    assert run("a.pt", "-o", "b.pt")[0] == 2
    code, _, err = run("a.pt", "--model-arg", "rotations")
    assert code == 2
    assert "'rotations' is not of the form key=value" in err


def test_a_fixed_image_size_is_said(run, folder):
    torch.manual_seed(0)
    torch.save(nn.Sequential(CEConv2d(1, 3, 3, 2, 3), nn.Flatten(), nn.Linear(2 * 3 * 26 * 26, 4)), "net.pt")
    code, out, _ = run("net.pt", "-o", "a.onnx")
    assert code == 0
    assert "one image size alone, since the network takes no other" in out
    assert "a.onnx: height and width are fixed" in out


def test_choices_and_defaults_are_those_of_the_package():
    parameters = {parameter.name: parameter for parameter in cli.cli.params}
    assert tuple(parameters["form"].type.choices) == ("auto", *FORMS)
    assert parameters["opset"].default == DEFAULT_OPSET


def python(*arguments, **environment):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


LOADS_NOT = {
    "import ceconv_convert": ["torch", "numpy", "safetensors"],
    "from ceconv_convert.cli.options import cli; cli(['--help'], standalone_mode=False)": ["torch", "numpy"],
    "from ceconv_convert import convert, load, Verdict, Plan": [],
}


@pytest.mark.slow
@pytest.mark.parametrize(("code", "further"), LOADS_NOT.items(), ids=["import", "help", "convert"])
def test_importing_stays_light(code, further):
    heavy = {"onnx", "onnx_ir", "onnxruntime", "onnxscript", "matplotlib", "jinja2", "PIL", *further}
    finished = python("-c", f"{code}\nimport sys\nprint({heavy!r} & set(sys.modules))")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2", "PIL"])
def test_what_needs_the_extra_says_so_before_anything_is_read(run, folder, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    (folder / "images").mkdir()
    options = ("--inputs", "images") if missing == "PIL" else ("--report", "r.html")
    code, _, err = run("none.pt", *options)
    assert code == 2
    assert "pip install 'ceconv-convert[report]'" in err


@pytest.mark.slow
def test_without_the_extra_everything_else_works(folder):
    """JSON reports and arrays as inputs; in a process of its own, where the libraries cannot be imported."""
    np.save("x.npy", np.ones((2, 3, 20, 24), np.float32))
    arguments = [str(GOLDEN_SEQUENTIAL), "-o", "a.safetensors", "--inputs", "x.npy", "--report", "r.json"]
    hidden = "import sys; sys.modules.update(dict.fromkeys(['matplotlib', 'jinja2', 'markupsafe', 'PIL']))"
    finished = python(
        "-c", f"{hidden}\nfrom ceconv_convert.cli import main\nsys.argv[1:] = {arguments}\nmain.main()"
    )
    assert finished.returncode == 0, finished.stderr
    assert names(folder) == ["a.safetensors", "r.json", "x.npy"]


def test_a_library_that_is_not_there_is_said(folder):
    code = "import sys; sys.modules['torch'] = None\nfrom ceconv_convert.cli import main\nmain.main()"
    finished = python("-c", code, GOLDEN_SEQUENTIAL)
    assert finished.returncode == 2
    assert "Error: a library cannot be imported: import of torch halted" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_module_runs_and_helps():
    finished = python("-m", "ceconv_convert", "--help")
    assert finished.returncode == 0
    for option in (
        "--output",
        "--form",
        "--input-shape",
        "--opset",
        "--allow",
        "--dry-run",
        "--force",
        "--quiet",
    ):
        assert option in finished.stdout
    assert "Exit codes:" in finished.stdout


def test_the_help_is_grouped_and_names_every_option_once_within_80_columns(run):
    code, out, _ = run("--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    titles = re.findall(r"^([A-Z]\w+( options)?):$", out, flags=re.MULTILINE)
    assert [title for title, _ in titles] == ["Input", "Output", "Verdict", "Bench", "Other options"]
    shown = re.findall(r"^  (?:-\w, )?(--[\w-]+)", out[out.index("\nInput:") :], flags=re.MULTILINE)
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert sorted(shown) == sorted([*(option.opts[-1] for option in options), "--help"])


def test_a_narrow_pipe_without_colors_gets_plain_lines(run, monkeypatch):
    for name, value in {"COLUMNS": "30", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    _, out, _ = run(COLOR_DIGITS, "--dry-run")
    assert out.splitlines()[1] == "0      lifting    1→3  3→12      3×3 p1     conv3d   1.4 kB   1.4 kB"
    assert "\x1b" not in out


def test_a_shell_completes_the_options():
    words = {"COMP_WORDS": "ceconv-convert --fo", "COMP_CWORD": "1"}
    finished = python("-m", "ceconv_convert", _CECONV_CONVERT_COMPLETE="bash_complete", **words)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["plain,--form", "plain,--force"]
    finished = python("-m", "ceconv_convert", _CECONV_CONVERT_COMPLETE="bash_source")
    assert "complete -o nosort -F _ceconv_convert_completion ceconv-convert" in finished.stdout


@pytest.mark.slow
def test_a_pipe_gets_clean_lines(tmp_path):
    output = tmp_path / "a.onnx"
    finished = python("-m", "ceconv_convert", GOLDEN_SEQUENTIAL, "-o", output)
    assert finished.returncode == 0, finished.stderr
    assert without_phases(finished.stderr) == ""
    assert "\x1b" not in finished.stdout


@pytest.mark.slow
def test_the_fixture_is_classified_alike(run, folder):
    import runpy

    from tests.support import FIXTURES

    run(COLOR_DIGITS, "-o", "a.safetensors", "-o", "a.onnx")
    agreement = runpy.run_path(str(FIXTURES / "agreement.py"))["main"]
    assert agreement("a.safetensors", "a.onnx") == 0
    damaged = convert(load(COLOR_DIGITS))
    with torch.no_grad():
        damaged[0].weight.copy_(damaged[0].weight.roll(1, 0))
    from ceconv_convert.files.provenance import save_tensors

    save_tensors(damaged.state_dict(), folder / "b.safetensors")
    assert agreement("b.safetensors", "a.onnx") == 1


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices of Unix")
def test_a_pipe_or_a_device_is_no_input(run, folder):
    os.mkfifo("pipe.pt")
    os.symlink("/dev/zero", "zero.safetensors")
    for name in ("pipe.pt", "zero.safetensors"):
        code, _, err = run(name)
        assert (code, err) == (2, f"Error: {name} is no regular file\n")


def test_a_name_too_long_is_one_sentence(run, folder):
    for arguments in ((GOLDEN_SEQUENTIAL, "-o", f"{'a' * 300}.pt"), (f"{'a' * 300}.pt", "-o", "b.pt")):
        code, _, err = run(*arguments)
        assert code == 2
        assert "File name too long" in err
    assert names(folder) == []


def test_two_ways_to_the_same_file_are_one(run, folder):
    (folder / "sub").mkdir()
    (folder / "link").symlink_to("sub")
    for first, second in (("sub/../a.pt", "a.pt"), ("link/a.pt", "sub/a.pt")):
        code, _, err = run(GOLDEN_SEQUENTIAL, "-o", first, "-o", second)
        assert code == 2
        assert "is written twice" in err


def test_an_output_that_is_a_link_is_followed(run, folder):
    (folder / "real").mkdir()
    (folder / "real" / "b.pt").write_text("kept")
    for link, target in (("a.pt", "real/new.pt"), ("b.pt", "real/b.pt")):
        (folder / link).symlink_to(target)
        assert run(GOLDEN_SEQUENTIAL, "-o", link)[0] == 2
    assert (folder / "real" / "b.pt").read_text() == "kept"
    assert run(GOLDEN_SEQUENTIAL, "-o", "a.pt", "-o", "b.pt", "--force")[0] == 0
    assert names(folder) == ["a.pt", "b.pt", "real"]
    assert (folder / "a.pt").is_symlink()
    assert (folder / "b.pt").is_symlink()
    assert names(folder / "real") == ["b.pt", "new.pt"]
    assert len(load("a.pt")) == len(load("real/b.pt"))


def test_a_link_to_the_input_is_the_input(run, folder):
    (folder / "model.pt").write_bytes(GOLDEN_SEQUENTIAL.read_bytes())
    (folder / "link.pt").symlink_to("model.pt")
    code, _, err = run("model.pt", "-o", "link.pt", "--force")
    assert (code, err) == (2, "Error: link.pt is the input: give another name\n")
    assert (folder / "model.pt").read_bytes() == GOLDEN_SEQUENTIAL.read_bytes()


@pytest.mark.slow
def test_a_terminal_without_arrows_is_no_reason_to_fail(tmp_path):
    finished = python(
        "-m", "ceconv_convert", GOLDEN_SEQUENTIAL, "--dry-run", PYTHONIOENCODING="ascii", LC_ALL="C"
    )
    assert finished.returncode == 0, finished.stderr
    assert "1?3" in finished.stdout


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_failed_verdict(tmp_path):
    call = f"{sys.executable} -m ceconv_convert {GOLDEN_SEQUENTIAL} --dry-run"
    finished = subprocess.run(
        ["bash", "-c", f"{call} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 128 + 13
    assert without_phases(finished.stderr) == ""


STOPPED = """
import os, signal, sys
from ceconv_convert.cli import candidates, main
number, ignored, *sys.argv = int(sys.argv[1]), sys.argv[2] == "ignored", "ceconv-convert", *sys.argv[3:]
save = candidates.save_module
def stop(*arguments, **options):
    os.kill(os.getpid(), number)
    return save(*arguments, **options)
candidates.save_module = stop
usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
signal.signal(number, signal.SIG_IGN if ignored else usual)
main.main()
"""


def stopped(number, *, ignored):
    """Run in a process that gets a signal when its output is about to be written."""
    how = "ignored" if ignored else "default"
    return python("-c", STOPPED, int(number), how, GOLDEN_SEQUENTIAL, "-o", "out.pt")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="descriptors of Unix")
def test_closed_streams_do_not_reach_into_outputs(folder, monkeypatch):
    def without_streams():
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            os.close(number)
            setattr(sys, name, None)  # as in a new Python
        cli.main()

    monkeypatch.setattr(sys, "argv", ["ceconv-convert", str(GOLDEN_SEQUENTIAL), "-o", "a.onnx"])
    assert forked(without_streams)[0] == 0
    assert names(folder) == ["a.onnx"]
    onnx.checker.check_model("a.onnx")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the device of Linux")
@pytest.mark.parametrize("option", ["--dry-run", "--help"])
def test_a_terminal_that_takes_nothing_is_said(option):
    with open("/dev/full", "w") as full:
        finished = subprocess.run(
            [sys.executable, "-m", "ceconv_convert", GOLDEN_SEQUENTIAL, option],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert finished.returncode == 2
    assert without_phases(finished.stderr) == "Error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model-arg", "a={[]:1}"],
        ["--model-arg", f"a={'-' * 100_000}1"],
        ["--model-arg", f"a={'[]+' * 9000}1"],
        ["--input-shape", "3," + "9" * 5000 + ",3"],
        ["--model", "sys:exit"],
        ["--model", "sys:nothing"],
    ],
)
def test_strange_arguments_are_no_traceback(run, folder, arguments):
    torch.save(small_network().state_dict(), "a.pt")
    code, _, err = run("a.pt", *arguments)
    assert code == 2
    assert err


def test_links_that_go_in_a_circle_or_nowhere(run, folder):
    (folder / "a.pt").symlink_to("b.pt")
    (folder / "b.pt").symlink_to("a.pt")
    (folder / "c.pt").symlink_to("none/c.pt")
    for name, sentence in (("a.pt", "is a link in a circle"), ("c.pt", "there is no folder")):
        code, _, err = run(GOLDEN_SEQUENTIAL, "-o", name, "--force")
        assert code == 2
        assert sentence in err
    assert names(folder) == ["a.pt", "b.pt", "c.pt"]


@pytest.mark.slow  # torch is imported anew: a copy of a process that ran OpenVINO does not survive a signal
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_leaves_nothing_behind(folder, name):
    finished = stopped(signal.Signals[name], ignored=False)
    assert finished.returncode == 128 + signal.Signals[name], finished.stderr
    assert "Traceback" not in finished.stderr
    assert names(folder) == []


@pytest.mark.slow  # torch is imported anew
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_an_ignored_signal_stays_ignored(folder, name):
    """As under nohup, and as shells do with what they start in the background."""
    assert stopped(signal.Signals[name], ignored=True).returncode == 0
    assert names(folder) == ["out.pt"]


@pytest.mark.slow
def test_a_network_that_ends_in_decisions_converts(run, folder):
    torch.save(Deciding(), "deciding.pt")
    code, out, _ = run("deciding.pt", "--allow", "tests.test_verify.Deciding", "-o", "a.onnx")
    assert code == 0, out


CHECKPOINTS = [
    "lightning_resnet44.ckpt",
    "imagenet_hybrid18.pth.tar",
    "compiled_ddp_resnet18.pth",
    "torchvision_keys_resnet18.pth",
    "half_resnet18.pth",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_stays_a_checkpoint(run, folder, name):
    source = GOLDEN_SEQUENTIAL.with_name(name)
    code, out, _ = run(source, "-o", "a.ckpt", "-o", "b.safetensors")
    assert code == 0, out
    with torch.serialization.safe_globals([argparse.Namespace]):
        before, after = torch.load(source, weights_only=True), torch.load("a.ckpt", weights_only=True)
    nest = next((key for key in ("state_dict", "model") if key in before), None)
    if nest is not None:
        assert list(after) == [*before, "ceconv_convert"]
        before, after = before[nest], after[nest]
    assert same_state(after, migrate_state_dict(before))
    found = load_file("b.safetensors")
    assert same_state({key: found[key] for key in after}, dict(after))
    left_out = [line for line in out.splitlines() if line.startswith("b.safetensors: ")]
    assert len(left_out) == (nest is not None)
    if name.startswith("lightning"):
        assert "optimizer_states.0: the optimizer's state is carried over for 95 parameters, dropped" in out
    code, _, err = run("a.ckpt", "-o", "c.onnx")
    assert code == 3
    assert "a.ckpt: its weights are in the form conv3d already" in err


def test_a_checkpoint_is_kept_in_conv3d_alone(run, folder):
    source = GOLDEN_SEQUENTIAL.with_name("half_resnet18.pth")
    code, _, err = run(source, "--form", "conv2d", "-o", "a.pt")
    assert code == 2
    assert "a.pt would be a checkpoint in the form conv2d" in err
    assert run(source, "--form", "conv2d", "-o", "a.safetensors", "--quiet")[0] == 0


def test_hidden_layers_of_a_network_of_ones_own_are_known(run, folder):
    """Its 5-D weights alone would be ambiguous; the network that the factory builds tells."""
    torch.save({"net": {f"module.{k}": v for k, v in odd_network().state_dict().items()}}, "a.pt")
    code, out, err = run("a.pt", "--model", "tests.test_cli:odd_network", "-o", "b.pt")
    assert code == 0, out + err
    found = torch.load("b.pt", weights_only=True)["net"]
    converted = convert(odd_network())
    converted.load_state_dict({key.removeprefix("module."): tensor for key, tensor in found.items()})


def odd_network():
    torch.manual_seed(0)
    return nn.Sequential(
        CEConv2d(1, 3, 3, 4, 3, learnable=True),
        CEConv2d(3, 5, 4, 4, 3, separable=False),
        nn.Conv3d(4, 4, (2, 3, 3)),
        CEConv2d(4, 4, 4, 4, 3, separable=False),
    )


@pytest.mark.slow
def test_every_output_says_where_it_comes_from(run, folder):
    outputs = ["a.pt", "b.safetensors", "c.onnx"]
    assert run(COLOR_DIGITS, *(x for name in outputs for x in ("-o", name)))[0] == 0
    with safe_open("b.safetensors", "pt") as file:
        beside = json.loads(file.metadata()["ceconv_convert"])
    (entry,) = (prop for prop in onnx.load("c.onnx").metadata_props if prop.key == "ceconv_convert")
    within = json.loads(entry.value)
    attribute = load("a.pt").ceconv_convert
    onnx.checker.check_model("c.onnx", full_check=True)
    for made in (attribute, beside, within):
        assert made["tool"] == f"ceconv-convert {ceconv_convert.__version__}"
        assert made["source"] == COLOR_DIGITS.name
        assert made["source_sha256"] == hashlib.sha256(COLOR_DIGITS.read_bytes()).hexdigest()
        assert made["versions"]["torch"] == torch.__version__
        assert [layer["kind"] for layer in made["layers"]][:3] == ["lifting", "separable", "hidden"]
        assert made["form"] == ("auto" if made is within else "conv3d")
        assert made["verdict"]["passed"] is True
        assert made["verdict"]["error"] <= made["verdict"]["tolerance"]
    assert attribute == beside
    assert within["verdict"]["candidate"] == "c.onnx in ONNX Runtime"
    assert load("a.pt").state_dict().keys() == load_file("b.safetensors").keys()


@pytest.mark.slow
def test_the_same_call_writes_the_same_bytes(run, folder):
    for name in ("a.pt", "a.safetensors", "a.onnx"):
        contents = []
        for place in ("one", "two"):
            (folder / place).mkdir(exist_ok=True)
            assert run(COLOR_DIGITS, "-o", f"{place}/{name}")[0] == 0
            contents.append((folder / place / name).read_bytes())
        assert contents[0] == contents[1], name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_that_onnx_runtime_cannot_run_is_exported_in_float32(run, folder, dtype):
    model = small_network().to(dtype)
    torch.save(model, "a.pt")
    code, out, _ = run("a.pt", "-o", "a.onnx", "-o", "b.pt", "--report", "r.json")
    assert code == 0, out
    name = str(dtype).removeprefix("torch.")
    assert f"a.onnx: in float32, since ONNX Runtime's CPU provider does not convolve in {name}" in out
    assert load("b.pt")[0].weight.dtype == dtype
    x = torch.randn(2, 3, 20, 24)
    (found,) = OnnxRunner(folder / "a.onnx")(x)
    assert relative(found, model.double()(x.double())) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_a_file_in_whatever_dtype_is_judged_on_the_users_inputs_too(run, folder, dtype):
    model = small_network()
    torch.save(model.to(dtype), "a.pt")
    images = np.random.default_rng(0).random((6, 3, 20, 24))
    scores = model.double()(torch.from_numpy(images)).detach()
    best = scores.topk(2).values
    assert float((best[:, 0] - best[:, 1]).min()) > 1e-3  # or a rounding would decide
    labels = scores.argmax(1)
    labels[0] += 1 if labels[0] < 3 else -1
    np.savez("i.npz", images=images, labels=labels)
    outputs = ("-o", "a.onnx", "-o", "b.onnx", "-o", "c.safetensors", "--report", "r.json")
    code, out, err = run("a.pt", *outputs, "--inputs", "i.npz")
    assert code == 0, err
    report = json.loads((folder / "r.json").read_text())
    assert len(report["verdicts"]) == 3
    for verdict in report["verdicts"]:
        further = (
            0 if verdict["candidate"] == "the conv3d network" else 1 + 9
        )  # odd sizes, in a large batch too
        assert verdict["agreement"]["of"] == 6 + 6 + further
        assert verdict["accuracy"] == {"original": 5, "candidate": 5, "of": 6}
        assert [6, 3, 20, 24] in [case["shape"] for case in verdict["cases"]]
    graphs = ["a.onnx in ONNX Runtime", "b.onnx in ONNX Runtime"]
    assert list(report["hue"]["scores"]["curves"]) == ["original", "the conv3d network", *graphs]
    code, out, err = run("--verify-only", "a.pt", "a.onnx", "--inputs", "i.npz", "--report", "s.json")
    assert code == 0, err
    assert "accuracy 83.33%" in out
    assert graphs[0] in json.loads((folder / "s.json").read_text())["hue"]["scores"]["curves"]


def test_tensors_without_numbers_are_refused(run, folder):
    torch.save({k: v.to("meta") for k, v in small_network().state_dict().items()}, "a.pt")
    code, _, err = run("a.pt", "-o", "b.onnx")
    assert code == 2
    assert "0.weight has no numbers: it was saved from the meta device" in err
