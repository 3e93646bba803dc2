"""Files that are read and written: no input is overwritten, outputs appear together or not at all."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ceconv_convert import export_onnx, load, migrate_checkpoint, verify
from ceconv_convert.cli import candidates
from ceconv_convert.cli import run as RUN
from ceconv_convert.errors import OutputError, UnreadableInputError
from ceconv_convert.files.staging import Staging, signals_held
from tests.support import GOLDEN_SEQUENTIAL, names, small_network

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and signals of Unix")
SHAPE = ("--input-shape", "3,20,24")


@pytest.fixture
def model(folder):
    """A small network's file in the working directory, which stays as it is."""
    path = folder / "model.pt"
    shutil.copy(GOLDEN_SEQUENTIAL, path)
    yield path
    assert path.read_bytes() == GOLDEN_SEQUENTIAL.read_bytes()


def sharded(folder):
    """A checkpoint in two shards; gives its index."""
    state = small_network().state_dict()
    keys = list(state)
    shards = {"a-1.safetensors": keys[::2], "a-2.safetensors": keys[1::2]}
    for name, part in shards.items():
        save_file({key: state[key] for key in part}, folder / name)
    index = folder / "a.safetensors.index.json"
    weight_map = {key: name for name, part in shards.items() for key in part}
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def with_weights_beside(path, location):
    """A graph whose weights lie in a file of their own."""
    value = onnx.helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.ones(1, np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "graph",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
        [weight],
    )
    options = {"save_as_external_data": True, "location": location, "size_threshold": 0}
    onnx.save(onnx.helper.make_model(graph), path, **options)


def linked(name, source, how):
    """Another name of a file."""
    if how == "spelled":
        return Path(f"../{Path.cwd().name}/{source}")
    (os.link if how == "hard" else os.symlink)(source, name)
    return Path(name)


@pytest.mark.parametrize("how", ["spelled", "hard", "soft"])
@pytest.mark.parametrize("part", ["a-1.safetensors", "a-2.safetensors"])
def test_a_shard_of_the_input_is_never_an_output(run, folder, how, part):
    index = sharded(folder)
    output = linked("b.safetensors", part, how)
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with pytest.raises(OutputError, match="is the input"):
        migrate_checkpoint(index, output, force=True)
    factory = ("--model", "tests.support:small_network")
    code, _, err = run(index, *factory, "-o", output, "--force")
    assert (code, err) == (2, f"Error: {output} is the input: give another name\n")
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_an_index_of_shards_is_no_output(run, folder, model):
    for target in ("b.safetensors.index.json", folder / "c.safetensors.index.json"):
        with pytest.raises(OutputError, match="would be an index of shards"):
            migrate_checkpoint(model, target, force=True)
    os.symlink("c.safetensors.index.json", "r.json")
    for report in ("b.safetensors.index.json", "r.json"):
        code, _, err = run(model, "-o", "b.pt", "--report", report, "--force")
        assert code == 2
        assert "would be an index of shards" in err
    assert names(folder) == ["model.pt", "r.json"]


@pytest.mark.parametrize("how", ["hard", "soft"])
def test_inputs_are_never_outputs(run, folder, model, how):
    np.save("x.npy", np.zeros((2, 3, 20, 24), np.float32))
    os.makedirs("images/cat")
    os.symlink(".", "images/circle")
    Image.new("RGB", (24, 20)).save("images/cat/a.png")
    for read, inputs in (("x.npy", "x.npy"), ("images/cat/a.png", "images")):
        content = Path(read).read_bytes()
        linked("b.pt", read, how)
        linked("r.json", read, how)
        for options in (("-o", "b.pt"), ("-o", "c.pt", "--report", "r.json")):
            code, _, err = run(model, "--inputs", inputs, *options, "--force")
            assert code == 2
            assert "is the input: give another name" in err
        assert Path(read).read_bytes() == content
        os.unlink("b.pt")
        os.unlink("r.json")


def test_the_weights_beside_a_judged_file_are_never_a_report(run, folder, model):
    with_weights_beside("a.onnx", "w.json")
    weights = Path("w.json").read_bytes()
    os.link("w.json", "link.json")
    for report in ("w.json", "link.json"):
        code, _, err = run("--verify-only", model, "a.onnx", "--report", report, "--force")
        assert (code, err) == (2, f"Error: {report} is the input: give another name\n")
    assert Path("w.json").read_bytes() == weights


def test_what_comes_beside_an_output_overwrites_no_input(tmp_path):
    beside = tmp_path / "a.onnx.data"
    beside.write_text("read")
    for inputs, force, sentence in (((), False, "exists"), ((beside,), True, "is the input")):
        with Staging(inputs, force=force) as staging:
            staged = staging.path_for(tmp_path / "a.onnx")
            staged.write_text("graph")
            staged.with_name("a.onnx.data").write_text("weights")
            with pytest.raises(OutputError, match=f"a.onnx.data {sentence}"):
                staging.commit()
        assert beside.read_text() == "read"
        assert names(tmp_path) == ["a.onnx.data"]


def test_what_comes_beside_an_output_is_no_other_output(tmp_path):
    with Staging() as staging:
        staging.path_for(tmp_path / "a.onnx").with_name("a.onnx.data").write_text("weights")
        staging.path_for(tmp_path / "a.onnx.data").write_text("other")
        with pytest.raises(OutputError, match="is written twice"):
            staging.commit()
    assert names(tmp_path) == []


def stage(staging, folder, text, *outputs):
    for output in outputs:
        staging.path_for(folder / output).write_text(text)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def fail_at(monkeypatch, name, count, error=errno.EIO):
    """Let the system's function ``name`` fail from its call number ``count`` on."""
    calls = []
    function = getattr(os, name)

    def failing(*arguments, **options):
        calls.append(arguments)
        if len(calls) >= count:
            raise OSError(error, os.strerror(error))
        return function(*arguments, **options)

    monkeypatch.setattr(os, name, failing)


def test_a_failed_move_takes_back_those_before_it(tmp_path, monkeypatch):
    def someone_else(descriptor):
        (tmp_path / "b").write_text("someone else's")

    monkeypatch.setattr(os, "fsync", someone_else)  # after all is checked
    with Staging() as staging:
        stage(staging, tmp_path, "new", "a", "b", "c")
        with pytest.raises(OutputError, match="b cannot be written: File exists"):
            staging.commit()
        assert not (tmp_path / "a").exists()
    assert contents(tmp_path) == {"b": "someone else's"}


@pytest.mark.parametrize("links", [True, False])
def test_a_failed_move_restores_what_was_overwritten(tmp_path, monkeypatch, links):
    (tmp_path / "a").write_text("old")
    (tmp_path / "c").write_text("old")
    if not links:
        fail_at(monkeypatch, "link", 1, errno.EPERM)
    replace = os.replace

    def failing(source, target):
        if Path(target).name == "c" and Path(source).read_text() == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with Staging(force=True) as staging:
        stage(staging, tmp_path, "new", "a", "b", "c")
        with pytest.raises(OutputError, match="c cannot be written: Input/output error"):
            staging.commit()
    assert contents(tmp_path) == {"a": "old", "c": "old"}


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    fail_at(monkeypatch, "link", 1, errno.ENOTSUP)
    for force in (False, True, True):
        with Staging(force=force) as staging:
            stage(staging, tmp_path, "new", "a", "b")
            staging.commit()
        assert contents(tmp_path) == {"a": "new", "b": "new"}

    def someone_else(descriptor):
        (tmp_path / "d").write_text("someone else's")

    monkeypatch.setattr(os, "fsync", someone_else)
    with Staging() as staging:
        stage(staging, tmp_path, "newer", "c", "d")
        with pytest.raises(OutputError, match="d cannot be written: File exists"):
            staging.commit()
    assert contents(tmp_path) == {"a": "new", "b": "new", "d": "someone else's"}


@pytest.mark.parametrize("links", [True, False])
def test_one_of_several_that_write_at_once_gets_all(tmp_path, monkeypatch, links):
    if not links:
        fail_at(monkeypatch, "link", 1, errno.EPERM)
    count = 8
    ready = threading.Barrier(count)
    monkeypatch.setattr(os, "fsync", lambda descriptor: ready.wait(10))  # after all is checked
    ends = []

    def write(text):
        with Staging() as staging:
            stage(staging, tmp_path, text, *(("a", "b") if int(text) % 2 else ("b", "a")))
            try:
                staging.commit()
            except OutputError as error:
                ends.append(str(error))
            else:
                ends.append(text)

    threads = [threading.Thread(target=write, args=(str(number),)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (end for end in ends if end.isdecimal())
    assert contents(tmp_path) == {"a": winner, "b": winner}
    ends.remove(winner)
    assert set(ends) == {f"{tmp_path / 'a'} cannot be written: File exists"}


class Asked(BaseException):
    """A signal's handler raises it."""


@pytest.fixture
def asking():
    """Three signals raise ``Asked``."""

    def ask(number, frame):
        raise Asked(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield list(before)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_waits_until_all_is_moved(tmp_path, monkeypatch, asking):
    link = os.link

    def and_signal(*arguments):
        link(*arguments)
        for number in asking:
            signal.raise_signal(number)

    monkeypatch.setattr(os, "link", and_signal)
    with Staging() as staging:
        stage(staging, tmp_path, "new", "a", "b")
        with pytest.raises(Asked):
            staging.commit()
    assert contents(tmp_path) == {"a": "new", "b": "new"}
    with pytest.raises(Asked):
        signal.raise_signal(signal.SIGTERM)  # the handler is back


def test_held_signals_are_not_lost_in_an_error(asking):
    reached = []

    def hold(error):
        with signals_held():
            with signals_held():
                signal.raise_signal(signal.SIGTERM)
            reached.append("the end of the inner block")
            raise error

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Asked):
        hold(ValueError())
    assert reached
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_write_too(tmp_path):
    failures = []

    def write():
        try:
            with Staging() as staging:
                stage(staging, tmp_path, "new", "a")
                staging.commit()
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert not failures
    assert contents(tmp_path) == {"a": "new"}


def killed_while_it_writes(output):
    """Kill a process that has staged an output."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has threads
        child = os.fork()
    if child == 0:
        Staging().path_for(output).write_text("half")
        os.write(writing, b"x")
        signal.pause()
    os.read(reading, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)


def test_what_a_killed_process_left_is_cleared(tmp_path):
    (tmp_path / ".ceconv-convert.mine").mkdir()  # not named as ours are: of another machine, or by hand
    with Staging() as living:
        living.path_for(tmp_path / "a").write_text("living")
        killed_while_it_writes(tmp_path / "b")
        assert len(names(tmp_path)) == 3
        with Staging() as staging:
            stage(staging, tmp_path, "new", "c")
            assert len(names(tmp_path)) == 3
            staging.commit()
        living.commit()
    assert names(tmp_path) == [".ceconv-convert.mine", "a", "c"]


def test_links_in_place_of_hidden_folders_are_left_alone(tmp_path):
    with Staging() as staging:
        hidden = staging.path_for(tmp_path / "a").parent.name
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / hidden).symlink_to("precious")
    os.mkfifo(tmp_path / f"{hidden}-pipe")
    with Staging() as staging:
        staging.path_for(tmp_path / "a")
    assert (tmp_path / "precious" / "file").exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    def no_locks(descriptor, operation):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with Staging() as living:
        stage(living, tmp_path, "living", "a")
        with Staging() as staging:
            stage(staging, tmp_path, "new", "b")
            staging.commit()
        living.commit()
    assert contents(tmp_path) == {"a": "living", "b": "new"}


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="Linux")
def test_no_descriptor_stays_open(tmp_path):
    before = descriptors()
    for _ in range(3):
        with Staging(force=True) as staging:
            stage(staging, tmp_path, "new", "a", "b")
            staging.commit()
    assert descriptors() == before


@pytest.fixture
def interruptible():
    """A run in the background inherits that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_a_signal_while_the_report_is_made_leaves_nothing(run, folder, model, monkeypatch):
    for number, sentence in ((signal.SIGTERM, "Stopped"), (signal.SIGINT, "Interrupted")):
        monkeypatch.setattr(RUN, "write_report", lambda report, path, n=number: signal.raise_signal(n))
        code, _, err = run(model, "-o", "a.pt", "--report", "r.json", *SHAPE)
        assert code == 128 + number
        assert err.strip() == f"{sentence}: nothing was written"
        assert names(folder) == ["model.pt"]


def test_a_signal_after_all_is_written_says_so(run, folder, model, monkeypatch):
    monkeypatch.setattr(RUN, "bytes_as_text", lambda size: signal.raise_signal(signal.SIGTERM))
    code, _, err = run(model, "-o", "a.pt", "--report", "r.json", *SHAPE)
    assert (code, err) == (128 + signal.SIGTERM, "Stopped: a.pt, r.json had been written\n")
    assert names(folder) == ["a.pt", "model.pt", "r.json"]


def test_a_report_that_cannot_be_written_leaves_nothing(run, folder, model, monkeypatch):
    def full(report, path):
        raise OutputError(f"{path.name} cannot be written: No space left on device")

    Path("a.pt").write_text("old")
    monkeypatch.setattr(RUN, "write_report", full)
    code, _, err = run(model, "-o", "a.pt", "-o", "b.safetensors", "--report", "r.json", "--force", *SHAPE)
    assert (code, err) == (2, "Error: r.json cannot be written: No space left on device\n")
    assert Path("a.pt").read_text() == "old"
    assert names(folder) == ["a.pt", "model.pt"]


def test_a_failed_verdict_leaves_its_report_alone(run, folder, model, monkeypatch):
    replace_layers = candidates.replace_layers

    def damaged(*arguments, **options):
        found = replace_layers(*arguments, **options)
        with torch.no_grad():
            found[2].weight[0] += 1
        return found

    monkeypatch.setattr(candidates, "replace_layers", damaged)
    assert run(model, "-o", "a.pt", "--report", "r.json", *SHAPE)[0] == 1
    assert names(folder) == ["model.pt", "r.json"]
    assert json.loads(Path("r.json").read_text())["outputs"] == []


def test_an_error_of_another_file_is_not_standard_outputs(run, folder, model, monkeypatch):
    for error, sentence in (
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "/tmp/x: No space left on device"),
        (OSError(errno.EIO, "Input/output error"), "[Errno 5] Input/output error"),
    ):

        def failing(*arguments, error=error, **options):
            raise error

        monkeypatch.setattr(RUN, "build_network", failing)
        code, _, err = run(model, "-o", "a.pt")
        assert (code, err) == (2, f"Error: {sentence}\n")


def test_what_is_no_file_is_refused_at_once(run, folder, model, monkeypatch):
    for name in ("m.pt", "m.onnx", "m.npy", "m.npz", "m.safetensors", "m.safetensors.index.json"):
        os.mkfifo(name)
    os.mkdir("d.onnx")
    monkeypatch.setattr(RUN, "build_network", None)  # no work is done before it is said
    for arguments in (
        ("m.pt",),
        ("m.safetensors",),
        ("m.safetensors.index.json",),
        ("--verify-only", model, "m.onnx"),
        ("--verify-only", model, "m.pt"),
        ("--verify-only", model, "m.safetensors"),
        (model, "--inputs", "m.npy"),
        (model, "--inputs", "m.npz"),
        (model, "--inputs", "m.safetensors"),
    ):
        code, _, err = run(*arguments)
        assert (code, err) == (2, f"Error: {arguments[-1]} is no regular file\n")
    assert run("--verify-only", model, "d.onnx")[2] == "Error: d.onnx is a folder\n"


def test_functions_refuse_what_is_no_file(folder, monkeypatch):
    index = sharded(folder)
    os.unlink("a-2.safetensors")
    for name in ("a-2.safetensors", "m.pt", "m.onnx"):
        os.mkfifo(name)
    network = small_network()
    for call in (
        lambda: load("m.pt"),
        lambda: load(index),
        lambda: migrate_checkpoint("m.pt", "b.pt"),
        lambda: migrate_checkpoint(index, "b.pt"),
        lambda: migrate_checkpoint(index, "b.safetensors"),
        lambda: verify(network, "m.onnx"),
    ):
        with pytest.raises(UnreadableInputError, match="is no regular file"):
            call()
    with pytest.raises(UnreadableInputError, match="none.onnx cannot be read: No such file"):
        verify(network, "none.onnx")


def test_weights_beside_an_onnx_file_are_files(folder):
    with_weights_beside("a.onnx", "w.bin")
    os.unlink("w.bin")
    os.mkfifo("w.bin")
    with pytest.raises(UnreadableInputError, match=r"w\.bin is no regular file"):
        verify(load(GOLDEN_SEQUENTIAL), "a.onnx")
    graph = onnx.load("a.onnx", load_external_data=False)
    next(tensor for tensor in graph.graph.initializer if tensor.external_data).external_data[0].value = "a\0b"
    onnx.save(graph, "a.onnx")
    with pytest.raises(UnreadableInputError, match="cannot be read: embedded null"):
        verify(load(GOLDEN_SEQUENTIAL), "a.onnx")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_no_output(run, folder, model, kind):
    make = {"pipe": os.mkfifo, "device": lambda name: os.symlink("/dev/null", name), "folder": os.mkdir}
    make[kind]("b.pt")
    for options in ((), ("--force",)):
        code, _, err = run(model, "-o", "b.pt", *options)
        assert code == 2
        assert "give a file name" in err
    with pytest.raises(OutputError, match="give a file name"):
        migrate_checkpoint(GOLDEN_SEQUENTIAL.with_name("half_resnet18.pth"), "b.pt", force=True)


def test_names_with_a_null_byte(folder, model):
    for call, sentence in (
        (lambda: load("a\0.pt"), "cannot be read: embedded null"),
        (lambda: verify(small_network(), "a\0.onnx"), "cannot be read: embedded null"),
        (lambda: migrate_checkpoint(model, "a\0.pt"), "cannot be written: embedded null"),
        (lambda: export_onnx(small_network(), "a\0.onnx"), "cannot be written: embedded null"),
    ):
        with pytest.raises((UnreadableInputError, OutputError), match=sentence):
            call()


STRANGE = os.fsdecode(b"a\xff")


@pytest.mark.slow
def test_names_that_are_no_text(run, folder):
    place = f"{STRANGE}/"
    os.mkdir(place)
    model, inputs = f"{place}{STRANGE}.pt", f"{place}{STRANGE}.npy"
    shutil.copy(GOLDEN_SEQUENTIAL, model)
    np.save(inputs, np.ones((2, 3, 20, 24), np.float32))
    suffixes = ("b.pt", "c.safetensors", "d.onnx")
    outputs = [option for suffix in suffixes for option in ("-o", f"{place}{STRANGE}{suffix}")]
    reports = ["--report", f"{place}{STRANGE}.json", "--report", f"{place}{STRANGE}.html"]
    code, out, err = run(model, *outputs, *reports, "--inputs", inputs)
    assert code == 0, out + err
    assert names(Path(place)) == sorted(
        f"{STRANGE}{suffix}" for suffix in (".pt", ".npy", ".json", ".html", *suffixes)
    )
    report = json.loads(Path(f"{place}{STRANGE}.json").read_text("utf-8"))
    assert report["source"] == "a\ufffd.pt"
    assert [output["name"] for output in report["outputs"]] == [f"a\ufffd{suffix}" for suffix in suffixes]
    assert load(f"{place}{STRANGE}b.pt").ceconv_convert["source"] == "a\ufffd.pt"
    graph = onnx.load(f"{place}{STRANGE}d.onnx")
    made = next(json.loads(entry.value) for entry in graph.metadata_props if entry.key == "ceconv_convert")
    assert made["source"] == "a\ufffd.pt"
    assert made["verdict"]["candidate"] == "a\ufffdd.onnx in ONNX Runtime"
    for converted in ("d.onnx", "b.pt"):
        code, out, err = run(
            "--verify-only", model, f"{place}{STRANGE}{converted}", "--report", "r.json", *SHAPE, "--force"
        )
        assert code == 0, out + err
        assert "a\ufffd" in json.loads(Path("r.json").read_text("utf-8"))["line"]


@pytest.mark.slow
def test_names_that_are_no_text_in_sentences(run, folder):
    for arguments in (
        (f"{STRANGE}.pt",),
        (GOLDEN_SEQUENTIAL, "-o", f"{STRANGE}.tflite"),
        (GOLDEN_SEQUENTIAL, "-o", f"{STRANGE}/b.pt"),
        (GOLDEN_SEQUENTIAL, "--inputs", f"{STRANGE}.npy"),
        ("--verify-only", GOLDEN_SEQUENTIAL, f"{STRANGE}.onnx"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert "a?" in err


def test_the_search_path_is_as_before(folder, monkeypatch):
    here = os.getcwd()
    for before in ([here, "x", *sys.path], ["", *sys.path], [*sys.path, here], list(sys.path)):
        monkeypatch.setattr(sys, "path", list(before))
        load(GOLDEN_SEQUENTIAL, allow=["tests.hostile.HelperNetwork"])
        assert sys.path == before
        with pytest.raises(UnreadableInputError, match="cannot be imported"):
            load(GOLDEN_SEQUENTIAL, allow=["none.Such"])
        assert sys.path == before


def test_a_working_directory_that_is_gone(run, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, _, err = run(GOLDEN_SEQUENTIAL, "-o", "a.pt")
    assert (code, err) == (2, "Error: a.pt cannot be written: No such file or directory\n")
    with pytest.raises(UnreadableInputError, match="cannot be imported"):
        load(GOLDEN_SEQUENTIAL, allow=["none.Such"])
