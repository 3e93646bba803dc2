"""Checkpoints with odd things in them: several optimizers, copies that are none, weights that cannot be."""

import contextlib
import copy
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ceconv_convert import CEConv2d, load, migrate_checkpoint, migrate_state_dict, plan
from ceconv_convert.architectures.cecnn import CECNN
from ceconv_convert.architectures.resnet import BasicBlock, ResNet
from ceconv_convert.errors import ConversionError, StateDictError, UnreadableInputError
from tests.support import same_state, small_network
from tests.test_migrate_checkpoint import hidden_network, step


def trained(make=torch.optim.AdamW):
    """A network and its optimizer after a step."""
    model = hidden_network()
    optimizer = make(model.parameters(), lr=0.01)
    step(model, optimizer, 0)
    return model, optimizer.state_dict()


def foreign():
    """An optimizer of another network."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def migrated(tmp_path, content):
    """The content of a checkpoint after its migration, and the lines on it."""
    torch.save(content, tmp_path / "a.pt")
    notes = migrate_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt", force=True)
    return torch.load(tmp_path / "b.pt", weights_only=True), notes


def is_moved(found, optimizer):
    """Whether what is remembered of the lifting weight is laid out as the migrated weight is."""
    position = next(index for index, memory in optimizer["state"].items() if memory["exp_avg"].dim() == 5)
    expected = optimizer["state"][position]["exp_avg"].transpose(1, 2).roll(1, 2)
    return torch.equal(found["state"][position]["exp_avg"], expected)


A, B = object(), object()  # an optimizer of something else, and the network's
SEVERAL = {
    "a list": ({"optimizer_states": [A, B]}, lambda found: found["optimizer_states"]),
    "the other way round": ({"optimizer_states": [B, A]}, lambda found: found["optimizer_states"]),
    "a tuple": ({"optimizers": (A, B, A)}, lambda found: found["optimizers"]),
    "a dict": ({"optimizers": {"a": A, "b": B}}, lambda found: found["optimizers"].values()),
    "an ordered dict": ({"o": OrderedDict(a=A, b=B)}, lambda found: found["o"].values()),
    "dicts": ({"a": A, "b": B, "c": A}, lambda found: [found[key] for key in "abc" if key in found]),
    "a nest": (
        {"training": {"optimizers": [A, {"inner": B}]}},
        lambda f: [f["training"]["optimizers"][0]["inner"]],
    ),
}


def filled(thing, optimizers):
    if thing in (A, B):
        return copy.deepcopy(optimizers[thing])
    if isinstance(thing, dict):
        return type(thing)((key, filled(value, optimizers)) for key, value in thing.items())
    return type(thing)(filled(value, optimizers) for value in thing)


@pytest.mark.parametrize(("shape", "kept"), SEVERAL.values(), ids=SEVERAL)
def test_optimizers_that_are_dropped_shift_no_others(tmp_path, shape, kept):
    model, own = trained()
    content = {"model": model.state_dict(), **filled(shape, {A: foreign(), B: own})}
    found, notes = migrated(tmp_path, content)
    (only,) = kept(found)
    assert is_moved(only, own)
    assert sum("is carried over for 8 parameters" in note for note in notes) == 1
    dropped = str(shape).count(str(A))
    assert sum("is dropped" in note for note in notes) == dropped == len(notes) - 1


def test_two_optimizers_of_one_network_are_both_carried_over(tmp_path):
    model, own = trained()
    found, notes = migrated(
        tmp_path, {"model": model.state_dict(), "optimizer_states": [own, own], "epoch": 1}
    )
    assert all(is_moved(state, own) for state in found["optimizer_states"])
    assert len(found["optimizer_states"]) == 2
    assert set(notes) == {"optimizer_states.0: the optimizer's state is carried over for 8 parameters"}


def test_an_optimizer_at_the_root_of_a_container(tmp_path):
    model, own = trained()
    found, notes = migrated(tmp_path, {"model": model.state_dict(), "epoch": 3, **own})
    assert list(found) == ["model", "epoch", "state", "param_groups", "ceconv_convert"]
    assert is_moved(found, own)
    assert notes == ["state and param_groups: the optimizer's state is carried over for 8 parameters"]
    found, (note,) = migrated(tmp_path, {"model": model.state_dict(), "epoch": 3, **foreign()})
    assert list(found) == ["model", "epoch", "ceconv_convert"]
    assert note.startswith("state and param_groups: the optimizer's state is dropped")


GROUPS = [{"params": list(range(8))}]
ODD = {
    "a tensor for a memory": ({0: torch.ones(3)}, GROUPS),
    "a tensor for a state": (torch.ones(3), GROUPS),
    "a list for a state": ([{}], GROUPS),
    "a number for a state": (3, GROUPS),
    "no groups": ({}, None),
    "a number of groups": ({}, 3),
    "a tensor of groups": ({}, torch.ones(3)),
    "a dict of groups": ({}, {0: {"params": [0]}}),
    "a group without parameters": ({}, [{}]),
    "a group of text": ({}, ["params"]),
    "a number of parameters": ({}, [{"params": 8}]),
    "a tensor of parameters": ({}, [{"params": torch.arange(8)}]),
    "names for positions": ({"0.weight": {}}, [{"params": ["0.weight"]}]),
    "numbers with a point": ({0.0: {}}, [{"params": [float(position) for position in range(8)]}]),
    "bools": ({True: {}}, [{"params": [False, True]}]),
    "positions twice": ({}, [{"params": [0, 0, 1, 2, 3, 4, 5, 6]}]),
    "positions from elsewhere": ({9: {}}, GROUPS),
    "negative positions": ({-1: {}}, [{"params": [-1]}]),
    "too many groups": ({}, [{"params": [position]} for position in range(8)]),
    "other shapes": ({0: {"m": torch.ones(7, 7)}}, GROUPS),
    "a sparse memory": ({0: {"m": torch.ones(3, 3).to_sparse()}}, GROUPS),
}


@pytest.mark.slow
@pytest.mark.parametrize(("state", "groups"), ODD.values(), ids=ODD)
def test_an_optimizer_that_fits_no_parameters_is_dropped_with_a_line(tmp_path, state, groups):
    model, _ = trained()
    odd = {"state": state, "param_groups": groups}
    for content in ({"optimizer": odd}, {"optimizer_states": [odd]}, odd):
        found, (note,) = migrated(tmp_path, {"model": model.state_dict(), "epoch": 3, **content})
        assert "is dropped: its parameters cannot be told" in note
        assert set(found) - {"optimizer_states"} == {"model", "epoch", "ceconv_convert"}
        assert found.get("optimizer_states", []) == []


@pytest.mark.parametrize(
    "odd",
    [torch.ones(7), torch.ones(4, 3, 1, 3, 3).to_sparse(), [torch.ones(4, 3, 1, 3, 3)], {"a": 1}],
    ids=["another shape", "sparse", "a history", "a dict"],
)
def test_a_memory_without_a_layout_is_dropped_alone(tmp_path, odd):
    model, own = trained()
    position = next(index for index, memory in own["state"].items() if memory["exp_avg"].shape[1:3] == (3, 1))
    own["state"][position]["odd"] = odd
    found, (note,) = migrated(tmp_path, {"model": model.state_dict(), "optimizer": own})
    assert note.endswith("is carried over for 7 parameters, dropped for 1, which became others")
    assert position not in found["optimizer"]["state"]


def test_names_beside_parameters_go_along(tmp_path):
    model = small_network()
    optimizer = torch.optim.Adam(model.named_parameters())
    found, _ = migrated(tmp_path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    (group,) = found["optimizer"]["param_groups"]
    if "param_names" in group:  # torch 2.7 and later
        assert group["param_names"] == [
            name for name, _ in model.named_parameters() if "pointwise" not in name
        ]
    assert group["params"] == list(range(len(list(model.parameters())) - 1))


def with_item(key, tensor):
    return {**hidden_network().state_dict(), key: tensor}


COPIES = {
    "a sparse weight": (lambda: with_item("0.weight", torch.ones(4, 3, 1, 3, 3).to_sparse()), "is sparse"),
    "integers": (
        lambda: with_item("0.weight", torch.ones(4, 3, 1, 3, 3).int()),
        "0.weight is no layer's weight",
    ),
    "a weight without axes": (
        lambda: with_item("0.weight", torch.tensor(1.0)),
        "0.weight is no color-equivariant layer's",
    ),
    "no color matrix": (lambda: with_item("0.transformation_matrix", torch.ones(3)), "no color matrix"),
    "the other form": (lambda: migrate_state_dict(hidden_network().state_dict()), "in conv3d form already"),
    "a claim": (
        lambda: with_item("5.weight", torch.ones(1).expand(10**6, 10**6)),
        "more than the file holds",
    ),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # by torch 2.14 here
@pytest.mark.parametrize(("make", "reason"), COPIES.values(), ids=COPIES)
def test_a_copy_that_cannot_be_migrated_is_kept_and_said(tmp_path, make, reason):
    state, average = hidden_network().state_dict(), make()
    found, (note,) = migrated(tmp_path, {"model": state, "ema": average, "epoch": 3})
    assert note.startswith("ema: kept as it is: ")
    assert reason in note
    assert same_state(found["model"], migrate_state_dict(state))
    assert found["ema"].keys() == average.keys()
    for key, tensor in average.items():
        assert found["ema"][key].layout == tensor.layout
        assert found["ema"][key].shape == tensor.shape


def test_a_copy_of_other_sizes_is_migrated_as_itself(tmp_path):
    state, other = small_network().state_dict(), small_network(width=4).state_dict()
    found, notes = migrated(tmp_path, {"model": state, "ema": other})
    assert notes == []
    assert same_state(found["ema"], migrate_state_dict(other))


def separable(pointwise, spatial):
    return {"a.weight": torch.ones(spatial), "a.pointwise_weight": torch.ones(pointwise)}


@pytest.mark.parametrize(
    ("pointwise", "spatial"),
    [
        ((4, 3, 3, 1, 1), (5, 3, 1, 3, 3)),
        ((4, 3, 3, 1, 1), (4, 2, 1, 3, 3)),
        ((4, 3, 3, 1, 1), (4, 3, 3, 3, 3)),
        ((4, 3, 3, 1, 1), (1, 3, 1, 3, 3)),
        ((1, 2000, 3, 1, 1), (1, 1, 1, 2000, 2)),
    ],
)
def test_factors_that_do_not_fit_each_other(tmp_path, pointwise, spatial):
    state = separable(pointwise, spatial)
    refuses = pytest.raises(StateDictError, match=r"a\.weight and a\.pointwise_weight do not fit: .*found \[")
    with refuses as caught:
        migrate_state_dict(state)
    assert f"{list(spatial)} and {list(pointwise)}" in str(caught.value)
    with refuses:
        plan(state)
    torch.save(state, tmp_path / "a.pt")
    save_file(state, tmp_path / "a.safetensors")
    for source in ("a.pt", "a.safetensors"):
        for target in ("b.pt", "b.safetensors"):
            with refuses:
                migrate_checkpoint(tmp_path / source, tmp_path / target)
    assert len(list(tmp_path.iterdir())) == 2


NETWORKS = {
    "resnet": lambda: ResNet(BasicBlock, [1, 1, 1], [4, 4, 4], 4, 3, True, separable=True).state_dict(),
    "cnn": lambda: CECNN(4, 3, 3, True, separable=True).state_dict(),
}
CHANGES = {
    "no axes": lambda tensor: torch.tensor(1.0),
    "empty": lambda tensor: torch.empty(0),
    "one axis": lambda tensor: torch.ones(3),
    "no channels": lambda tensor: tensor[:0],
    "no kernel": lambda tensor: tensor[..., :0],
    "integers": lambda tensor: tensor.int(),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "float8": lambda tensor: tensor.to(torch.float8_e5m2),
    "meta": lambda tensor: tensor.to("meta"),
    "sparse": lambda tensor: tensor.to_sparse(),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_tensor_that_cannot_be_is_no_error_of_torchs(tmp_path, build, change):
    state, path = build(), tmp_path / "a.pt"
    kinds = {(key.split(".")[-1], tensor.dim()): key for key, tensor in state.items() if tensor.dim() > 1}
    for key in kinds.values():
        odd = dict(state) | {key: change(state[key])}
        torch.save(odd, path)
        for use in (
            lambda: migrate_state_dict(odd),  # noqa: B023
            lambda: migrate_state_dict(odd, "ceconv"),  # noqa: B023
            lambda: plan(odd),  # noqa: B023
            lambda: load(path),
            lambda: migrate_checkpoint(path, tmp_path / "b.pt", force=True),
        ):
            with contextlib.suppress(ConversionError):
                use()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(
    "key", ["conv1.weight", "layers.0.0.conv1.weight", "layers.0.0.conv1.pointwise_weight"]
)
def test_a_layers_weight_that_cannot_be_is_named(tmp_path, key, change):
    state = NETWORKS["resnet"]()
    state[key] = change(state[key])
    if state[key].is_meta and key == "conv1.weight":
        return  # numbers are not looked at: safetensors are migrated that way
    for use in (migrate_state_dict, plan):
        with pytest.raises(StateDictError, match=key.replace(".", r"\.")):
            use(state)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ConversionError, match=key.replace(".", r"\.")):
        migrate_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize(
    "change", ["no axes", "empty", "one axis", "no channels", "no kernel", "integers", "meta"]
)
@pytest.mark.parametrize("key", ["conv1.weight", "layers.0.0.conv1.weight", "linear.weight"])
def test_a_weight_that_cannot_be_is_not_loaded(tmp_path, key, change):
    state = NETWORKS["resnet"]()
    state[key] = CHANGES[change](state[key])
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UnreadableInputError, match=r"a\.pt: "):
        load(tmp_path / "a.pt")


def test_shapes_ask_for_no_memory(tmp_path):
    """A norm of a few megabytes in a network whose kernels would have terabytes."""
    state = NETWORKS["resnet"]()
    for key in ("weight", "bias", "running_mean", "running_var"):
        state[f"layers.1.0.bn1.{key}"] = torch.ones(10**6)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UnreadableInputError, match="weights do not fit a ResNet: .*size mismatch"):
        load(tmp_path / "a.pt")


@pytest.mark.parametrize("rotations", ["x", 0, -3, 2.5, True, 10**30, 361, [3]])
def test_rotations_that_cannot_be(tmp_path, rotations):
    torch.save(CECNN(5, 3, 1, True, learnable=True).state_dict(), tmp_path / "a.pt")
    with pytest.raises(UnreadableInputError, match="rotations are 1 to 360, found"):
        load(tmp_path / "a.pt", arguments={"rotations": rotations})


def test_layers_of_no_tensors():
    layer = CEConv2d(1, 3, 3, 4, 3).state_dict()
    for key, value in (("weight", 3), ("transformation_matrix", "x"), ("transformation_matrix", [1])):
        with pytest.raises(StateDictError, match=f"{key} is no"):
            migrate_state_dict({**layer, key: value})


def test_a_network_with_torchvisions_names_and_others_keeps_its_own(tmp_path):
    state = {f"layer1.{key}": tensor for key, tensor in small_network().state_dict().items()}
    state |= {f"{name}.weight": torch.ones(2, 2) for name in ("fc", "linear")}
    found, notes = migrated(tmp_path, {"model": state})
    assert notes == []
    assert same_state(found["model"], migrate_state_dict(state))
    (tmp_path / "b.pt").unlink()
    migrate_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt", hidden=["layer1.7"])
    with pytest.raises(UnreadableInputError, match="no published network has these keys"):
        load(tmp_path / "a.pt")
