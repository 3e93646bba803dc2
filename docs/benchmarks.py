"""Measure the networks of docs/benchmarks.md again, and print its tables.

    python docs/benchmarks.py [resnet18 …] [--eager]

Without names: those of the first table. By name also resnet44-batch8, resnet152, resnet18-n8 and
resnet18-n12.
Random weights; batch norm statistics moved off their initial values. All candidates of a network in one run.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from ceconv_convert.architectures.cecnn import CECNN
from ceconv_convert.architectures.resnet import BasicBlock, Bottleneck, HybridResNet, ResNet
from ceconv_convert.bench.bench_table import HEADINGS, bench_as_lines, row_as_texts
from ceconv_convert.bench.measure import measure
from ceconv_convert.conversion.convert import convert
from ceconv_convert.forms.table import AUTO, FORMS
from ceconv_convert.onnx.deliver import exportable
from ceconv_convert.onnx.export import write_onnx

Shape = tuple[int, ...]
LARGE, SMALL = (3, 224, 224), (3, 32, 32)


def channels(width: int, rotations: int, *, separable: bool, stages: int = 4) -> list[int]:
    """The published widths: as many parameters as the plain network of that width has."""
    if separable:
        return [math.floor(math.sqrt(9 * width**2 / (9 + rotations)) * 2**i) for i in range(stages)]
    return [int(width / math.sqrt(rotations) * 2**i) for i in range(stages)]


def _resnet18(rotations: int, *, separable: bool) -> nn.Module:
    widths = channels(64, rotations, separable=separable)
    return ResNet(BasicBlock, [2, 2, 2, 2], widths, 1000, rotations, True, False, separable)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "resnet18": (lambda: _resnet18(3, separable=True), (1, *LARGE)),
    "resnet18-batch8": (lambda: _resnet18(3, separable=True), (8, *LARGE)),
    "resnet44": (
        lambda: ResNet(
            BasicBlock, [7, 7, 7], channels(32, 3, separable=True, stages=3), 10, 3, True, False, True
        ),
        (32, *SMALL),
    ),
    "resnet50": (
        lambda: ResNet(Bottleneck, [3, 4, 6, 3], channels(47, 3, separable=True), 1000, 3, True, False, True),
        (1, *LARGE),
    ),
    "hybrid18": (
        lambda: HybridResNet(BasicBlock, [2, 2, 2, 2], [64, 128, 256, 512], 2, 1000, 3, True, False, True),
        (1, *LARGE),
    ),
    "resnet18-n6": (lambda: _resnet18(6, separable=False), (1, *LARGE)),
    "resnet18-n10": (lambda: _resnet18(10, separable=False), (1, *LARGE)),
    "cecnn": (lambda: CECNN(17, 3, 7, True), (64, 3, 28, 28)),
}

FURTHER: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "resnet44-batch8": (NETWORKS["resnet44"][0], (8, *SMALL)),
    "resnet152": (
        lambda: ResNet(
            Bottleneck, [3, 8, 36, 3], channels(64, 3, separable=True), 1000, 3, True, False, True
        ),
        (1, *LARGE),
    ),
    "resnet18-n8": (lambda: _resnet18(8, separable=False), (1, *LARGE)),
    "resnet18-n12": (lambda: _resnet18(12, separable=False), (1, *LARGE)),
}


def network(name: str) -> nn.Module:
    """A network of the table, its statistics moved."""
    torch.manual_seed(0)
    model = (NETWORKS | FURTHER)[name][0]().eval()
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        if key.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model


def main(names: Sequence[str], *, eager: bool) -> None:
    """Measure and print."""
    for name in names:
        model, shape = network(name), (NETWORKS | FURTHER)[name][1]
        with TemporaryDirectory() as folder:
            files = {form: Path(folder) / f"{form}.onnx" for form in ("original", *FORMS, AUTO)}
            for form, path in files.items():
                exported = model if form == "original" else exportable(model, form)
                write_onnx(exported, path, torch.randn(2, *shape[1:]), form=form)
            converted = {form: convert(model, form).eval() for form in FORMS}
            modules = {"original": model, **converted} if eager else {}
            bench = measure(files, modules, torch.randn(shape), provider="CPUExecutionProvider")
        print(f"\n### {name}\n\n| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")  # noqa: T201
        for row in bench.rows:
            print(f"| {' | '.join(row_as_texts(vars(row)))} |")  # noqa: T201
        print("\n" + "\n".join(bench_as_lines(bench)), flush=True)  # noqa: T201


if __name__ == "__main__":
    asked = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    main(asked or list(NETWORKS), eager="--eager" in sys.argv)
