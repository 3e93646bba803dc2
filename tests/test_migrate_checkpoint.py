"""File to file: the container is kept, the optimizer goes on as if nothing had happened, memory is small."""

import json
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ceconv_convert import CEConv2d, convert, migrate_checkpoint, migrate_state_dict
from ceconv_convert.errors import NothingToConvertError, OutputError, StateDictError, UnreadableInputError
from tests.support import relative, same_state, shake, small_network


def hidden_network():
    """Without separable layers: everything moves, nothing is multiplied."""
    torch.manual_seed(0)
    model = nn.Sequential(
        CEConv2d(1, 3, 3, 4, 3),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        CEConv2d(3, 3, 4, 4, 3, separable=False),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    model(torch.zeros(2, 3, 9, 9))
    return shake(model).eval()


def batch(seed):
    return torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


def step(model, optimizer, seed):
    optimizer.zero_grad()
    model(batch(seed)).square().mean().backward()
    optimizer.step()


def everything(model):
    return list(model.parameters())


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def in_two_groups(model):
    kernels = [parameter for parameter in trained(model) if parameter.dim() > 1]
    others = [parameter for parameter in trained(model) if parameter.dim() == 1]
    return [{"params": kernels, "weight_decay": 1e-2}, {"params": others}]


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
    "adam": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, amsgrad=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, centered=True),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("choose", [everything, trained, in_two_groups])
def test_training_goes_on_as_if_nothing_had_happened(tmp_path, make, choose):
    model = hidden_network()
    optimizer = make(choose(model))
    for seed in range(3):
        step(model, optimizer, seed)
    source, target = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, source)
    (note,) = migrate_checkpoint(source, target)
    assert note == "optimizer: the optimizer's state is carried over for 8 parameters"
    found = torch.load(target, weights_only=True)
    converted = convert(hidden_network())
    converted.load_state_dict(found["model"])
    going_on = make(choose(converted))
    going_on.load_state_dict(found["optimizer"])
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(converted, going_on, seed)
    back = migrate_state_dict(converted.state_dict(), to="ceconv")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(back[name], tensor, rtol=1e-4, atol=1e-5)


def test_what_is_remembered_of_separable_factors_is_dropped_and_said(tmp_path):
    model = small_network().train()
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.zero_grad()
    model(torch.randn(2, 3, 20, 20)).sum().backward()
    optimizer.step()
    torch.save(
        {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}, tmp_path / "a.ckpt"
    )
    (note,) = migrate_checkpoint(tmp_path / "a.ckpt", tmp_path / "b.ckpt")
    total = len(optimizer.state_dict()["state"])
    assert note == (
        f"optimizer_states.0: the optimizer's state is carried over for {total - 2} parameters, "
        "dropped for 2, which became others; the factors of 1 separable layer became their product, which "
        "trains along another path: to go on exactly, train the original with accelerate (docs/training.md)"
    )
    found = torch.load(tmp_path / "b.ckpt", weights_only=True)
    converted = convert(model)
    converted.load_state_dict(found["state_dict"])
    going_on = torch.optim.Adam(converted.parameters())
    going_on.load_state_dict(found["optimizer_states"][0])
    for parameter, memory in going_on.state.items():
        assert memory["exp_avg"].shape == parameter.shape
    converted(torch.randn(2, 3, 20, 20)).sum().backward()
    going_on.step()


@pytest.mark.parametrize("nest", ["optimizer", "optimizer_states"])
def test_an_optimizer_of_something_else_is_dropped_and_said(tmp_path, nest):
    model = hidden_network()
    other = torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.1).state_dict()
    torch.save(
        {"model": model.state_dict(), nest: other if nest == "optimizer" else [other]}, tmp_path / "a.pt"
    )
    (note,) = migrate_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt")
    assert note.endswith("is dropped: its parameters cannot be told from the weights' names")
    found = torch.load(tmp_path / "b.pt", weights_only=True)
    assert found.get(nest, []) == []


def test_the_container_is_kept(tmp_path):
    state = small_network().state_dict()
    average = torch.optim.swa_utils.AveragedModel(small_network(seed=1)).state_dict()
    content = {
        "epoch": 7,
        "hyper_parameters": {"rotations": 3, "lr": [0.1, 0.01]},
        "net": {"state_dict": state},
        "ema": average,
        "best": torch.tensor(0.9),
    }
    torch.save(content, tmp_path / "a.pth.tar")
    assert migrate_checkpoint(tmp_path / "a.pth.tar", tmp_path / "b.pth.tar") == []
    found = torch.load(tmp_path / "b.pth.tar", weights_only=True)
    assert list(found) == [*content, "ceconv_convert"]
    assert (found["epoch"], found["hyper_parameters"], found["best"]) == (7, content["hyper_parameters"], 0.9)
    assert same_state(found["net"]["state_dict"], migrate_state_dict(state))
    assert same_state(found["ema"], migrate_state_dict(average))
    assert same_state(torch.load(tmp_path / "a.pth.tar", weights_only=True)["ema"], average)


@pytest.mark.parametrize("metadata", [True, False])
def test_a_plain_state_dict_stays_one(tmp_path, metadata):
    model = hidden_network()
    state = model.state_dict() if metadata else dict(model.state_dict())
    torch.save(state, tmp_path / "a.pt")
    migrate_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt")
    found = torch.load(tmp_path / "b.pt", weights_only=True)
    converted = convert(hidden_network())
    converted.load_state_dict(found, strict=True)
    assert relative(converted(batch(0)), model(batch(0))) < 1e-5
    assert found._metadata[""]["ceconv_convert"]["source"] == "a.pt"
    migrate_checkpoint(tmp_path / "b.pt", tmp_path / "c.pt", to="ceconv")
    assert same_state(torch.load(tmp_path / "c.pt", weights_only=True), model.state_dict())


def test_safetensors_both_ways(tmp_path):
    model = hidden_network()
    save_file(model.state_dict(), tmp_path / "a.safetensors", metadata={"note": "mine"})
    assert migrate_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == []
    expected = migrate_state_dict(model.state_dict())
    found = load_file(tmp_path / "b.safetensors")
    assert same_state(OrderedDict((name, found[name]) for name in expected), expected)
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata()["note"] == "mine"
        assert json.loads(file.metadata()["ceconv_convert"])["form"] == "conv3d"
    migrate_checkpoint(tmp_path / "b.safetensors", tmp_path / "c.safetensors", to="ceconv")
    back = load_file(tmp_path / "c.safetensors")
    assert same_state(OrderedDict((name, back[name]) for name in expected), model.state_dict())
    migrate_checkpoint(tmp_path / "a.safetensors", tmp_path / "d.pt")
    assert torch.load(tmp_path / "d.pt", weights_only=True).keys() == expected.keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_separable_layers_and_mixed_dtypes_stream(tmp_path, dtype):
    state = small_network().to(dtype).state_dict()
    state["extra"], state["empty"] = torch.arange(5, dtype=torch.int8), torch.empty(0, 3)
    save_file(state, tmp_path / "a.safetensors")
    migrate_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    expected, found = migrate_state_dict(state), load_file(tmp_path / "b.safetensors")
    assert same_state(OrderedDict((name, found[name]) for name in expected), expected)


def test_shards_become_one_file(tmp_path):
    state = small_network().state_dict()
    names = list(state)
    shards = {"1.safetensors": names[::2], "2.safetensors": names[1::2]}
    for shard, inside in shards.items():
        save_file({name: state[name] for name in inside}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard for shard in shards for name in shards[shard]}}))
    migrate_checkpoint(index, tmp_path / "b.safetensors")
    expected, found = migrate_state_dict(state), load_file(tmp_path / "b.safetensors")
    assert same_state(OrderedDict((name, found[name]) for name in expected), expected)


STREAM = """
import resource, sys
from ceconv_convert import migrate_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
migrate_checkpoint(sys.argv[1], sys.argv[2])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_streaming_holds_no_more_than_a_layer(tmp_path):
    """384 MB in layers of 4 MB: the process grows by a few of them, and by a chunk of 16 MB."""
    state = {f"{i}.weight": torch.randn(64, 1820, 3, 3, 1) for i in range(96)}
    state["0.transformation_matrix"] = torch.eye(3)
    state["0.weight"] = torch.randn(8, 3, 1, 3, 3)
    state["1.pointwise_weight"], state["1.weight"] = (
        torch.randn(64, 600, 3, 1, 1),
        torch.randn(64, 600, 1, 3, 3),
    )
    save_file(state, tmp_path / "a.safetensors")
    del state
    command = [sys.executable, "-c", STREAM, tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "b.safetensors").stat().st_size > 380e6
    assert int(finished.stdout) < 100


def test_hidden_layers_may_be_named(tmp_path):
    state = {
        "module.conv.weight": torch.randn(2, 2, 3, 3, 3),
        "module.plain.weight": torch.randn(2, 2, 5, 3, 3),
    }
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(StateDictError, match="ambiguous"):
        migrate_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt")
    for hidden in (["conv"], ["module.conv"]):
        migrate_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt", hidden=hidden, force=True)
        found = torch.load(tmp_path / "b.pt", weights_only=True)
        assert torch.equal(found["module.plain.weight"], state["module.plain.weight"])
        assert torch.equal(found["module.conv.weight"], state["module.conv.weight"].roll(1, 2))
    with pytest.raises(StateDictError, match="no hidden layers nowhere"):
        migrate_checkpoint(tmp_path / "a.pt", tmp_path / "c.pt", hidden=["nowhere"])


def test_what_cannot_be_migrated_is_said_and_nothing_is_written(tmp_path):
    torch.save(small_network(), tmp_path / "module.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "plain.pt")
    torch.save(hidden_network().state_dict(), tmp_path / "a.pt")
    before = sorted(tmp_path.iterdir())
    for name, error, sentence in [
        ("module.pt", UnreadableInputError, "module.pt: it holds a whole module"),
        ("none.pt", UnreadableInputError, "none.pt: it holds a dict with the keys epoch, not weights"),
        ("plain.pt", NothingToConvertError, "no color-equivariant layer"),
        ("missing.pt", UnreadableInputError, "missing.pt cannot be read"),
    ]:
        with pytest.raises(error, match=sentence):
            migrate_checkpoint(tmp_path / name, tmp_path / "b.pt")
    with pytest.raises(OutputError, match="is the input"):
        migrate_checkpoint(tmp_path / "a.pt", tmp_path / "a.pt", force=True)
    with pytest.raises(OutputError, match="exists"):
        migrate_checkpoint(tmp_path / "a.pt", tmp_path / "none.pt")
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    from ceconv_convert.files import source

    path = tmp_path / "a.pt"
    torch.save(hidden_network().state_dict(), path)
    whole = source.read_pickle

    def and_change(*arguments, **options):
        found = whole(*arguments, **options)
        path.write_bytes(path.read_bytes() + b"more")
        return found

    monkeypatch.setattr(source, "read_pickle", and_change)
    with pytest.raises(UnreadableInputError, match="a.pt changed while it was read"):
        migrate_checkpoint(path, tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()
