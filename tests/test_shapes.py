"""Input shapes as people give them: with a batch of 1, with another, in another order."""

import weakref

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ceconv_convert import CEConv2d, convert, export_onnx, verify
from ceconv_convert.conversion.find import find_layers
from ceconv_convert.errors import InputShapeError
from ceconv_convert.verification.evidence import gather
from ceconv_convert.verification.judge import judge_module
from ceconv_convert.verification.shapes import find_shape
from tests.support import small_network


def hidden():
    torch.manual_seed(0)
    return nn.Sequential(CEConv2d(3, 3, 4, 2, 3), nn.ReLU(), CEConv2d(3, 3, 2, 2, 3))


def gray():
    """A layer to one rotation sees as many channels as it likes."""
    torch.manual_seed(0)
    return nn.Sequential(CEConv2d(1, 1, 1, 2, 3), nn.ReLU(), CEConv2d(1, 1, 2, 2, 3))


UNDERSTOOD = {
    "an image": (small_network, (3, 19, 23), (3, 19, 23)),
    "a batch of one image": (small_network, (1, 3, 19, 23), (3, 19, 23)),
    "a list": (small_network, [1, 3, 19, 23], (3, 19, 23)),
    "torch's": (small_network, torch.Size([3, 19, 23]), (3, 19, 23)),
    "an image of one rotation": (small_network, (3, 1, 19, 23), (3, 1, 19, 23)),
    "one gray image": (gray, (1, 1, 19, 23), (1, 19, 23)),
    "features": (hidden, (4, 3, 9, 8), (4, 3, 9, 8)),
    "a batch of one of features": (hidden, (1, 4, 3, 9, 8), (4, 3, 9, 8)),
    "planes": (hidden, (12, 9, 8), (12, 9, 8)),
    "a batch of one image, converted": (lambda: convert(small_network()), (1, 3, 19, 23), (3, 19, 23)),
    "features, converted": (lambda: convert(hidden()), (4, 3, 9, 8), (4, 3, 9, 8)),
    "a batch of one of features, converted": (lambda: convert(hidden()), (1, 4, 3, 9, 8), (4, 3, 9, 8)),
}  # fmt: skip


@pytest.mark.parametrize(("network", "given", "shape"), UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_a_batch_of_one_is_taken_off(network, given, shape):
    evidence = gather(network(), given)
    assert evidence.shape == shape
    assert evidence.random[0].input.shape == (1, *shape)
    assert len(evidence.fitting((None, *shape)).random) >= 3


def test_features_of_one_channel_are_no_batch():
    torch.manual_seed(0)
    assert gather(nn.Sequential(CEConv2d(3, 3, 1, 2, 3)), (1, 3, 9, 8)).shape == (1, 3, 9, 8)


WRONG = {
    "another batch": (
        small_network,
        (8, 3, 19, 23),
        "8×3×19×23 is not the shape of one input: .* as in 3,224,224",
    ),
    "another batch of features": (
        hidden,
        (8, 4, 3, 9, 8),
        "8×4×3×9×8 is not the shape of one input: .*, for features",
    ),
    "features": (
        small_network,
        (1, 3, 3, 19, 23),
        "1×3×3×19×23 is not the shape of one input: .*, for an image",
    ),
    "colors last": (small_network, (19, 23, 3), "of shape 19×23×3: .*; channels come first, as in 3,224,224"),
    "colors in the middle": (small_network, (19, 3, 23), "of shape 19×3×23: .*; channels come first"),
    "a batch, colors last": (small_network, (1, 19, 23, 3), "of shape 19×23×3: .*; channels come first"),
    "zeros": (small_network, (3, 0, 5), "is not an input shape"),
    "less than zero": (small_network, (3, -1, 5), "is not an input shape"),
    "two numbers": (small_network, (19, 23), "is not an input shape"),
    "no numbers": (small_network, (), "is not an input shape"),
    "fractions": (small_network, (3, 19.5, 23), "is not an input shape"),
    "text": (small_network, "3,19,23", "'3,19,23' is not an input shape"),
    "a number": (small_network, 3, "3 is not an input shape"),
}


@pytest.mark.parametrize(("network", "given", "sentence"), WRONG.values(), ids=WRONG)
def test_shapes_of_no_input(network, given, sentence):
    with pytest.raises(InputShapeError, match=sentence):
        gather(network(), given)


def test_batches_of_one_in_the_users_inputs_are_taken_off_too():
    evidence = gather(small_network(), data=torch.ones(40, 1, 3, 19, 23))
    assert evidence.shape == (3, 19, 23)
    assert [x.shape for x in evidence.fitting((None, 3, 19, 23)).data] == [(32, 3, 19, 23), (8, 3, 19, 23)]
    with pytest.raises(InputShapeError, match="does not run on inputs of shape 4×19×23"):
        gather(small_network(), (3, 19, 23), data=torch.ones(2, 4, 19, 23))


@pytest.mark.slow
def test_the_public_functions_take_a_batch_of_one(tmp_path):
    model = small_network()
    assert verify(model, convert(model), input_shape=(1, 3, 19, 23)).passed
    assert export_onnx(model, tmp_path / "a.onnx", input_shape=(1, 3, 19, 23)).passed
    sides = onnx.load(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape.dim
    assert len(sides) == 4


@pytest.mark.parametrize(
    ("given", "code", "sentence"),
    [
        ("1,3,19,23", 0, "1×3×19×23 is a batch of 1: an input is 3×19×23\n"),
        ("8,3,19,23", 2, "8×3×19×23 is not the shape of one input"),
        ("19,23,3", 2, "channels come first, as in 3,224,224"),
        ("1,1,3,19,23", 2, "is not the shape of one input"),
        ("19,23", 2, "'19,23' is not an input shape"),
        ("1,1,1,3,19,23", 2, "is not an input shape"),
    ],
)
def test_shapes_on_the_command_line(run, folder, given, code, sentence):
    torch.save(small_network(), "a.pt")
    found, out, err = run("a.pt", "-o", "b.safetensors", "--input-shape", given)
    assert (found, sentence in out + err) == (code, True), out + err


@pytest.mark.slow
def test_a_file_of_a_fixed_size_says_that_inputs_are_of_another(run, folder):
    """torch exports this pooling for the example's size alone."""
    torch.save(
        nn.Sequential(*small_network()[:9], nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 4)), "a.pt"
    )
    np.save("a.npy", np.ones((2, 3, 36, 33)))
    code, out, err = run("a.pt", "-o", "b.onnx", "--input-shape", "3,32,32", "--inputs", "a.npy")
    assert code == 0, err
    assert "b.onnx: not judged on the user's inputs, which are of another size\n" in out


def test_what_does_not_need_a_networks_size_is_judged_on_smaller_images():
    evidence = gather(small_network(), (3, 96, 100))
    shapes = [tuple(example.input.shape) for example in evidence.random]
    assert shapes == [(1, 3, 96, 100), (1, 3, 64, 64), (2, 3, 64, 64), (3, 3, 72, 68)]
    assert evidence.trace.example.input.shape == (1, 3, 64, 64)
    assert evidence.trace.example.original.steps
    assert not evidence.random[0].original.steps  # as large as the features of a network


def test_a_file_that_takes_one_size_is_judged_at_it_in_everything():
    fitting = gather(small_network(), (3, 96, 100)).fitting((None, 3, 96, 100))
    assert [tuple(example.input.shape) for example in fitting.random] == [(b, 3, 96, 100) for b in (1, 2, 3)]
    assert fitting.trace.example.input.shape == (1, 3, 96, 100)
    assert fitting.trace.example.original.steps


def test_a_network_of_one_size_is_judged_at_it():
    model = nn.Sequential(CEConv2d(1, 3, 3, 2, 3, stride=4), nn.Flatten(), nn.LazyLinear(4)).eval()
    model(torch.zeros(1, 3, 80, 80))
    evidence = gather(model, (3, 80, 80))
    assert evidence.small == evidence.shape
    assert "mat1 and mat2" in evidence.fixed_size


class WrongWhenLarge(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) * (1.01 if x.shape[-1] > 90 else 1)


def test_what_is_wrong_at_the_networks_own_size_is_caught():
    model = small_network()
    assert verify(model, WrongWhenLarge(convert(model)), input_shape=(3, 64, 64)).passed
    assert not verify(model, WrongWhenLarge(convert(model)), input_shape=(3, 96, 96)).passed


def test_a_first_layer_with_a_stride_is_one_for_large_images():
    def first(stride):
        return find_layers(CEConv2d(1, 3, 3, 4, 7, stride=stride))[0].reading

    assert find_shape(lambda shape: None, None, first(2)) == (3, 224, 224)
    assert find_shape(lambda shape: None, None, first(1)) == (3, 32, 32)


def test_the_users_inputs_are_read_batch_by_batch_and_not_kept():
    alive, most = weakref.WeakSet(), 0

    class Read:
        shape = (100, 3, 32, 32)

        def __getitem__(self, index):
            nonlocal most
            image = torch.full(self.shape[1:], index / 100)
            alive.add(image)
            most = max(most, len(alive))
            return image

    model = small_network()
    evidence = gather(model, data=Read())
    verdict = judge_module(evidence, convert(model), "converted")
    assert verdict.passed
    assert sum(case.shape[0] for case in verdict.cases) >= 100
    assert most <= 2 * 32
