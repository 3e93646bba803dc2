"""Any checkpoint, without the code that trained it: the published networks in the containers they come in."""

import argparse
import io
import json
import pickle
import re
import zipfile
from functools import lru_cache

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ceconv_convert import CEConv2d, convert, load, migrate_state_dict, verify
from ceconv_convert.architectures.cecnn import CECNN
from ceconv_convert.architectures.registry import recognize
from ceconv_convert.architectures.resnet import BasicBlock, Bottleneck, HybridResNet, ResNet
from ceconv_convert.errors import NothingToConvertError, SpecError, UnreadableInputError
from tests import hostile
from tests.support import FIXTURES, relative, same_state, shake, small_network

NETWORKS = FIXTURES / "golden" / "networks"
CHECKPOINTS = FIXTURES / "golden" / "checkpoints"
INDEX = json.loads((NETWORKS / "index.json").read_text())
FILES = sorted(path.name for path in CHECKPOINTS.iterdir() if not path.name.endswith(".io.safetensors"))


def expected_of(name):
    own = CHECKPOINTS / f"{name.split('.')[0]}.io.safetensors"
    return load_file(own if own.exists() else CHECKPOINTS / "whole_module_resnet18.io.safetensors")


@lru_cache
def state_of(name="resnet18_n3_sep_coset"):
    return load_file(NETWORKS / f"{name}.safetensors")


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["name"])
def test_a_published_network_is_recognized_from_its_state_dict(entry):
    golden = load_file(NETWORKS / f"{entry['name']}.io.safetensors")
    model = load(NETWORKS / f"{entry['name']}.safetensors")
    assert not model.training
    assert type(model).__name__ == entry["factory"].rstrip("0123456789")
    assert sum(isinstance(module, CEConv2d) for module in model.modules()) == entry["n_ceconv"]
    own = relative(golden["output"], golden["output_float64"])
    assert relative(model(golden["input"]), golden["output_float64"]) <= 4 * own + 1e-6
    assert relative(model.double()(golden["input"].double()), golden["output_float64"]) <= 1e-12


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_loads_converts_and_agrees(name):
    model = load(CHECKPOINTS / name).eval()
    golden = expected_of(name)
    dtype = next(model.parameters()).dtype
    assert dtype == (torch.float16 if name.startswith("half") else torch.float32)
    found = convert(model).double()(golden["input"].double())
    assert relative(found, golden["output_float64"]) <= (2e-3 if dtype == torch.float16 else 1e-6)


@pytest.mark.parametrize("name", ["half_resnet18.pth", "imagenet_hybrid18.pth.tar", "whole_module_cecnn.pt"])
def test_a_checkpoint_passes_its_verdict(name):
    model = load(CHECKPOINTS / name)
    verdict = verify(model, convert(model))
    assert verdict.passed, str(verdict)


NETWORKS_OF_OUR_OWN = {
    "plain": lambda: ResNet(BasicBlock, [1, 1, 1], [4, 5, 6], 7),
    "two rotations, separable": lambda: ResNet(BasicBlock, [1, 2, 1], [4, 5, 6], 7, 2, True, separable=True),
    "six rotations, flat": lambda: ResNet(BasicBlock, [2, 2, 2, 2], [3, 4, 5, 6], 9, 6, False),
    "bottlenecks": lambda: ResNet(Bottleneck, [1, 2, 1, 1], [3, 4, 5, 6], 9, 4, True, separable=True),
    "a learned matrix": lambda: ResNet(BasicBlock, [1, 1, 1], [4, 5, 6], 7, 5, learnable=True),
    "one stage": lambda: HybridResNet(BasicBlock, [1, 1, 1], [4, 8, 16], 1, 7, 3, separable=True),
    "two stages": lambda: HybridResNet(Bottleneck, [1, 1, 1, 1], [4, 5, 6, 7], 2, 7, 5),
    "all stages": lambda: HybridResNet(BasicBlock, [1, 1, 1], [4, 5, 6], 3, 7, 3, groupcosetmaxpool=False),
    "a small CNN": lambda: CECNN(5, 3, 1, True),
    "a flat CNN": lambda: CECNN(5, 6, 3, False, num_classes=4),
    "a flat CNN of one layer": lambda: CECNN(5, 4, 1, False, learnable=True),
    "a separable CNN": lambda: CECNN(5, 12, 7, True, separable=True),
}


@pytest.mark.parametrize("build", NETWORKS_OF_OUR_OWN.values(), ids=NETWORKS_OF_OUR_OWN)
def test_other_networks_are_recognized(build):
    torch.manual_seed(0)
    model = shake(build()).eval()
    again = recognize(model.state_dict())
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 28, 28)
    assert torch.equal(again(x), model(x))
    assert same_state(again.state_dict(), model.state_dict())


def test_what_the_tensors_cannot_tell_is_asked_for(tmp_path):
    model = CECNN(5, 3, 1, True, learnable=True).eval()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(UnreadableInputError, match="say --model-arg rotations=N"):
        load(tmp_path / "a.safetensors")
    x = torch.randn(1, 3, 28, 28)
    assert torch.equal(load(tmp_path / "a.safetensors", arguments={"rotations": 3})(x), model(x))


def test_what_the_tensors_tell_cannot_be_overruled():
    with pytest.raises(UnreadableInputError, match="rotations=4 was given, the tensors say 3"):
        recognize(state_of(), rotations=4)


def without(key):
    return {name: tensor for name, tensor in state_of().items() if name != key}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (without("bn1.weight"), "weights do not fit a ResNet: .*bn1.weight"),
        (without("layers.1.0.bn1.weight"), "layers.1.0.bn1.weight is missing"),
        (state_of() | {"extra": torch.ones(1)}, "weights do not fit a ResNet: .*extra"),
        (without("linear.weight"), "no published network has these keys"),
    ],
)
def test_state_dicts_that_fit_no_network(tmp_path, state, sentence):
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UnreadableInputError, match=sentence):
        load(tmp_path / "a.safetensors")


def prefixed(prefix):
    return {prefix + key: tensor for key, tensor in state_of().items()}


CONTAINERS = {
    "plain": lambda: state_of(),
    "stacked prefixes": lambda: prefixed("model._orig_mod.module."),
    "model": lambda: {"epoch": 3, "model": prefixed("module.")},
    "model_state_dict": lambda: {"model_state_dict": state_of(), "optimizer_state_dict": {"state": {}}},
    "net": lambda: {"net": prefixed("_orig_mod.")},
    "ema alone": lambda: {"ema": state_of(), "step": 1},
    "nested twice": lambda: {"model": {"state_dict": state_of(), "name": "x"}},
    "hyper-parameters": lambda: {"state_dict": state_of(), "args": argparse.Namespace(rotations=3)},
}


@pytest.mark.parametrize("content", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_containers(tmp_path, content, legacy):
    torch.save(content(), tmp_path / "a.ckpt", _use_new_zipfile_serialization=not legacy)
    golden = load_file(NETWORKS / "resnet18_n3_sep_coset.io.safetensors")
    found = load(tmp_path / "a.ckpt").double()(golden["input"].double())
    assert relative(found, golden["output_float64"]) <= 1e-12


def test_the_trained_weights_come_before_their_average(tmp_path):
    average = {key: tensor * 0 for key, tensor in state_of().items()}
    torch.save({"ema": average, "model": state_of()}, tmp_path / "a.pt")
    assert torch.equal(load(tmp_path / "a.pt").linear.weight, state_of()["linear.weight"])


def test_dtypes_are_kept_tensor_by_tensor(tmp_path):
    state = {k: t.bfloat16() if t.is_floating_point() and "bn" not in k else t for k, t in state_of().items()}
    save_file(state, tmp_path / "a.safetensors")
    model = load(tmp_path / "a.safetensors")
    assert {key: t.dtype for key, t in model.state_dict().items()} == {
        key: t.dtype for key, t in state.items()
    }


def test_a_network_of_ones_own(tmp_path):
    model = small_network(rotations=4, width=6)
    torch.save(
        {"state_dict": {f"module.{key}": t for key, t in model.state_dict().items()}}, tmp_path / "a.pt"
    )
    arguments = {"rotations": 4, "width": 6}
    again = load(tmp_path / "a.pt", model="tests.support:small_network", arguments=arguments)
    assert same_state(again.state_dict(), model.state_dict())
    assert same_state(
        load(tmp_path / "a.pt", model=small_network, arguments=arguments).state_dict(), model.state_dict()
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "tests.support"}, "takes package.module:factory"),
        ({"model": "tests.support:nothing"}, "cannot be imported"),
        ({"model": "tests.support:FIXTURES"}, "cannot be built from {}: .*is not callable"),
        ({"model": "tests.support:same_state"}, "cannot be built from"),
        ({"model": "tests.support:golden_layers"}, "the factory returns a tuple, not a module"),
        ({"model": "tests.support:small_network"}, "weights do not fit a Sequential"),
        ({"arguments": {"depth": 3}}, "the only argument is rotations, found depth"),
    ],
)
def test_factories_that_build_nothing(options, sentence):
    with pytest.raises(UnreadableInputError, match=sentence):
        load(NETWORKS / "resnet18_n3_sep_coset.safetensors", **options)


@pytest.mark.parametrize("thing", [hostile.Marks, hostile.Evaluates])
def test_nothing_runs_in_the_legacy_format(tmp_path, thing):
    mark = tmp_path / "mark"
    content = {"state_dict": state_of(), "extra": thing(mark)}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UnreadableInputError, match="not allowed .(posix.mkdir|builtins.eval)"):
        load(tmp_path / "a.pt")
    assert not mark.exists()


def test_a_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x00" * 100_000_000)
    assert (tmp_path / "a.pt").stat().st_size < 200_000
    with pytest.raises(UnreadableInputError, match="compressed entry 'a/data.pkl'"):
        load(tmp_path / "a.pt")


def test_a_tensor_that_claims_more_than_the_file_has(tmp_path):
    content = dict(state_of()) | {"linear.weight": torch.zeros(1).expand(10**6, 10**6)}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UnreadableInputError, match="linear.weight claims 1000000000000 numbers"):
        load(tmp_path / "a.pt")


def test_a_module_whose_tensor_claims_more_than_the_file_has(tmp_path):
    model = small_network()
    model[1].running_mean = torch.zeros(1).expand(10**12)
    torch.save(model, tmp_path / "a.pt")
    with pytest.raises(UnreadableInputError, match="1.running_mean claims 1000000000000 numbers"):
        load(tmp_path / "a.pt")


def test_a_storage_shorter_than_its_tensor(tmp_path):
    buffer = io.BytesIO()
    torch.save({"linear.weight": torch.zeros(100)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(tmp_path / "a.pt", "w") as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry)[:8] if entry.endswith("data/0") else old.read(entry))
    with pytest.raises(UnreadableInputError, match="cannot be read as a torch file"):
        load(tmp_path / "a.pt")


@pytest.mark.slow
def test_a_hundred_thousand_keys(tmp_path):
    one = torch.ones(1)
    torch.save({f"key{index}": one for index in range(100_000)}, tmp_path / "a.pt")
    with pytest.raises(UnreadableInputError, match="no published network has these keys"):
        load(tmp_path / "a.pt")


def test_pickles_that_torch_did_not_write(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"state_dict": 1}))
    with pytest.raises(UnreadableInputError, match="not a file that torch.save writes"):
        load(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 100])
def test_damaged_safetensors(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UnreadableInputError, match="cannot be read as safetensors"):
        load(tmp_path / "a.safetensors")


def test_shards_with_their_index(tmp_path):
    keys = list(state_of())
    halves = {"a-1.safetensors": keys[: len(keys) // 2], "a-2.safetensors": keys[len(keys) // 2 :]}
    for name, half in halves.items():
        save_file({key: state_of()[key] for key in half}, tmp_path / name)
    index = tmp_path / "a.safetensors.index.json"
    weight_map = {key: name for name, half in halves.items() for key in half}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert torch.equal(load(index).linear.weight, state_of()["linear.weight"])
    for content, sentence in [
        ({"weight_map": weight_map | {"x": "a-1.safetensors"}}, "names 'x', which is not in a-1.safetensors"),
        (
            {"weight_map": {"x": "../a-1.safetensors"}},
            "'../a-1.safetensors', which is no shard that lies beside it",
        ),
        ({"weight_map": {"x": "b.safetensors"}}, "b.safetensors cannot be read"),
        ({"weights": {}}, "cannot be read as an index of safetensors shards"),
        ([], "cannot be read as an index of safetensors shards"),
    ]:
        index.write_text(json.dumps(content))
        with pytest.raises(UnreadableInputError, match=sentence):
            load(index)


def test_unsafe_loading_is_asked_for(tmp_path):
    mark = tmp_path / "mark"
    torch.save({"state_dict": state_of(), "extra": hostile.Marks(mark)}, tmp_path / "a.pt")
    assert isinstance(load(tmp_path / "a.pt", unsafe=True), ResNet)
    assert mark.exists()
    (tmp_path / "b.pt").write_bytes(b"nonsense")
    with pytest.raises(UnreadableInputError, match="cannot be read as a torch file"):
        load(tmp_path / "b.pt", unsafe=True)


def test_networks_that_cannot_be():
    for build, sentence in [
        (lambda: ResNet(BasicBlock, [1, 1], [2, 3]), "3 or 4 stages"),
        (
            lambda: HybridResNet(BasicBlock, [1, 1, 1], [2, 3, 4], 4, rotations=3),
            "found 4",
        ),
        (lambda: HybridResNet(BasicBlock, [1, 1, 1], [2, 3, 4], 1, 9, 3, False), "needs coset pooling"),
        (lambda: CECNN(5, 1), "at least 2 rotations"),
    ]:
        with pytest.raises(SpecError, match=sentence):
            build()


def test_features_without_pooling():
    model = ResNet(BasicBlock, [1, 1, 1], [2, 3, 4], rotations=3, nopool=True)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 3, 4, 4)
    assert isinstance(convert(model).conv1, nn.Conv3d)


def test_a_wrong_argument_is_told_by_the_first_mismatch_and_a_count(tmp_path):
    torch.save(small_network().state_dict(), tmp_path / "a.pt")
    with pytest.raises(UnreadableInputError) as caught:
        load(tmp_path / "a.pt", model=small_network, arguments={"rotations": 4})
    message = str(caught.value)
    assert len(message.replace(str(tmp_path), "")) < 320
    assert "size mismatch for" in message
    assert re.search(r", and \d+ more; the network's arguments may be others \(--model-arg\)$", message)


def test_a_migrated_file_of_ones_own_network_is_said_to_be_one(tmp_path):
    torch.save(migrate_state_dict(small_network().state_dict()), tmp_path / "a.pt")
    with pytest.raises(NothingToConvertError, match="in the form conv3d already"):
        load(tmp_path / "a.pt", model=small_network)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("tests.support.small_netwrok", "did you mean small_network?"),
        ("tests.suport.Net", "searched: what is installed, then /"),
    ],
)
def test_a_typo_in_allow_is_answered_with_what_was_meant(tmp_path, name, cure):
    torch.save(small_network(), tmp_path / "a.pt")
    with pytest.raises(UnreadableInputError, match=re.escape(cure)):
        load(tmp_path / "a.pt", allow=[name])
