"""What a file may ask for is bounded: image sizes inside the network, strides, paddings, paths to modules."""

from functools import partial

import pytest
import torch
from torch import nn

from ceconv_convert import CEConv2d, GroupCosetMaxPool, convert, load, plan, verify
from ceconv_convert.architectures.resnet import Bottleneck, ResNet
from ceconv_convert.conversion.find import find_layers
from ceconv_convert.errors import InputShapeError, UnreadableInputError
from ceconv_convert.files.sanity import check_skeleton
from ceconv_convert.kernel.spec import MOST_PADDING, MOST_STRIDE
from ceconv_convert.verification import memory
from ceconv_convert.verification import shapes as inputs
from ceconv_convert.verification.evidence import gather
from ceconv_convert.verification.layers import example_on_signs
from ceconv_convert.verification.reference import make_networks
from tests.support import small_network


def layers():
    return nn.Sequential(CEConv2d(1, 3, 3, 4, 3, padding=1), CEConv2d(3, 3, 4, 3, 3), GroupCosetMaxPool())


LARGE = {
    "an upsampling": lambda: nn.Upsample(scale_factor=500),
    "upsamplings": lambda: nn.Sequential(*(nn.Upsample(scale_factor=5) for _ in range(9))),
    "an upsampling to a size": lambda: nn.Upsample(size=(20_000, 20_000), mode="bicubic"),
    "a padded convolution": lambda: nn.Conv2d(3, 3, 3, padding=5000),
    "a transposed convolution": lambda: nn.ConvTranspose2d(3, 3, 3, stride=1000),
    "a dilated one": lambda: nn.ConvTranspose2d(3, 3, 3, dilation=5000),
    "a padding": lambda: nn.ZeroPad2d(20_000),
    "a constant padding": lambda: nn.ConstantPad2d((0, 10**6, 0, 10**3), 1.0),
    "a circular padding": lambda: nn.Sequential(
        nn.Upsample(scale_factor=20), nn.CircularPad2d((600,) * 4), Grow()
    ),
    "an adaptive pooling": lambda: nn.AdaptiveAvgPool2d(20_000),
    "another": lambda: nn.AdaptiveMaxPool2d(20_000),
    "an unfolding": lambda: nn.Unfold(3, padding=3000),
    "an embedding of images": lambda: nn.Sequential(nn.Upsample(scale_factor=30), Grow()),
}


class Grow(nn.Module):
    """A factor of a thousand, by expansion and a copy."""

    def forward(self, x):
        return x.unsqueeze(0).expand(1000, *x.shape).clone().sum(0)


class DataDependent(nn.Module):
    """Cannot be run without numbers."""

    def forward(self, x):
        count = int(x.abs().sum()) + 10_000
        return x.new_zeros(count, count) + x.flatten()[0]


LARGE["a size out of the data"] = DataDependent


@pytest.mark.slow
@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize("shape", [None, (3, 32, 32)])
def test_a_network_that_asks_for_gigabytes_is_not_run(make, order, shape):
    parts = [make(), layers()] if order == "before" else [layers(), make()]
    model = nn.Sequential(*parts).eval()
    with pytest.raises(
        InputShapeError, match=r"on inputs of shape 3×32×32 the network makes .* are taken: give"
    ):
        verify(model, convert(model), input_shape=shape)


def test_a_candidate_is_bounded_too():
    inputs.failure_on(nn.Linear(3, 4), (7,))  # it does not run, and the verdict says so
    with pytest.raises(
        InputShapeError, match="of shape 3×32×32 the network makes a tensor of shape 2×3×16000×16000"
    ):
        inputs.failure_on(nn.Upsample(scale_factor=500), (3, 32, 32))


def test_many_tensors_are_too_large_together(monkeypatch):
    monkeypatch.setattr(memory, "_MOST", 2**20)
    assert inputs.failure_on(nn.Sequential(*(nn.ELU() for _ in range(30))), (3, 32, 32)) is None
    sentence = "makes tensors, 1 MiB, and at most 1 MiB are taken: give a smaller"
    with pytest.raises(InputShapeError, match=sentence):
        inputs.failure_on(nn.Sequential(*(nn.ELU() for _ in range(50))), (3, 32, 32))


def test_no_further_shape_is_tried(monkeypatch):
    tried = []

    class Counting(nn.Module):
        def forward(self, x):
            tried.append(x.shape[-1])
            return nn.functional.interpolate(x, scale_factor=500)

    with pytest.raises(InputShapeError, match="of shape 3×32×32"):
        inputs.find_shape(partial(inputs.failure_on, Counting()), None, None)
    assert tried == [32]


def test_a_second_size_that_is_too_large_is_not_judged(monkeypatch):
    monkeypatch.setattr(memory, "_LARGEST", 40 * 2**10)
    monkeypatch.setattr(memory, "_EXPANDED", 0)
    evidence = gather(nn.Sequential(layers()).eval(), (3, 16, 16))
    assert evidence.fixed_size is not None
    assert "give a smaller" in evidence.fixed_size


def test_what_is_too_large_is_not_made(monkeypatch):
    """Not even the first tensor over the limit: it is asked for on the meta device alone."""
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor) and not found.is_meta:
                made.append(found.nbytes)
            return found

    with Watch(), pytest.raises(InputShapeError, match="makes a tensor"):
        inputs.failure_on(nn.Upsample(scale_factor=300), (3, 32, 32))
    assert max(made) < 100_000


def test_the_limit_grows_with_the_input_that_is_given(monkeypatch):
    monkeypatch.setattr(memory, "_LARGEST", 2**20)
    monkeypatch.setattr(memory, "_NUMBERS", 2 * 3 * 32 * 32)
    model = nn.Upsample(scale_factor=6)
    assert inputs.failure_on(model, (3, 32, 32)) is None
    assert inputs.failure_on(model, (3, 96, 96)) is None
    with pytest.raises(InputShapeError, match="makes a tensor"):
        inputs.failure_on(nn.Upsample(scale_factor=7), (3, 32, 32))


def test_the_limit_grows_with_the_weights_that_are_there(monkeypatch):
    monkeypatch.setattr(memory, "_LARGEST", 0)
    monkeypatch.setattr(memory, "_MOST", 0)
    assert inputs.failure_on(nn.Linear(8, 8), (8,)) is None
    with pytest.raises(InputShapeError, match="makes a tensor"):
        inputs.failure_on(nn.ReLU(), (8,))


@pytest.mark.slow
def test_a_network_of_the_size_of_the_published_ones_is_run():
    """A ResNet152 of width 64 as torch counts it, on the meta device: a real one takes ten seconds."""
    with torch.device("meta"):
        model = ResNet(Bottleneck, [3, 8, 36, 3], [37, 74, 148, 296], 1000, 3, True, separable=True).eval()
        x = torch.zeros(2, 3, 224, 224)
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    with torch.no_grad(), memory.BoundedMemory(x, held):
        assert model(x).shape == (2, 1000)


def test_networks_of_all_kinds_run_as_before():
    assert inputs.failure_on(small_network(), (3, 32, 32)) is None
    assert inputs.failure_on(nn.LSTM(3, 4), (7, 3)) is None
    assert inputs.failure_on(nn.Sequential(nn.Linear(7, 3), nn.Unflatten(0, (1, -1))), (7,)) is None
    assert "cannot be multiplied" in str(inputs.failure_on(nn.Linear(3, 4), (7,)))


@pytest.mark.parametrize(
    ("stride", "padding"),
    [(MOST_STRIDE, 0), (1, MOST_PADDING), (MOST_STRIDE, MOST_PADDING), ((1, 1024), (32, 0))],
)
def test_the_largest_stride_and_padding_cost_little(stride, padding):
    model = nn.Sequential(CEConv2d(1, 3, 3, 4, 3, stride=stride, padding=padding), GroupCosetMaxPool()).eval()
    (row,) = plan(model)
    assert row.refusal is None
    specs = make_networks(model, find_layers(model)).specs
    seen = example_on_signs(model[0], specs["0"], 0, torch.zeros(1))
    assert seen.input.numel() + seen.original.numel() < 500_000


@pytest.mark.parametrize("stride", [2, 3, (1, 2), 8, 32, (64, 5)])
def test_a_wrong_stride_is_caught_on_the_layers_own_input(stride):
    original = CEConv2d(1, 3, 3, 4, 3, stride=stride, padding=1).eval()
    converted = convert(original)
    model, wrong = nn.Sequential(original), nn.Sequential(converted)
    shape = (3, 200, 200)
    assert verify(model, wrong, input_shape=shape).passed
    rows, columns = converted.stride[-2:]
    converted.stride = (*converted.stride[:-2], rows, columns + 1)
    if hasattr(converted, "conv"):
        converted.conv.stride = converted.stride
    verdict = verify(model, wrong, input_shape=shape)
    assert not verdict.passed


def doubled(times):
    """2**times paths to one layer, in a file of a few modules."""
    model = nn.Sequential(CEConv2d(3, 3, 4, 4, 3, padding=1, separable=False))
    for _ in range(times):
        model = nn.Sequential(model, model)
    return nn.Sequential(CEConv2d(1, 3, 3, 4, 3, padding=1), model)


@pytest.mark.parametrize("times", [9, 12, 40])
def test_paths_to_one_layer_are_bounded(tmp_path, times):
    torch.save(doubled(times), tmp_path / "a.pt")
    with pytest.raises(UnreadableInputError, match=rf"too many paths to its {times + 4} modules"):
        load(tmp_path / "a.pt")


def test_shared_modules_and_deep_networks_are_walked():
    check_skeleton(doubled(7))
    act = nn.ReLU()
    check_skeleton(nn.Sequential(*(part for _ in range(300) for part in (nn.Linear(1, 1), act))))
    with torch.device("meta"):
        check_skeleton(ResNet(Bottleneck, [3, 8, 36, 3], [37, 74, 148, 296], 1000, 3, True, separable=True))


@pytest.mark.slow
def test_more_modules_than_anybody_walks():
    with pytest.raises(UnreadableInputError, match="too many paths to its 10002 modules"):
        check_skeleton(nn.Sequential(*(nn.Identity() for _ in range(10_001))))


def test_a_converted_layer_of_too_many_rotations(tmp_path):
    model = convert(small_network())
    model[4].out_rotations = 10**9
    torch.save(model, tmp_path / "a.pt")
    with pytest.raises(UnreadableInputError, match="module 4 is damaged: its out_rotations is 1000000000"):
        load(tmp_path / "a.pt")


def test_a_compiled_call_is_refused():
    model = nn.Sequential(nn.ReLU())
    vars(model[0])["_compiled_call_impl"] = nn.Identity()  # pickled by hand: torch leaves it out
    with pytest.raises(
        UnreadableInputError, match="module 0 is damaged: its _compiled_call_impl is Identity"
    ):
        check_skeleton(model)
