"""Loading: published class names become ours, nothing runs, every refusal is named."""

import argparse
import sys
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ceconv_convert import CEConv2d, convert, load
from ceconv_convert.errors import OutputError, UnreadableInputError
from ceconv_convert.files.class_names import resolve
from ceconv_convert.files.provenance import save_module, save_tensors
from ceconv_convert.files.staging import Staging
from tests import hostile
from tests.support import COLOR_DIGITS, GOLDEN_SEQUENTIAL, relative, same_state, small_network


def test_a_pickle_of_the_published_classes_loads_as_ours():
    model = load(GOLDEN_SEQUENTIAL)
    assert [type(module) for module in model] == [CEConv2d, nn.ReLU, CEConv2d, nn.ReLU, CEConv2d]
    golden = load_file(GOLDEN_SEQUENTIAL.with_suffix(".io.safetensors"))
    own = relative(golden["output"], golden["output_float64"])
    assert relative(model(golden["input"]), golden["output_float64"]) <= 4 * own + 1e-6
    assert relative(model.double()(golden["input"].double()), golden["output_float64"]) <= 1e-12


def test_the_fixture_loads_and_round_trips(tmp_path):
    model = load(COLOR_DIGITS)
    converted = convert(model)
    save_module(converted, tmp_path / "a.pt")
    again = load(tmp_path / "a.pt")
    assert same_state(again.state_dict(), converted.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(again.eval()(x), converted.eval()(x))


@pytest.mark.parametrize("thing", [hostile.Marks, hostile.Evaluates])
@pytest.mark.parametrize("container", [hostile.in_torch_archive, hostile.in_bare_pickle])
def test_nothing_in_a_file_runs(tmp_path, thing, container):
    mark = tmp_path / "mark"
    path = container(tmp_path / "model.pt", thing(mark))
    with pytest.raises(UnreadableInputError, match="model.pt"):
        load(path)
    assert not mark.exists()


def test_functions_cannot_be_allowed(tmp_path):
    mark = tmp_path / "mark"
    path = hostile.in_torch_archive(tmp_path / "model.pt", hostile.Marks(mark))
    with pytest.raises(UnreadableInputError, match="only classes can be allowed"):
        load(path, allow=["posix.mkdir"])
    assert not mark.exists()


def test_all_refused_names_are_listed_at_once(tmp_path):
    model = nn.Sequential(hostile.HelperNetwork(), nn.ReLU())
    model.helper = hostile.helper_function
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(UnreadableInputError) as caught:
        load(tmp_path / "model.pt")
    message = str(caught.value)
    assert (
        "names what is not allowed (tests.hostile.HelperNetwork, tests.hostile.helper_function); nothing"
        in message
    )
    assert "--allow tests.hostile.HelperNetwork" in message


def test_allowed_classes_load(tmp_path):
    torch.save(hostile.HelperNetwork(), tmp_path / "model.pt")
    with pytest.raises(
        UnreadableInputError, match="names what is not allowed .tests.hostile.HelperNetwork.;"
    ):
        load(tmp_path / "model.pt")
    assert isinstance(
        load(tmp_path / "model.pt", allow=["tests.hostile.HelperNetwork"]), hostile.HelperNetwork
    )


def test_classes_in_the_working_directory_can_be_allowed(tmp_path, monkeypatch):
    (tmp_path / "my_network.py").write_text("from torch import nn\nclass Net(nn.Sequential):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import my_network

    torch.save(my_network.Net(CEConv2d(1, 3, 3, 2, 3)), tmp_path / "model.pt")
    monkeypatch.undo()
    del sys.modules["my_network"]
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert type(load("model.pt", allow=["my_network.Net"])).__name__ == "Net"
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere.Net", "--allow nowhere.Net cannot be imported"),
        ("tests.hostile.Missing", "--allow tests.hostile.Missing cannot be imported"),
        ("Net", "takes package.module.Class, found 'Net'"),
        ("tests.hostile.helper_function", "is a function: only classes"),
    ],
)
def test_what_cannot_be_allowed(name, sentence):
    with pytest.raises(UnreadableInputError, match=sentence):
        load(COLOR_DIGITS, allow=[name])


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "model.pt"
    for content, sentence in [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (b"\x00\x01 random bytes " * 100, "not a file that torch.save writes"),
        (b"PK\x03\x04" + b"\x00" * 100, "truncated or damaged zip archive"),
    ]:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UnreadableInputError, match=sentence):
            load(path)
    with pytest.raises(UnreadableInputError, match="is a folder"):
        load(tmp_path)


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9, 0.999])
def test_truncated_files(tmp_path, fraction):
    path = hostile.truncated(tmp_path / "model.pt", COLOR_DIGITS, fraction)
    with pytest.raises(UnreadableInputError, match="truncated or damaged"):
        load(path)


def test_an_archive_that_is_not_torchs(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UnreadableInputError, match="cannot be read as a torch file"):
        load(tmp_path / "model.pt")


def test_an_archive_without_one_of_its_tensors(tmp_path):
    path = hostile.without_tensor(tmp_path / "model.pt", COLOR_DIGITS)
    with pytest.raises(UnreadableInputError, match="cannot be read as a torch file"):
        load(path)


@pytest.mark.parametrize(
    ("thing", "sentence"),
    [
        (
            small_network().state_dict(),
            "no published network has these keys: 0.weight",
        ),
        ({"epoch": 3}, "holds a dict with the keys epoch: neither a module nor weights"),
        (torch.zeros(3), "holds a Tensor: neither a module nor weights"),
    ],
)
def test_files_of_other_things(tmp_path, thing, sentence):
    torch.save(thing, tmp_path / "model.pt")
    with pytest.raises(UnreadableInputError, match=sentence):
        load(tmp_path / "model.pt")


def test_tied_and_strided_tensors_are_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias = nn.Parameter(torch.randn(6)[::2])
    save_tensors(model.state_dict(), tmp_path / "a.safetensors")
    assert same_state(
        dict(sorted(load_file(tmp_path / "a.safetensors").items())), dict(sorted(model.state_dict().items()))
    )


def test_staged_files_appear_together_or_not_at_all(tmp_path):
    outputs = [tmp_path / "a.pt", tmp_path / "b.pt"]
    with Staging() as staging:
        for output in outputs:
            staging.path_for(output).write_text("new")
        assert not any(output.exists() for output in outputs)
    assert not list(tmp_path.iterdir())
    with Staging() as staging:
        for output in outputs:
            staging.path_for(output).write_text("new")
        (outputs[0]).write_text("someone else's, meanwhile")
        with pytest.raises(OutputError, match="a.pt exists"):
            staging.commit()
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_outputs_have_the_permissions_of_any_file(tmp_path):
    (tmp_path / "plain").write_text("x")
    with Staging() as staging:
        staged = staging.path_for(tmp_path / "staged")
        staged.write_text("x")
        staged.chmod(0o600)  # as safetensors does
        staging.commit()
    assert (tmp_path / "staged").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_outputs_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for output, sentence in [
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "a.pt", "there is no folder"),
        (tmp_path / "file" / "a.pt", "there is no folder"),
        (tmp_path / "file", "exists"),
    ]:
        with Staging() as staging, pytest.raises(OutputError, match=sentence):
            staging.path_for(output)


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    import os

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with Staging() as staging:
        staging.path_for(tmp_path / "a.pt").write_text("x")
        with pytest.raises(OutputError, match=r"a\.pt cannot be written: No space left on device"):
            staging.commit()
    assert not list(tmp_path.iterdir())


def test_writers_say_what_they_cannot_write(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        save_module(nn.Linear(1, 1), tmp_path / "none" / "a.pt")
    with pytest.raises(OutputError, match="cannot be written"):
        save_tensors(nn.Linear(1, 1).state_dict(), tmp_path / "none" / "a.safetensors")
    model = nn.Linear(1, 1)
    model.secret = lambda: None
    with pytest.raises(OutputError, match="cannot be written"):
        save_module(model, tmp_path / "a.pt")


def test_constructors_are_not_called(tmp_path):
    torch.save(nn.Sequential(nn.Linear(1, 1)), tmp_path / "honest.pt")
    assert type(load(tmp_path / "honest.pt")[0]) is nn.Linear
    path = hostile.in_torch_archive(tmp_path / "model.pt", hostile.CallsConstructor())
    with pytest.raises(UnreadableInputError, match="it calls the constructor of Linear"):
        load(path)


def saved_the_old_way(path, model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch cannot retrieve the source of a class made in a test
        torch.save(model, path, _use_new_zipfile_serialization=False)
    return path


RESAVE = r"torch\.save\(torch\.load\(path, weights_only=False\), path\), or pass --unsafe"


def test_a_whole_module_in_the_legacy_format_has_to_be_saved_again(tmp_path):
    model = small_network()
    path = saved_the_old_way(tmp_path / "old.pt", model)
    with pytest.raises(UnreadableInputError, match=f"is a whole module in .* before 1.6.* {RESAVE}"):
        load(path)
    for again in (load(path, unsafe=True), resaved(path)):
        assert same_state(again.state_dict(), model.state_dict())
        x = torch.randn(2, 3, 16, 16)
        assert torch.equal(again(x), model(x))


def resaved(path):
    """The module, read after the advice of the refusal is taken."""
    torch.save(torch.load(path, weights_only=False), path)
    return load(path)


def test_a_whole_module_inside_a_legacy_checkpoint_has_to_be_saved_again(tmp_path):
    path = saved_the_old_way(tmp_path / "old.pt", {"module": small_network(), "epoch": 3})
    with pytest.raises(UnreadableInputError, match=RESAVE):
        load(path)
    assert same_state(load(path, unsafe=True).state_dict(), resaved(path).state_dict())


def test_classes_in_the_legacy_format_have_to_be_allowed_too(tmp_path):
    model = nn.Sequential(hostile.HelperNetwork(), hostile.HelperNetwork())
    path = saved_the_old_way(tmp_path / "old.pt", model)
    with pytest.raises(
        UnreadableInputError, match="not allowed .tests.hostile.HelperNetwork.; .* module, first re-save it"
    ):
        load(path)
    with pytest.raises(UnreadableInputError, match=RESAVE):
        load(path, allow=["tests.hostile.HelperNetwork"])
    assert len(load(path, unsafe=True)) == 2


def test_state_dicts_in_the_legacy_format_load_with_plain_data_and_allowed_classes(tmp_path):
    content = {"module": small_network().state_dict(), "args": argparse.Namespace(rotations=3)}
    content["note"] = hostile.Note("of the user's")
    path = saved_the_old_way(tmp_path / "old.pt", content)
    factory = "tests.support:small_network"
    again = load(path, model=factory, allow=["tests.hostile.Note"])
    assert same_state(again.state_dict(), small_network().state_dict())


def test_nothing_in_a_legacy_file_runs(tmp_path):
    mark = tmp_path / "mark"
    path = saved_the_old_way(tmp_path / "old.pt", nn.Sequential(CEConv2d(1, 3, 3, 2, 3)))
    model = nn.Sequential(CEConv2d(1, 3, 3, 2, 3))
    model.extra = hostile.Marks(mark)
    with pytest.raises(UnreadableInputError, match="names what is not allowed .posix.mkdir."):
        load(saved_the_old_way(path, model))
    assert not mark.exists()


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6, 0.9])
def test_truncated_legacy_files(tmp_path, fraction):
    whole = saved_the_old_way(tmp_path / "old.pt", small_network())
    path = hostile.truncated(tmp_path / "short.pt", whole, fraction)
    with pytest.raises(UnreadableInputError, match=r"short\.pt"):
        load(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_data_parallel_network_loads_as_the_network(tmp_path, legacy):
    wrapper = nn.DataParallel(small_network())
    wrapper.device_ids, wrapper.src_device_obj = [0, 1], torch.device("cuda:0")
    path = tmp_path / "parallel.pt"
    if legacy:
        saved_the_old_way(path, wrapper)
    else:
        torch.save(wrapper, path)
    assert same_state(load(path, unsafe=legacy).state_dict(), wrapper.module.state_dict())


MOVED = {
    "conv3d": ("conv3d", "modules.circular"),
    "conv2d": ("conv2d", "modules.expanded"),
    "fourier": ("fourier", "modules.fourier"),
}


def renamed(source, target, change):
    """An archive whose pickle is changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)


@pytest.mark.parametrize(("form", "before"), MOVED.values(), ids=MOVED)
def test_files_of_earlier_versions_name_classes_where_they_were(tmp_path, form, before):
    """The modules of the forms have moved since; what was written then still loads."""
    network = nn.Sequential(CEConv2d(1, 3, 3, 2, 3), nn.ReLU(), CEConv2d(3, 3, 2, 2, 3, learnable=True))
    network.append(CEConv2d(1, 3, 3, 2, 3, learnable=True) if form == "conv3d" else nn.ReLU())
    converted = convert(network, form)
    save_module(converted, tmp_path / "new.pt")
    places = {type(module).__module__ for module in converted if hasattr(module, "form")}

    def as_before(content):
        for place in places:
            content = content.replace(f"c{place}\n".encode(), f"cceconv_convert.{before}\n".encode())
        return content

    renamed(tmp_path / "new.pt", tmp_path / "old.pt", as_before)
    assert f"ceconv_convert.{before}\n".encode() in (tmp_path / "old.pt").read_bytes()
    again = load(tmp_path / "old.pt")
    assert [type(module) for module in again] == [type(module) for module in converted]
    assert [vars(module).keys() for module in again] == [vars(module).keys() for module in converted]
    assert same_state(again.state_dict(), converted.state_dict())


@pytest.mark.parametrize("name", ["ceconv_convert.modules.circular.nn", "ceconv_convert.cli.main.main"])
def test_other_names_of_this_package_are_not_allowed(name):
    assert resolve(name) is None


def flipped(path, name):
    """Flip a bit in the middle of an archive's entry."""
    with zipfile.ZipFile(path) as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith(name))
    content = bytearray(path.read_bytes())
    at = content.index(entry.filename.encode()) + len(entry.filename)
    header = int.from_bytes(content[entry.header_offset + 28 : entry.header_offset + 30], "little")
    content[at + header + entry.file_size // 2] ^= 0x10
    path.write_bytes(content)


def test_a_flipped_bit_in_a_tensor_is_found(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(small_network(), path)
    load(path)
    flipped(path, "data/3")
    with pytest.raises(UnreadableInputError, match=r"Bad CRC-32 for file 'model/data/3'"):
        load(path)


def test_a_file_written_without_checksums_loads(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(small_network(), tmp_path / "model.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert len(load(tmp_path / "model.pt")) == len(small_network())


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("raise ValueError('not today')", "not today"),
        ("1 / 0", "division by zero"),
        ("def", "invalid syntax"),
        ("import sys; sys.exit(5)", "5"),
        ("import nowhere", "No module named 'nowhere'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_sentence(tmp_path, monkeypatch, code, sentence):
    monkeypatch.chdir(tmp_path)
    name = f"unimportable_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    torch.save(small_network(), "model.pt")
    with pytest.raises(UnreadableInputError, match=sentence):
        load("model.pt", allow=[f"{name}.Network"])
    with pytest.raises(UnreadableInputError, match=r"--allow \.\.foo\.bar cannot be imported"):
        load("model.pt", allow=["..foo.bar"])
