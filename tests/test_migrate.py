"""State dict to state dict: what ``convert`` makes, without a module, and back, bit by bit."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from ceconv_convert import CEConv2d, convert, load, migrate_state_dict, plan
from ceconv_convert.architectures.cecnn import CECNN
from ceconv_convert.architectures.resnet import BasicBlock, HybridResNet, ResNet
from ceconv_convert.errors import NothingToConvertError, SpecError, StateDictError, UnreadableInputError
from tests.support import FIXTURES, same_state, shake, small_network


def tied_network():
    first, second = (CEConv2d(3, 3, 4, 4, 3, padding=1, separable=False) for _ in range(2))
    second.weight = first.weight
    shared = CEConv2d(3, 3, 4, 4, 1, separable=False)
    return nn.Sequential(CEConv2d(1, 3, 3, 4, 3), first, second, shared, shared)


MODELS = {
    "small": small_network,
    "even": lambda: small_network(rotations=4),
    "two rotations": lambda: small_network(rotations=2),
    "half": lambda: small_network().half(),
    "bfloat16": lambda: small_network(rotations=5).bfloat16(),
    "float64": lambda: small_network(rotations=6).double(),
    "a lifting root": lambda: CEConv2d(1, 3, 3, 4, 3),
    "a hidden root": lambda: CEConv2d(3, 3, 2, 4, 3, separable=False, bias=False),
    "a separable root": lambda: CEConv2d(4, 4, 2, 4, 3),
    "lifting to one": lambda: CEConv2d(1, 1, 3, 4, 3),
    "lifting of features": lambda: CEConv2d(1, 1, 5, 4, 3),
    "a learned matrix": lambda: CEConv2d(1, 3, 3, 4, 3, learnable=True),
    "a learned matrix to one": lambda: CEConv2d(1, 1, 3, 4, 3, learnable=True),
    "tied": tied_network,
    "wrapped": lambda: nn.DataParallel(small_network()),
    "resnet": lambda: ResNet(BasicBlock, [1, 2, 1], [4, 5, 6], 7, 3, True, separable=True),
    "hybrid": lambda: HybridResNet(BasicBlock, [1, 1, 1], [4, 5, 6], 2, 7, 6),
    "cnn": lambda: CECNN(5, 4, 3, True, separable=False),
    "the fixture": lambda: load(FIXTURES / "color_digits.pt"),
}
EVERY_MODEL = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)


def built(build):
    torch.manual_seed(0)
    return shake(build())


@EVERY_MODEL
def test_migrating_is_converting(build):
    model = built(build)
    before = copy.deepcopy(model.state_dict())
    migrated = migrate_state_dict(model.state_dict())
    converted = convert(model)
    assert same_state(migrated, converted.state_dict())
    converted.load_state_dict(migrated, strict=True)
    assert same_state(model.state_dict(), before)


@EVERY_MODEL
def test_forth_and_back_is_the_identity(build):
    """A separable layer comes back as a plain hidden one of the product of its factors."""
    state = built(build).state_dict()
    back = migrate_state_dict(migrate_state_dict(state), to="ceconv")
    expected = OrderedDict()
    for key, tensor in state.items():
        pointwise = state.get(key.removesuffix("weight") + "pointwise_weight")
        if not key.endswith("pointwise_weight"):
            expected[key] = tensor if pointwise is None or not key.endswith("weight") else pointwise * tensor
    assert same_state(back, expected)


def test_what_is_no_layer_is_passed_on_as_it_is():
    state = small_network().state_dict()
    migrated = migrate_state_dict(state)
    for key, tensor in state.items():
        if key.split(".")[0] not in ("0", "4", "7"):
            assert migrated[key] is tensor
    assert migrated._metadata == state._metadata


def test_shared_tensors_stay_shared():
    migrated = migrate_state_dict(tied_network().state_dict())
    assert migrated["1.weight"] is migrated["2.weight"]
    assert migrated["3.weight"] is migrated["4.weight"]
    assert migrated["1.weight"] is not migrated["3.weight"]


def test_the_state_dict_shares_no_memory_with_the_source_where_it_changed():
    state = small_network().state_dict()
    migrated = migrate_state_dict(state)
    assert migrated["0.weight"].data_ptr() != state["0.weight"].data_ptr()
    assert migrated["0.weight"].is_contiguous()


def test_ambiguous_keys_are_named_and_can_be_resolved():
    model = nn.ModuleDict({"lift": CEConv2d(1, 3, 3, 4, 3), "video": nn.Conv3d(4, 4, (5, 3, 3))})
    with pytest.raises(StateDictError, match="ambiguous .*: video.weight"):
        migrate_state_dict(model.state_dict())
    migrated = migrate_state_dict(model.state_dict(), hidden=[])
    assert same_state(migrated, convert(model).state_dict())
    second = CEConv2d(2, 2, 4, 4, 3, separable=False)
    mixed = nn.ModuleDict({"first": CEConv2d(4, 2, 3, 4, 3), "second": second})
    with pytest.raises(StateDictError, match=r"second.weight .*the others have \[4\] rotations"):
        migrate_state_dict(mixed.state_dict())
    assert same_state(migrate_state_dict(mixed.state_dict(), hidden=["second"]), convert(mixed).state_dict())
    with pytest.raises(StateDictError, match="no hidden layers third"):
        migrate_state_dict(mixed.state_dict(), hidden=["third"])


def test_wrong_directions_are_said():
    state = small_network().state_dict()
    with pytest.raises(NothingToConvertError, match="in conv3d form already: see 0"):
        migrate_state_dict(migrate_state_dict(state))
    with pytest.raises(NothingToConvertError, match="in ceconv form already: see 0, 4"):
        migrate_state_dict(state, to="ceconv")
    with pytest.raises(NothingToConvertError, match="no color-equivariant layer"):
        migrate_state_dict(nn.Linear(2, 2).state_dict())
    with pytest.raises(StateDictError, match="found 'fft'"):
        migrate_state_dict(state, to="fft")
    fourth = {key: state[key] for key in ("4.weight", "4.pointwise_weight")}
    mixed = migrate_state_dict(state) | fourth
    with pytest.raises(StateDictError, match="both forms at once .conv3d: 0; ceconv: 4"):
        migrate_state_dict(mixed)
    both = {"weight": torch.ones(1, 3, 1, 3, 3), "transformation_matrix": torch.eye(3)}
    both["pointwise_weight"] = torch.ones(1)
    with pytest.raises(StateDictError, match="both a transformation_matrix and a pointwise_weight"):
        migrate_state_dict(both)


@EVERY_MODEL
def test_the_plan_of_a_state_dict_is_the_plan_of_its_model_as_far_as_tensors_tell(build):
    model = built(build)
    state = model.state_dict()
    by_module = {row.name: row for row in plan(model)}
    for row in plan(state):
        expected = by_module.get(row.name)
        if expected is None:  # another name of a shared module
            continue
        assert (row.kind, row.channels, row.kernel_size) == (
            expected.kind, expected.channels, expected.kernel_size,
        )  # fmt: skip
        assert (row.bytes_before, row.bytes_after) == (expected.bytes_before, expected.bytes_after)
    assert by_module.keys() <= {row.name for row in plan(state)}
    assert "conv3d" in str(plan(state))


def test_a_state_dict_takes_one_form():
    with pytest.raises(SpecError, match="conv3d alone"):
        plan(small_network().state_dict(), "conv2d")


@pytest.mark.parametrize(
    "state",
    [
        {"transformation_matrix": torch.ones(2)},
        {"transformation_matrix": torch.ones(0, 0)},
        {"transformation_matrix": torch.ones(3, 3, dtype=torch.int64)},
        {"pointwise_weight": torch.ones(4)},
        {"pointwise_weight": torch.ones(4, 3, 3, 3, 3)},
    ],
)
@pytest.mark.parametrize("to", ["conv3d", "ceconv"])
def test_tensors_that_are_not_what_their_names_say(tmp_path, state, to):
    state = {"a.weight": torch.ones(4, 3, 1, 3, 3)} | {f"a.{key}": tensor for key, tensor in state.items()}
    with pytest.raises(StateDictError, match=r"^a\.(transformation_matrix|pointwise_weight) is no"):
        migrate_state_dict(state, to)
    network = ResNet(BasicBlock, [1, 1, 1], [4, 4, 4], 4, 3).state_dict()
    network["conv1.transformation_matrix"] = torch.ones(2)
    torch.save(network, tmp_path / "a.pt")
    with pytest.raises(UnreadableInputError, match="is no color matrix"):
        load(tmp_path / "a.pt")
