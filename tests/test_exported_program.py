"""Converted networks on PyTorch's own roads: torch.export, .pt2 files without this package, torch.compile."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from ceconv_convert import convert, load
from ceconv_convert.architectures.cecnn import CECNN
from ceconv_convert.forms.table import FORMS
from tests.support import COLOR_DIGITS, shake, small_network

DYNAMIC = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
ALONE = """
import sys
class Absent:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] == "ceconv_convert":
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import torch
texts = {"ceconv_convert": ""}
program = torch.export.load("a.pt2", extra_files=texts)
torch.save((program.module()(torch.load("x.pt")), texts["ceconv_convert"]), "y.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rotations", [3, 4])
def test_a_converted_module_is_exported_with_dynamic_batch_and_size(rotations, form):
    converted = convert(shake(small_network(rotations=rotations)), form).eval()
    program = torch.export.export(converted, (torch.randn(2, 3, 32, 32),), dynamic_shapes=(DYNAMIC,))
    for shape in ((1, 3, 32, 32), (5, 3, 40, 28)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), converted(x))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_converted_module_compiles_without_a_graph_break(form):
    converted = convert(shake(small_network()), form).eval().requires_grad_(False)

    # A function of ours, since torch compiles a Sequential's children one by one.
    @torch.compile(fullgraph=True, backend="eager")
    def compiled(x):
        return converted(x)

    for shape in ((2, 3, 32, 32), (3, 3, 40, 28)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), converted(x))


@pytest.mark.slow
def test_plain_torch_runs_a_pt2_file(run, folder):
    code, out, _ = run(COLOR_DIGITS, "--input-shape", "3,16,16", "-o", "a.pt2", "-o", "b.safetensors")
    assert code == 0
    assert "a.pt2 in torch.export: worst error" in out
    x = torch.randn(5, 3, 24, 20)
    torch.save(x, "x.pt")
    finished = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, cwd=folder)
    assert finished.returncode == 0, finished.stderr
    y, text = torch.load("y.pt")
    expected = load(COLOR_DIGITS).eval()(x)
    torch.testing.assert_close(y, expected.detach(), rtol=1e-4, atol=1e-4)
    made = json.loads(text)
    assert (made["form"], made["verdict"]["passed"], len(made["layers"])) == ("conv3d", True, 5)


@pytest.mark.slow
def test_a_pt2_file_says_what_is_not_dynamic(run, folder):
    torch.save(shake(CECNN(4, 3, 7, True)), "a.pt")
    code, out, _ = run("a.pt", "--form", "conv2d", "-o", "a.pt2")
    assert code == 0
    assert "a.pt2: height and width cannot be dynamic" in out
    assert torch.export.load("a.pt2").module()(torch.randn(7, 3, 28, 28)).shape == (7, 10)


@pytest.mark.slow
def test_a_pt2_file_is_verified_where_it_may_run_code(run, folder):
    call = (COLOR_DIGITS, "--input-shape", "3,16,16")
    run(*call, "-o", "a.pt2")
    code, _, err = run(*call, "--verify-only", "a.pt2")
    assert code == 2
    assert "pass --unsafe if you trust it" in err
    code, out, _ = run(*call, "--verify-only", "a.pt2", "--unsafe", "--report", "r.json")
    assert code == 0
    assert "PASS: a.pt2 in torch.export" in out
    assert json.loads((folder / "r.json").read_text())["verdicts"][0]["symmetries"]
    program = torch.export.load("a.pt2")
    with torch.no_grad():
        next(iter(program.state_dict.values()))[0, 0] *= 1.01
    torch.export.save(program, "b.pt2")
    code, out, _ = run(*call, "--verify-only", "b.pt2", "--unsafe")
    assert code == 1
    assert "FAIL: b.pt2 in torch.export" in out
    (folder / "c.pt2").write_bytes((folder / "a.pt2").read_bytes()[:90_000])
    code, _, err = run(*call, "--verify-only", "c.pt2", "--unsafe")
    assert code == 2
    assert "c.pt2 cannot be read as an exported program" in err


@pytest.mark.slow
def test_a_pt2_file_that_is_wrong_is_not_written(run, folder, monkeypatch):
    wrong = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    wrong(torch.randn(1, 3, 16, 16))
    monkeypatch.setattr("ceconv_convert.exported_program.unwrapped", lambda _: wrong.eval())
    code, out, _ = run(COLOR_DIGITS, "--input-shape", "3,16,16", "-o", "a.pt2")
    assert code == 1
    assert "FAIL: a.pt2 in torch.export" in out
    assert not (folder / "a.pt2").exists()
