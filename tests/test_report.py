"""Reports: a documented schema, a page that needs no network, the same bytes again."""

import copy
import json
import os
import re
import shutil
import subprocess

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from ceconv_convert import CEConv2d, convert, migrate_checkpoint
from ceconv_convert.files.provenance import save_tensors
from ceconv_convert.report.figures import error_per_layer, hue_figure
from ceconv_convert.report.write import make_report, render, write_report
from ceconv_convert.verification.tolerance import Measure
from ceconv_convert.verification.verdict import Verdict
from tests.support import COLOR_DIGITS, FIXTURES, names, small_network

IMAGES = FIXTURES / "color_digits_test.npz"
SHAPE = ("--input-shape", "3,16,16")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def verdict_of(out):
    """The line of the verdict, and those of its details."""
    lines = out.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(("PASS: ", "FAIL: ")))
    return lines[start:]


@pytest.mark.slow
def test_a_run_writes_its_reports(run, folder):
    outputs = ("-o", "a.onnx", "-o", "a.safetensors", "--report", "r.json", "--report", "r.html")
    code, out, _ = run(COLOR_DIGITS, *SHAPE, *outputs, "--inputs", IMAGES)
    assert code == 0
    assert out.endswith("  top-1 alike on 366 of 366\n  accuracy 98.89%, the original's 98.89%\n")
    report = json.loads((folder / "r.json").read_text())
    assert (report["schema"], report["version"], report["passed"]) == ("ceconv-convert/report", 1, True)
    assert report["line"].split(", ")[0] == verdict_of(out)[0].split(", ")[0]
    assert report["source"] == "color_digits.pt"
    assert [output["name"] for output in report["outputs"]] == ["a.onnx", "a.safetensors"]
    assert [output["bytes"] for output in report["outputs"]] == [
        (folder / name).stat().st_size for name in ("a.onnx", "a.safetensors")
    ]
    assert [verdict["candidate"] for verdict in report["verdicts"]] == [
        "the conv3d network",
        "a.onnx in ONNX Runtime",
    ]
    for verdict in report["verdicts"]:
        assert verdict["passed"]
        count = 366 if verdict["candidate"] == "the conv3d network" else 366 + 1 + 9
        assert verdict["agreement"] == {"same": count, "of": count}
        assert verdict["accuracy"] == {"original": 356, "candidate": 356, "of": 360}
        assert verdict["error"] <= verdict["tolerance"]
        layers = [step for step in verdict["steps"] if step["is_layer"]]
        assert [step["name"] for step in layers] == ["0", "3", "7", "11", "14"]
        assert verdict["symmetries"][-1]["name"] == "output"
    for layer in report["verdicts"][0]["layers"]:
        for measure in (layer["random"], layer["real"]):
            assert measure["error"] <= measure["tolerance"]
    assert report["hue"]["turn"] == 120
    scores = report["hue"]["scores"]["curves"]
    assert scores.keys() == {"original", "the conv3d network", "a.onnx in ONNX Runtime"}
    for curve in scores["original"]:  # pooled: back after each third of the circle
        assert abs(curve[0] - curve[12]) < 1e-4
        assert abs(curve[0] - curve[24]) < 1e-4
    rotations = report["hue"]["features"]["curves"]["the conv3d network"]
    for step in range(0, 24, 6):  # a turn by a third rolls them by one
        for rotation in range(3):
            rolled = rotations[(rotation + 1) % 3][step + 12]
            assert abs(rotations[rotation][step] - rolled) < 1e-4


@pytest.mark.slow
def test_the_schema_is_what_the_documentation_says(run, folder):
    run(COLOR_DIGITS, *SHAPE, "-o", "a.pt", "-o", "a.onnx", "--bench", "--report", "r.json")
    text = (FIXTURES.parent / "docs" / "report.md").read_text()
    documented = set(re.findall(r"^ *\| `([a-z0-9_.\[\]]+)`", text, re.MULTILINE))
    report = json.loads((folder / "r.json").read_text())
    found = set(report)
    found |= {f"verdicts[].{key}" for key in report["verdicts"][0]}
    for part in ("cases", "layers", "steps", "symmetries"):
        found |= {f"verdicts[].{part}[].{key}" for key in report["verdicts"][0][part][0]}
    found |= {f"hue.{key}" for key in report["hue"]} | {f"bench.{key}" for key in report["bench"]}
    found |= {f"bench.rows[].{key}" for key in report["bench"]["rows"][0]}
    found |= {f"outputs[].{key}" for key in report["outputs"][0]}
    found |= {f"layers[].{key}" for key in report["layers"][0]}
    assert found - documented == set()
    assert documented - found == set()


@pytest.mark.slow
@pytest.mark.usefixtures("one_capture")
def test_the_same_seed_gives_the_same_bytes(run, folder):
    for name in ("one", "two"):
        (folder / name).mkdir()
        reports = ("--report", f"{name}/r.json", "--report", f"{name}/r.html")
        run(COLOR_DIGITS, *SHAPE, "-o", f"{name}/a.onnx", *reports)
    for file in ("r.json", "r.html"):
        assert (folder / "one" / file).read_bytes() == (folder / "two" / file).read_bytes()
    run(COLOR_DIGITS, *SHAPE, "-o", "b.onnx", "--report", "r.json", "--seed", "5")
    assert (folder / "r.json").read_bytes() != (folder / "one" / "r.json").read_bytes()


def test_a_failed_verdict_is_reported_too(run, folder):
    model = small_network()
    torch.save(model, "a.pt")
    damaged = convert(model)
    with torch.no_grad():
        damaged[4].weight[1].mul_(1.01)
    torch.save(damaged, "b.pt")
    code, out, _ = run("--verify-only", "a.pt", "b.pt", "--report", "r.html", "--report", "r.json", "--quiet")
    assert code == 1
    assert len(out.splitlines()) == 1
    assert out.startswith("FAIL: b.pt: layer 4: its error")
    report = json.loads((folder / "r.json").read_text())
    assert not report["passed"]
    assert report["outputs"] == []
    page = (folder / "r.html").read_text()
    assert "<b>FAIL</b> a.pt" in page
    assert "layer 4: its error" in page


def nan_in(layer):
    layer.weight.view(-1)[0] = float("nan")


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda model: nan_in(model[0]),
        lambda model: nan_in(model[7]),
        lambda model: nan_in(model[-1]),
        lambda model: model[4].weight.fill_(float("inf")),
    ],
    ids=["first layer", "a later layer", "head", "infinite"],
)
def test_a_verdict_without_numbers_is_reported(run, folder, damage):
    """A report matters most where something is wrong."""
    model = small_network()
    torch.save(model, "a.pt")
    damaged = convert(model)
    with torch.no_grad():
        damage(damaged)
    torch.save(damaged, "b.pt")
    code, out, _ = run("--verify-only", "a.pt", "b.pt", "--report", "r.json", "--report", "r.html")
    assert code == 1
    assert "it gives NaN or Inf" in out
    report = json.loads((folder / "r.json").read_text(), parse_constant=pytest.fail)
    assert report["verdicts"][0]["error"] is None
    curves = report["hue"]["scores"]["curves"]
    assert all(number is not None for row in curves["original"] for number in row)
    assert None in {number for row in curves["b.pt"] for number in row}
    assert "it gives NaN or Inf" in (folder / "r.html").read_text()


def test_a_network_that_gives_nan_is_reported(run, folder):
    model = small_network()
    with torch.no_grad():
        nan_in(model[0])
    torch.save(model, "a.pt")
    code, out, _ = run("a.pt", "-o", "b.pt", "--report", "r.json", "--report", "r.html")
    assert code == 1
    assert "FAIL: the conv3d network: layer 0" in out
    json.loads((folder / "r.json").read_text(), parse_constant=pytest.fail)
    assert "<svg" in (folder / "r.html").read_text()


@pytest.mark.slow
def test_a_candidate_with_other_outputs_has_a_report(run, folder):
    model = small_network()
    torch.save(model, "a.pt")
    torch.save(nn.Sequential(*convert(model)[:-1], nn.Linear(5, 1)), "b.pt")
    code, out, _ = run("--verify-only", "a.pt", "b.pt", "--report", "r.json", "--report", "r.html")
    assert code == 1
    assert "it gives shape 1×1" in out
    assert list(json.loads((folder / "r.json").read_text())["hue"]["scores"]["curves"]) == ["original"]


def layer_step(name, error, problem=None):
    features = {"error": error, "original_error": 1e-7, "scale": 1.0, "tolerance": 1e-6}
    return {"name": name, "is_layer": True, "problem": problem, "features": features}


def test_layers_without_a_number_are_crossed_at_the_edge():
    steps = [layer_step("0", 1e-7), layer_step("3", None, "its error nan is above")]
    crossed = error_per_layer([{"candidate": "c", "steps": steps}])
    plain = error_per_layer([{"candidate": "c", "steps": [steps[0], layer_step("3", 1e-7)]}])
    assert crossed.count("<use") == plain.count("<use")  # one point less, and one cross
    assert "nan" not in re.sub("<style.*?</style>", "", crossed, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["$\\frac$.pt", "a$b", "_hidden", "日本", "b\udcff.pt", "\x00\x1b\n", "x" * 300, "--><script>"]
)
def test_any_name_can_be_drawn(name):
    steps = [layer_step(name, 1e-7), layer_step("7", 1e-6)]
    figure = error_per_layer([{"candidate": name, "steps": steps}])
    assert figure.startswith("<svg")
    assert "<script>" not in figure


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"original": [[None] * 37]},
        {"original": [[1e308] * 18 + [-1e308] * 19], "b": [[None] * 36 + [1.0]]},
    ],
    ids=["nothing", "no numbers", "huge and few"],
)
def test_any_curves_can_be_drawn(curves):
    shown = {"names": ["output 0"] if curves else [], "curves": curves}
    assert hue_figure({"angles": range(0, 361, 10), "turn": 120, "scores": shown}, "scores").startswith(
        "<svg"
    )


@pytest.mark.slow
def test_the_name_of_a_source_may_be_no_text(run, folder):
    source = os.fsdecode(b"a\xff.pt")
    torch.save(small_network(), source)
    assert run(source, "-o", "b.pt", "--report", "r.json", "--report", "r.html")[0] == 0
    assert json.loads((folder / "r.json").read_text())["source"] == "a\ufffd.pt"
    assert "a\ufffd.pt" in (folder / "r.html").read_text()


def candidates(folder, model):
    """The converted network in every kind of file."""
    converted = convert(model)
    torch.save(converted, folder / "module.pt")
    save_tensors(converted.state_dict(), folder / "weights.safetensors")
    save_tensors(convert(model, "conv2d").state_dict(), folder / "expanded.safetensors")
    torch.save({"epoch": 3, "model": model.state_dict()}, folder / "source.ckpt")
    migrate_checkpoint(folder / "source.ckpt", folder / "migrated.ckpt")
    return ["module.pt", "weights.safetensors", "expanded.safetensors", "migrated.ckpt"]


@pytest.mark.slow
def test_files_that_exist_are_judged(run, folder):
    model = small_network()
    torch.save(model, "a.pt")
    assert run("a.pt", "-o", "graph.onnx")[0] == 0
    for name in [*candidates(folder, model), "graph.onnx"]:
        before = (folder / name).read_bytes()
        code, out, err = run("--verify-only", "a.pt", name)
        assert code == 0, out + err
        assert verdict_of(out)[0].startswith(f"PASS: {name}")
        assert (folder / name).read_bytes() == before
    other = small_network(seed=1)
    torch.save(other, "other.pt")
    for name in ("module.pt", "weights.safetensors", "expanded.safetensors", "migrated.ckpt", "graph.onnx"):
        code, out, _ = run("--verify-only", "other.pt", name)
        assert code == 1
        assert verdict_of(out)[0].startswith(f"FAIL: {name}")


@pytest.mark.slow
def test_a_damaged_graph_names_its_layer(run, folder):
    torch.save(small_network(), "a.pt")
    run("a.pt", "-o", "graph.onnx", "--form", "conv3d")
    file = onnx.load("graph.onnx")
    tensor = next(tensor for tensor in file.graph.initializer if tensor.name == "7.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[0] = np.roll(values[0], 1, 1)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(file, "graph.onnx")
    code, out, _ = run("--verify-only", "a.pt", "graph.onnx")
    assert code == 1
    # Coset pooling hides the order of rotations from all that follows.
    assert out.splitlines()[-1].startswith("FAIL: graph.onnx in ONNX Runtime: layer 7: its error ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--verify-only", "a.pt"], "takes two files"),
        (["a.pt", "b.pt"], "a second file is judged with --verify-only"),
        (["--verify-only", "a.pt", "b.pt", "-o", "c.pt"], "writes reports only"),
        (["--verify-only", "a.pt", "none.pt"], "none.pt cannot be read"),
        (["--verify-only", "a.pt", "none.onnx"], "none.onnx"),
        (["--verify-only", "a.pt", "text.onnx"], "text.onnx"),
        (["--verify-only", "a.pt", "other.safetensors"], "its weights fit the converted network in none of"),
        (["--verify-only", "a.pt", "a.pt", "--report", "a.pt"], "the suffix decides the format"),
        (["a.pt", "--report", "r.txt"], "the suffix decides the format"),
        (["a.pt", "--report", "none/r.json"], "there is no folder none"),
        (["a.pt", "--inputs", "none.npy"], "none.npy cannot be read as inputs"),
        (["a.pt", "--inputs", "text.onnx"], "inputs are a folder of images"),
        (["a.pt", "--inputs", "empty"], "empty holds no images"),
        (["a.pt", "--inputs", "flat.npy"], "flat.npy cannot be read as inputs: it has inputs of shape [5]"),
        (["a.pt", "--inputs", "names.npz"], "names.npz cannot be read as inputs: it has the arrays pictures"),
        (["a.pt", "--inputs", "labels.npz"], "it has 2 inputs and labels of shape [3]"),
        (["a.pt", "--inputs", "objects.npy"], "objects.npy cannot be read as inputs"),
        (["a.pt", "--inputs", "broken"], "cannot be read as inputs"),
    ],
)
def test_what_cannot_be_judged_is_one_sentence(run, folder, arguments, sentence):
    torch.save(small_network(), "a.pt")
    torch.save(convert(small_network()), "b.pt")
    save_file({"x": torch.ones(3)}, "other.safetensors")
    (folder / "text.onnx").write_text("no graph")
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    np.save("flat.npy", np.ones(5))
    np.save("objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.savez("names.npz", pictures=np.ones((2, 3, 8, 8)))
    np.savez("labels.npz", images=np.ones((2, 3, 40, 40)), labels=np.ones(3))
    before = names(folder)
    code, _, err = run(*arguments)
    assert code == 2, err
    assert sentence in err
    assert names(folder) == before


@pytest.mark.slow
def test_the_users_inputs_in_every_kind_of_file(run, folder):
    with np.load(IMAGES) as arrays:
        images, labels = arrays["images"][:40], arrays["labels"][:40]
    np.save("a.npy", images.astype(np.float32) / 255)
    np.savez("b.npz", x=images, y=labels)
    np.savez("c.npz", inputs=np.moveaxis(images, 1, -1), targets=labels)
    save_file({"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}, "d.safetensors")
    for label in range(10):
        (folder / "e" / f"class {label}").mkdir(parents=True)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(np.moveaxis(image, 0, -1)).save(folder / "e" / f"class {label}" / f"{index}.png")
    found = {}
    for name in ("a.npy", "b.npz", "c.npz", "d.safetensors", "e"):
        code, out, err = run(COLOR_DIGITS, *SHAPE, "-o", "o.safetensors", "--force", "--inputs", name)
        assert code == 0, out + err
        assert "and 40 of the user's, 3×16×16" in out
        found[name] = " ".join(verdict_of(out)).partition("top-1 ")[2]
    assert found.pop("a.npy") == "alike on 46 of 46"
    assert len(set(found.values())) == 1
    assert "accuracy" in found["e"]


def test_names_from_a_file_are_text_in_the_page():
    record = {
        "tool": "t", "source": "<script>alert(1)</script>", "source_sha256": "0", "form": "conv3d",
        "versions": {}, "layers": [],
    }  # fmt: skip
    failed = Verdict("<b>x</b>", (), (), Measure(0, 0, 1, torch.float32), "<script>")
    page = render(make_report(record, basis=["<i>"], verdicts=[failed]))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>x</b>" not in page


def test_a_report_that_cannot_be_written_is_said(tmp_path):
    from ceconv_convert.errors import OutputError

    with pytest.raises(OutputError, match=r"r\.json cannot be written"):
        write_report({}, tmp_path / "none" / "r.json")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_real_browser(run, folder, scheme):
    run(COLOR_DIGITS, *SHAPE, "-o", "a.onnx", "--report", "r.html")
    text = (folder / "r.html").read_text()
    assert not re.search(r'(?:src|href)="(?!#)', text)  # nothing is fetched; links inside figures stay inside
    assert "url(http" not in text
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,2600"]
    if scheme == "dark":
        options.append("--blink-settings=preferredColorScheme=0")
    shot = folder / "shot.png"
    page = (folder / "r.html").as_uri()
    command = [CHROMIUM, *options, f"--screenshot={shot}", page]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    background = pixels[5, 5]
    assert (background.mean() < 60) == (scheme == "dark")
    assert ((pixels - background) ** 2).sum(-1).max() > 60000  # and text that stands out against it
    dom = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", page], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    assert dom.count("<svg") == 3
    assert "PASS" in dom


@pytest.mark.slow
def test_a_network_of_features_has_a_report_without_a_wheel(run, folder):
    torch.manual_seed(0)
    torch.save(nn.Sequential(CEConv2d(4, 4, 5, 2, 3), CEConv2d(4, 4, 2, 2, 3)), "a.pt")
    code, out, _ = run("a.pt", "-o", "b.onnx", "--report", "r.json", "--report", "r.html")
    assert code == 0, out
    assert json.loads((folder / "r.json").read_text())["hue"] is None
    assert "Hue sweep" not in (folder / "r.html").read_text()


@pytest.mark.slow
def test_reading_a_report_changes_nothing(run, folder):
    run(COLOR_DIGITS, *SHAPE, "-o", "a.safetensors", "--report", "r.json")
    report = json.loads((folder / "r.json").read_text())
    before = copy.deepcopy(report)
    render(report)
    assert report == before
