"""What every test runs in: one thread a process, torch's table of operators read once; the command line."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start

import copy
import math
import sys
from dataclasses import replace

import onnx_ir as ir
import pytest
import torch
from hypothesis import settings
from torch.onnx._internal.exporter._registration import ONNXRegistry

from ceconv_convert.bench import measure
from ceconv_convert.cli import main as cli
from ceconv_convert.onnx import export
from ceconv_convert.onnx.capture import capture
from ceconv_convert.report import terminal

torch.set_num_threads(1)
settings.register_profile("seeded", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("seeded")


@pytest.fixture(scope="session", autouse=True)
def one_registry():
    """torch's exporter reads its table of operators, half a second, for every export: here for the first."""
    read = ONNXRegistry.from_torchlib
    tables = {}

    def read_once(**options):
        key = tuple(options.items())
        if key not in tables:
            tables[key] = read(**options)
        registry = copy.copy(tables[key])
        registry.functions = {target: list(found) for target, found in tables[key].functions.items()}
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(read_once))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_lines_on_phases():
    """Standard error does not depend on how fast this machine is, but in processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "_WORTH_A_LINE", math.inf)
        yield


@pytest.fixture(scope="session", autouse=True)
def short_measurements():
    """Five runs of each candidate, and a small matrix product beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_MOST", measure._LEAST)
        patch.setattr(measure, "_SIDE", 64)
        yield


@pytest.fixture
def one_capture(monkeypatch):
    """torch traces a network once for all forms and processors that a test compiles it for.

    A test may export one network alone, of one dtype.
    """
    captured = {}

    def capture_once(module, example, *arguments, fixed, batch=1, hint="", progress=None):
        key = (frozenset(map(type, module.modules())), example.shape, batch, *arguments, *fixed.items())
        if key not in captured:
            captured[key] = capture(module, example, *arguments, fixed=fixed, batch=batch, hint=hint)
        return replace(captured[key], model=captured[key].model.clone())

    if hasattr(ir.Model, "clone"):  # onnx-ir has it since 0.1.13
        monkeypatch.setattr(export, "capture", capture_once)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command line: exit code, standard output, standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ceconv-convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return exit_.value.code, captured.out, captured.err

    return call
