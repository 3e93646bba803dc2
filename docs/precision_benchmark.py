"""Measure the table of docs/precision.md: files of every precision, in ONNX Runtime and OpenVINO, in one run.

    python docs/precision_benchmark.py [resnet18 …] [--picture]

Networks are those of docs/benchmarks.py, with random weights and inputs: speed and rounding, no accuracy.
``--picture`` draws speed against error to docs/precision.svg, from all candidates of the networks named.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from benchmarks import FURTHER, NETWORKS, network
from onnxruntime.quantization import quant_pre_process
from torch import Tensor, nn

from ceconv_convert.bench.bench_table import row_as_texts
from ceconv_convert.bench.measure import INT8, Row, measure
from ceconv_convert.onnx.deliver import exportable
from ceconv_convert.onnx.export import write_onnx
from ceconv_convert.onnx.passes.cost_models import cost_model
from ceconv_convert.rounding.round_file import ranges_of, write_int8

CALIBRATION = 4


def files_of(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Path]:
    """The candidates by name: exact files, and quantized ones of the same precision's form."""
    images = list(torch.randn(CALIBRATION, *example.shape[1:]).split(1))
    write = partial(write_onnx, example=example)
    files: dict[str, Path] = {}

    def add(name: str, module: nn.Module, *, quantized: bool, **options: object) -> None:
        exact = folder / f"{name}{'.for_int8' if quantized else ''}.onnx"
        write(module, exact, **options)
        if not quantized:
            files[name] = exact
            return
        if name == "original":  # its weights are computed in the graph: they have to be constants first
            constant = folder / "constant.onnx"
            quant_pre_process(exact, constant, skip_symbolic_shape=True)
            exact = constant
        files[f"{name}{INT8}"] = folder / f"{name}.int8.onnx"
        write_int8(exact, files[f"{name}{INT8}"], ranges_of(exact, images))

    for quantized in (False, True):
        add("original", model, quantized=quantized)
        for runtime in ("onnxruntime", "openvino"):
            costs = cost_model(precision="int8" if quantized else "exact", runtime=runtime)
            name = "auto" if runtime == "onnxruntime" else "auto for OpenVINO"
            add(name, exportable(model, "auto"), quantized=quantized, form="auto", costs=costs)
    return files


def main(names: Sequence[str], *, picture: bool) -> None:
    """Measure and print."""
    logging.disable(logging.WARNING)
    rows: dict[str, tuple[Row, ...]] = {}
    for name in names:
        model, shape = network(name), (NETWORKS | FURTHER)[name][1]
        with TemporaryDirectory() as folder:
            files = files_of(model, torch.randn(2, *shape[1:]), Path(folder))
            bench = measure(files, {}, torch.randn(shape), provider="CPUExecutionProvider")
        rows[name] = bench.rows
        print(f"\n### {name}\n\n| candidate | time | speed | error | file |\n|---|---|---|---|---|")  # noqa: T201
        for row in sorted(bench.rows, key=lambda row: row.ratio):
            print(f"| {' | '.join(row_as_texts(vars(row))[:5])} |", flush=True)  # noqa: T201
    if picture:
        draw(rows)


def draw(networks: dict[str, tuple[Row, ...]]) -> None:
    """Speed against error, a point for every candidate."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.fonttype"] = "none"
    figure, axes = plt.subplots(1, len(networks), figsize=(5 * len(networks), 4), squeeze=False, sharey=True)
    for place, (name, rows) in zip(axes[0], networks.items(), strict=True):
        for row in rows:
            ours, runtime = "auto" in row.name, "OpenVINO" in row.name and row.runtime == "openvino"
            place.plot(
                row.ratio,
                max(row.error, 1e-8),
                marker="s" if runtime else "o",
                color="C0" if ours else "C7",
                linestyle="none",
            )
            label = row.name.removesuffix(", OpenVINO")
            place.annotate(
                label,
                (row.ratio, max(row.error, 1e-8)),
                fontsize=6,
                xytext=(3, 3),
                textcoords="offset points",
            )
        place.set(title=name, xlabel="times as fast as the original in ONNX Runtime", yscale="log")
    axes[0][0].set_ylabel("error of the output / largest output")
    figure.suptitle("circles: ONNX Runtime, squares: OpenVINO; blue: converted, grey: as it is", fontsize=8)
    figure.tight_layout()
    figure.savefig(Path(__file__).parent / "precision.svg", metadata={"Date": None})


if __name__ == "__main__":
    asked = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    main(asked or list(NETWORKS), picture="--picture" in sys.argv)
