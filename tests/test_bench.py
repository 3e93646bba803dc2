"""Measurements: what is measured, whether it is plausible, how it is asked for. Never how fast it is."""

import json
import re
from dataclasses import asdict

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ceconv_convert import CEConv2d, convert
from ceconv_convert.bench.bench_table import bench_as_lines, row_as_texts
from ceconv_convert.bench.measure import Bench, Row, interleave, measure, multiplications, provider_named
from ceconv_convert.bench.session_probe import probe
from ceconv_convert.errors import BenchError
from ceconv_convert.onnx.deliver import exportable
from ceconv_convert.onnx.export import write_onnx
from ceconv_convert.onnx.passes.cost_models import cost_model
from ceconv_convert.report.write import make_report
from ceconv_convert.verification.tolerance import Measure
from ceconv_convert.verification.verdict import Verdict
from tests.support import shake, small_network

FORMS = ("original", "conv3d", "conv2d", "fourier", "auto")


def test_candidates_are_interleaved_and_the_first_rounds_discarded():
    order = []
    times = interleave({name: lambda name=name: order.append(name) for name in "abc"}, seconds=0.0)
    assert order == list("abc") * (len(order) // 3)
    assert {name: len(found) for name, found in times.items()} == dict.fromkeys("abc", len(order) // 3 - 2)


@pytest.mark.slow
def test_multiplications_are_those_of_the_definition(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(CEConv2d(1, 3, 3, 4, 3), CEConv2d(3, 3, 4, 8, 3, padding=1)).eval()
    x = torch.randn(1, 3, 12, 14)
    lifting, hidden = 9 * 3 * 12 * 10 * 12, 9 * 12 * 24 * 10 * 12
    found = {}
    for form in ("conv3d", "conv2d", "fourier"):
        example, costs = torch.randn(2, *x.shape[1:]), cost_model("avx512")  # it decides on padding
        write_onnx(exportable(model, form), tmp_path / "a.onnx", example, form=form, costs=costs)
        found[form] = multiplications(tmp_path / "a.onnx", x)
    assert found["conv2d"] == lifting + hidden
    assert found["conv3d"] == lifting + hidden  # a circular layer is as much work, in another order
    assert found["fourier"] < found["conv2d"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_capture")
def test_a_measurement(tmp_path):
    torch.manual_seed(0)
    model = shake(small_network()).eval()
    files = {}
    for form in FORMS:
        files[form] = tmp_path / f"{form}.onnx"
        network = model if form == "original" else exportable(model, form)
        write_onnx(network, files[form], torch.randn(2, 3, 32, 32), form=form)
    modules = {"original": model, "fourier": convert(model, "fourier").eval()}
    threads = torch.get_num_threads()
    x = torch.randn(2, 3, 32, 32)
    bench = measure(files, modules, x, provider="CPUExecutionProvider", threads=1)
    assert torch.get_num_threads() == threads
    assert (bench.shape, bench.threads) == ((2, 3, 32, 32), 1)
    assert {row.name for row in bench.rows if row.runtime == "openvino"} >= {
        f"{form}, float32, OpenVINO" for form in FORMS
    }
    assert [(row.runtime, row.name) for row in bench.rows if row.runtime != "openvino"] == [
        *(("onnx", form) for form in FORMS),
        ("torch", "original"),
        ("torch", "fourier"),
    ]
    for row in bench.rows:
        if row.runtime == "openvino":  # in bfloat16 where the processor has it
            assert row.error < 0.05
            continue
        assert row.seconds > 0
        assert row.runs >= 5
        assert row.error < 1e-5
        if row.name == "original":
            assert row.ratio == 1
        if row.runtime == "onnx":
            assert row.size == files[row.name].stat().st_size
            assert row.load > 0
            assert row.memory is None or row.memory > 0
            assert row.limit == pytest.approx(row.multiplications / bench.rate)
            assert row.multiplications == 2 * multiplications(files[row.name], x[:1])
        assert len(row_as_texts(asdict(row))) == 9
    json.dumps(asdict(bench))


@pytest.mark.slow
def test_what_is_wrong_shows(tmp_path):
    """The speed of something that computes another thing is worth nothing: the error stands beside it."""
    model = small_network().eval()
    files = {name: tmp_path / f"{name}.onnx" for name in ("original", "auto")}
    write_onnx(model, files["original"], torch.randn(2, 3, 32, 32))
    write_onnx(exportable(model, "auto"), files["auto"], torch.randn(2, 3, 32, 32))
    file = onnx.load(files["auto"])
    tensor = next(tensor for tensor in file.graph.initializer if tensor.name == "4.weight")
    tensor.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(file, files["auto"])
    bench = measure(files, {}, torch.randn(1, 3, 32, 32), provider="CPUExecutionProvider")
    assert [row.error > 1e-3 for row in bench.rows if row.runtime != "openvino"] == [False, True]


class Outputs(nn.Module):
    """Outputs of a function of the features."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = CEConv2d(1, 3, 3, 4, 3), function

    def forward(self, x):
        return self.function(self.layer(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda y: (None, y),
        lambda y: {"aux": [None], "all": y.amax(2)},
        lambda y: y > 0,
        lambda y: y.argmax(1),
        lambda y: 0 * y,
    ],
    ids=["none first", "nested", "bools", "integers", "zeros"],
)
def test_whatever_a_network_gives(function):
    torch.manual_seed(0)
    modules = {"original": Outputs(function).eval()}
    modules["conv3d"] = convert(modules["original"])
    bench = measure({}, modules, torch.randn(1, 3, 8, 8), provider="CPUExecutionProvider")
    assert all(row.error < 1e-6 for row in bench.rows if row.runtime != "openvino")
    assert all(row.low <= row.seconds <= row.high for row in bench.rows)


def test_every_output_counts_and_what_is_not_finite_is_null():
    torch.manual_seed(0)
    modules = {"original": Outputs(lambda y: (y, y.amax(2))).eval()}
    modules["wrong"] = Outputs(lambda y: (y, 1000 * y.amax(2))).eval()
    modules["infinite"] = Outputs(lambda y: (y, y.amax(2) / 0)).eval()
    for module in modules.values():
        module.load_state_dict(modules["original"].state_dict())
    bench = measure({}, modules, torch.randn(1, 3, 8, 8), provider="CPUExecutionProvider")
    assert [row.error > 100 for row in bench.rows if row.runtime != "openvino"] == [False, True, True]
    verdict = Verdict("a", (), (), Measure(0, 0, 1, torch.float32), "not judged")
    data = make_report({}, verdicts=[verdict], bench=asdict(bench))["bench"]
    json.dumps(data, allow_nan=False)
    assert [row["error"] is None for row in data["rows"] if row["runtime"] != "openvino"] == [
        False,
        False,
        True,
    ]


@pytest.mark.slow
def test_what_cannot_be_measured_is_said(tmp_path):
    def refusing(y):
        if len(y) > 2:
            raise RuntimeError("batch too large\nat some line")
        return y

    x = torch.randn(3, 3, 8, 8)
    with pytest.raises(BenchError, match="measured on 3×3×8×8: batch too large$"):
        measure({}, {"original": Outputs(refusing)}, x, provider="CPUExecutionProvider")
    write_onnx(convert(Outputs(lambda y: y)), tmp_path / "a.onnx", torch.randn(2, 3, 8, 8))
    with pytest.raises(RuntimeError, match="nvalid"):
        probe(tmp_path / "a.onnx", "CPUExecutionProvider", 1, (1, 5, 8, 8))
    with (
        pytest.warns(UserWarning, match="CUDA"),
        pytest.raises(BenchError, match="CUDAExecutionProvider does not load here: ONNX Runtime took CPU"),
    ):
        measure({"original": tmp_path / "a.onnx"}, {}, x, provider="CUDAExecutionProvider")


def test_busy_machines_are_noticed():
    row = Row("auto", "onnx", 2e-3, 1e-3, 4e-3, 9, 1.0, 0.0)
    steady = Row("conv3d", "onnx", 2e-3, 1.9e-3, 2.1e-3, 9, 1.0, 0.0)
    lines = bench_as_lines(Bench((1, 3, 8, 8), 2, "CPUExecutionProvider", "a processor", 1e11, (row, steady)))
    assert [line for line in lines if "something else" in line] == [
        "auto, ONNX Runtime: a quarter of its runs took more than 4.00 ms, another less than 1.00 ms: "
        "something else may run on this machine"
    ]


def test_providers():
    assert provider_named("CPU") == provider_named("CPUExecutionProvider") == "CPUExecutionProvider"
    with pytest.raises(BenchError, match=r"no execution provider 'warp'; it has: .*cpu"):
        provider_named("warp")


@pytest.mark.slow
@pytest.mark.usefixtures("one_capture")
def test_the_command_line_measures_and_reports(run, folder):
    torch.save(shake(small_network()), "a.pt")
    code, out, err = run(
        "a.pt", "--bench", "--batch", "2", "--threads", "1", "--report", "r.json", "--report", "r.html"
    )
    assert code == 0, out + err
    for form in FORMS:
        assert re.search(rf"^{form}, ONNX Runtime +[0-9.]+ ms +[0-9.]+×", out, re.MULTILINE)
    assert "fourier, PyTorch eager" in out
    assert "2×3×32×32 on " in out
    assert "1 thread, CPUExecutionProvider" in out
    assert not (folder / "a.conv3d.pt").exists()
    report = json.loads((folder / "r.json").read_text())
    assert [row["name"] for row in report["bench"]["rows"]][:5] == list(FORMS)
    page = (folder / "r.html").read_text()
    assert "<h2>Speed</h2>" in page
    assert "fourier, PyTorch eager" in page


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.pt", "--batch", "2"], "--batch needs --bench"),
        (["a.pt", "--threads", "2"], "--threads needs --bench"),
        (["a.pt", "--processor", "avx2"], "--processor needs an .onnx output"),
        (["a.pt", "--form", "conv2d", "-o", "b.onnx", "--processor", "avx2"], "in auto or fourier"),
        (["a.pt", "--bench", "--form", "auto"], "--form auto needs .onnx outputs only"),
        (["a.pt", "--bench", "--quiet"], "add a --report"),
        (["a.pt", "--bench", "--threads", "10000"], "--threads 10000 is more than the"),
        (["a.pt", "--bench", "--batch", "1000000000"], "a batch of 1000000000 cannot be made"),
        (["a.pt", "--seed", str(2**63)], "is not in the range"),
        (["a.pt", "--bench", "--dry-run"], "--bench excludes"),
        (["a.pt", "--bench", "--batch", "0"], "0 is not in the range"),
        (["a.pt", "--bench", "--provider", "warp"], "no execution provider 'warp'"),
        (["a.pt", "--bench", "--provider", "azure"], "no execution provider 'azure'"),
        (["a.pt", "--form", "auto", "-o", "b.pt"], "--form auto needs .onnx outputs only"),
    ],
)
def test_what_cannot_be_asked_for(run, folder, arguments, sentence):
    torch.save(small_network(), "a.pt")
    code, _, err = run(*arguments)
    assert code == 2
    assert sentence in err
    assert sorted(path.name for path in folder.iterdir()) == ["a.pt"]


@pytest.mark.slow
def test_auto_alone_names_its_output(run, folder):
    torch.save(shake(small_network()), "a.pt")
    code, out, _ = run("a.pt", "--form", "auto")
    assert code == 0
    assert (folder / "a.auto.onnx").exists()
    assert "a.auto.onnx: " in out
    assert np.isfinite(sum(map(float, re.findall(r"worst error ([0-9.e-]+)", out))))
