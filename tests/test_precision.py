"""Files of less than float32: what they lose, and whether the verdict sees what is wrong with them."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import numpy_helper

from ceconv_convert import SpecError, UnreadableInputError, VerificationError, export_onnx, load, verify
from ceconv_convert.conversion.find import find_layers
from ceconv_convert.rounding import judge_rounded as judging
from ceconv_convert.rounding.calibration import split_images
from ceconv_convert.rounding.deliver_rounded import KEY
from ceconv_convert.rounding.judge_rounded import judge_rounded
from ceconv_convert.rounding.round_file import has_vnni, ranges_of, write_int8
from ceconv_convert.rounding.units import units_of
from ceconv_convert.verification.reference import make_networks
from tests.support import COLOR_DIGITS, FIXTURES


@pytest.fixture(scope="module")
def digits():
    """Test images in 0 … 1, and their classes."""
    with np.load(FIXTURES / "color_digits_test.npz") as test:
        return torch.from_numpy(test["images"]).float() / 255, torch.from_numpy(test["labels"])


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """The trained network as an exact file."""
    path = tmp_path_factory.mktemp("exact") / "exact.onnx"
    export_onnx(load(COLOR_DIGITS), path, input_shape=(3, 16, 16))
    return path


@pytest.fixture(scope="module")
def int8(exact, digits):
    """The same quantized, on the first 60 images."""
    path = exact.with_name("int8.onnx")
    write_int8(exact, path, ranges_of(exact, digits[0][:60].split(20)), reduce_range=not has_vnni(None))
    return path


@pytest.fixture
def judge(exact, digits):
    specs = make_networks(load(COLOR_DIGITS), find_layers(load(COLOR_DIGITS))).specs
    units = units_of(onnx.load(exact))

    def judged(path, labels=digits[1][60:160]):
        arguments = {"precision": "int8", "made_for": "", "max_drop": 1.0, "kept": {}}
        return judge_rounded(exact, path, units, [digits[0][60:160]], specs, labels=labels, **arguments)

    return judged


def test_units_are_the_layers_and_the_head(exact):
    assert [unit.name for unit in units_of(onnx.load(exact))] == ["0", "3", "7", "11", "14", "20"]


@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.slow
def test_a_rounded_file_classifies_as_the_original(folder, digits, precision):
    x, labels = digits
    model = load(COLOR_DIGITS).eval()
    verdict = export_onnx(
        model, "made.onnx", input_shape=(3, 16, 16), precision=precision, inputs=x[:120], labels=labels[:120]
    )
    assert verdict.passed
    assert f"in {precision}" in str(verdict)
    session = onnxruntime.InferenceSession("made.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": x[120:].numpy()})
    assert found.dtype == np.float32
    with torch.no_grad():
        agreed = float((torch.from_numpy(found).argmax(1) == model(x[120:]).argmax(1)).float().mean())
    assert agreed >= 0.98
    texts = session.get_modelmeta().custom_metadata_map
    assert json.loads(texts[KEY])["precision"] == precision
    types = {tensor.data_type for tensor in onnx.load("made.onnx").graph.initializer}
    assert {"float16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}[precision] in types


def test_openvino_reads_the_same_file(int8, digits):
    x = digits[0][60:64].numpy()
    session = onnxruntime.InferenceSession(int8, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": x})
    other = openvino.Core().compile_model(str(int8), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
    assert np.abs(found - other).max() < 0.05 * np.abs(found).max()


def test_numbers_and_their_limits(int8, judge, digits):
    rounded = judge(int8)
    assert rounded.problem is None
    assert rounded.accuracy.of == rounded.agreement.of == rounded.images == 100
    assert all(layer.alone > 30 for layer in rounded.layers)
    whole, between = rounded.hue
    assert (whole.degrees, between.degrees) == (120, 60)
    assert whole.exact < 1e-5 < between.exact  # by design by whole rotations alone
    assert judge(int8, labels=None).drop == 100 - rounded.agreement.same
    wrong = replace(rounded, max_drop=-1.0)  # a limit that nothing meets
    assert "most noise comes from layer" in wrong.problem


def test_expanded_layers_stay_equivariant_in_int8(int8, judge):
    """Rotations of a kernel are the same numbers, and features have one scale: nothing tells them apart."""
    assert judge(int8).hue[0].rounded < 1e-6


def damaged(path, change, name):
    """A copy in which one tensor is another."""
    model = onnx.load(path)
    (tensor,) = (found for found in model.graph.initializer if found.name == name)
    array = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(change(array).astype(array.dtype), name))
    made = path.with_name("damaged.onnx")
    onnx.save(model, made)
    return made


MUTATIONS = {
    "4 bits": (lambda q: np.round(q * 7 / q.max()) * q.max() / 7, "weight_quantized"),
    "swapped channels": (lambda q: q[[0, 1, 2, 5, 4, 3, *range(6, len(q))]], "weight_quantized"),
    "a wrong scale": (lambda s: 1.25 * s, "weight_scale"),
    "one wrong scale": (lambda s: np.where(np.arange(len(s)) == 4, 2 * s, s), "weight_scale"),
}


@pytest.mark.parametrize("layer", ["3", "11", "14", "20"])
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_damaged_layer_is_named(int8, judge, layer, mutation):
    change, what = MUTATIONS[mutation]
    rounded = judge(damaged(int8, change, f"{layer}.{what}"))
    assert rounded.problem.startswith(f"layer {layer}: ")
    assert [found.name for found in rounded.layers if found.problem] == [layer]


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_calibration_on_noise_is_caught(exact, judge, scale):
    noise = 0.5 + scale * torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    path = exact.with_name("noise.onnx")
    write_int8(exact, path, ranges_of(exact, noise.split(20)))
    assert judge(path).problem.startswith("layer ")


@pytest.mark.slow
def test_bad_layers_go_back_to_float32(folder, digits, monkeypatch):
    """Layers below the limit first; then, while too much is lost, the noisiest."""
    limit = 40 if has_vnni(None) else 34  # a bit less is 6 dB
    monkeypatch.setitem(judging.LIMITS, "int8", (float(limit), 12.0))
    verdict = export_onnx(
        load(COLOR_DIGITS), "made.onnx", input_shape=(3, 16, 16), precision="int8", inputs=digits[0][:90]
    )
    precisions = {layer.name: (layer.precision, layer.why) for layer in verdict.rounded.layers}
    kept = {name for name, (precision, _) in precisions.items() if precision == "float32"}
    assert {"3", "14"} <= kept < set(precisions)
    assert f"{limit} is expected" in precisions["3"][1]
    floats = [t.name for t in onnx.load("made.onnx").graph.initializer if t.name in ("3.weight", "7.weight")]
    assert ("3.weight" in floats, "7.weight" in floats) == (True, "7" in kept)


@pytest.mark.slow
def test_what_cannot_pass_is_not_written(folder, digits, monkeypatch):
    monkeypatch.setattr("ceconv_convert.verification.rounded.Rounded.drop", 5.0)
    with pytest.raises(VerificationError, match="nothing was written.*5.00 points, at most 1 is allowed"):
        export_onnx(
            load(COLOR_DIGITS), "made.onnx", input_shape=(3, 16, 16), precision="int8", inputs=digits[0][:60]
        )
    assert not list(folder.iterdir())


def test_the_images_are_split_by_the_seed(digits):
    images, labels = digits
    first, again, other = (split_images(images, labels, seed=seed, source="it") for seed in (0, 0, 1))
    assert torch.equal(first.calibration, again.calibration)
    assert not torch.equal(first.calibration, other.calibration)
    assert (len(first.calibration), len(first.judging), len(first.labels)) == (120, 240, 240)
    together = torch.cat([first.calibration, first.judging])
    assert len(torch.unique(together.flatten(1), dim=0)) == len(torch.unique(images.flatten(1), dim=0))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.rand(15, 3, 8, 8),
            "15 images: int8 needs at least 16, 8 to calibrate on and 8 others",
        ),
        (torch.rand(1, 3, 8, 8).expand(40, -1, -1, -1), "1 different images among 40"),
        (torch.rand(20, 3, 1, 1).expand(-1, -1, 8, 8), "all 20 images of it are of one color each"),
    ],
)
def test_images_that_will_not_do(images, message):
    with pytest.raises(UnreadableInputError, match=message):
        split_images(images, None, seed=0, source="it")


def test_arguments_that_will_not_do(folder):
    model = load(COLOR_DIGITS)
    with pytest.raises(SpecError, match="one of exact, float16, int8; found 'int4'"):
        export_onnx(model, "made.onnx", precision="int4")
    with pytest.raises(SpecError, match="needs inputs"):
        export_onnx(model, "made.onnx", precision="int8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "a.onnx", "--precision", "int8"), "--precision int8 needs --inputs"),
        (("-o", "a.pt", "--precision", "float16"), "--precision float16 needs .onnx outputs only"),
        (("-o", "a.onnx", "--max-drop", "2"), "--max-drop needs --precision float16 or int8"),
        (("-o", "a.onnx", "--precision", "int8", "--inputs", "few.npy"), "few.npy has 3 images"),
    ],
)
def test_options_that_do_not_fit(run, folder, arguments, message):
    np.save("few.npy", np.random.default_rng(0).random((3, 3, 16, 16), np.float32))
    code, _, err = run(COLOR_DIGITS, *arguments)
    assert (code, sorted(path.name for path in folder.iterdir())) == (2, ["few.npy"])
    assert message in err


@pytest.mark.slow
def test_the_command_line_makes_an_int8_file(run, folder):
    arguments = ("--input-shape", "3,16,16", "--precision", "int8")
    inputs = ("--inputs", FIXTURES / "color_digits_test.npz")
    reports = ("--report", "r.json", "--report", "r.html")
    code, out, _ = run(COLOR_DIGITS, *arguments, *inputs, *reports, "-o", "a.onnx")
    assert code == 0
    assert "calibrated on 120 further images" in out
    rounded = json.loads((folder / "r.json").read_text())["verdicts"][0]["rounded"]
    assert rounded["accuracy"]["of"] == rounded["images"] == 240
    assert "signal to noise" in (folder / "r.html").read_text()
    model = onnx.load("a.onnx")
    assert {entry.key for entry in model.metadata_props} >= {KEY, "ceconv_convert"}
    code, _, _ = run(COLOR_DIGITS, *arguments, *inputs, "-o", "b.onnx", "--max-drop", "0", "--seed", "3")
    assert (folder / "b.onnx").exists() == (code == 0)


@pytest.mark.docs  # what docs/precision.md says of a trained network; a minute each
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_trained_resnet_loses_no_half_point(folder, target):
    with np.load(FIXTURES / "color_resnet_test.npz") as test:
        x, labels = torch.from_numpy(test["images"]).float() / 255, torch.from_numpy(test["labels"])
    verdict = export_onnx(
        load(FIXTURES / "color_resnet.pth"),
        "made.onnx",
        input_shape=(3, 32, 32),
        precision="int8",
        target=target,
        inputs=x[:360],
        labels=labels[:360],
        max_drop=0.5,
    )
    assert verdict.passed
    assert verdict.rounded.accuracy.of == 240
    assert {layer.precision for layer in verdict.rounded.layers} == {"int8"}


@pytest.mark.slow
def test_a_rounded_file_is_verified_by_what_it_loses(run, folder, digits):
    images, _ = digits
    np.savez("images.npz", images=images[:120].numpy())
    np.savez("others.npz", images=images[120:160].numpy())
    model, shape = load(COLOR_DIGITS), (3, 16, 16)
    export_onnx(model, "a.onnx", input_shape=shape, precision="int8", inputs=images[:120], processor="avx2")
    code, out, _ = run(COLOR_DIGITS, "--verify-only", "a.onnx", "--inputs", "others.npz")
    assert code == 0
    assert "PASS: a.onnx in int8 in ONNX Runtime: top-1 agreement loses" in out
    assert "dB worst channel" in out
    verdict = verify(model, "a.onnx", input_shape=shape, inputs=images[120:160])
    assert verdict.passed
    assert {layer.name for layer in verdict.rounded.layers} >= {"0", "3", "7"}
    with pytest.raises(UnreadableInputError, match="judged on images: add --inputs"):
        verify(model, "a.onnx", input_shape=shape)
    with torch.no_grad():
        model[7].weight.mul_(1.1)
    assert not verify(model, "a.onnx", input_shape=shape, inputs="others.npz").passed
    file = onnx.load("a.onnx")
    next(entry for entry in file.metadata_props if entry.key == KEY).value = '{"precision": "int2"}'
    onnx.save(file, "b.onnx")
    code, _, err = run(COLOR_DIGITS, "--verify-only", "b.onnx", "--inputs", "others.npz")
    assert code == 2
    assert "b.onnx: its text ceconv_convert.precision does not say how the file was made" in err


@pytest.mark.slow
def test_a_static_batch_is_filled_with_whole_batches(run, folder, digits):
    for name, count in (("some.npz", 60), ("few.npz", 20)):
        np.savez(name, images=digits[0][:count].numpy(), labels=digits[1][:count].numpy())
    options = (COLOR_DIGITS, "--input-shape", "9,3,16,16", "--static", "--precision", "int8", "-o", "a.onnx")
    code, out, _ = run(*options, "--inputs", "some.npz")
    assert code == 0
    assert "on 36 images" in out  # of 40; of 20 to calibrate on, 18
    code, _, err = run(*options, "--inputs", "few.npz", "--force")
    assert code == 2
    assert "8 images do not fill a batch of 9" in err
