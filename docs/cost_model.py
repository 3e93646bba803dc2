"""Hold the estimates of onnx/passes/costs.py against this machine: convolutions of 17 to 224 channels, 3×3.

    python docs/cost_model.py [--int8]

For three rotations: four groups of I → I channels, and one convolution of 3·I → 3·I; what they do in a
second, and the estimate over the time. The closer the estimates are to one number, the better.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch

from ceconv_convert.bench.measure import interleave
from ceconv_convert.kernel.factored import Factored
from ceconv_convert.onnx.passes.cost_models import cost_model
from ceconv_convert.onnx.passes.costs import block_of, convolution_cost
from ceconv_convert.onnx.runtime import OnnxRunner
from ceconv_convert.rounding.round_file import ranges_of, write_int8

CHANNELS = (17, 20, 24, 27, 28, 32, 40, 47, 48, 55, 56, 64, 81, 96, 110, 112, 220, 224)
BATCH, TAPS, LARGE, SMALL, FEW = 8, 9, 28, 14, 100


def seconds(groups: int, channels: int, side: int, *, int8: bool = False) -> float:
    """The median time of one convolution in ONNX Runtime; in int8, of one between two others."""
    kind = onnx.TensorProto.FLOAT
    shape = [BATCH, groups * channels, side, side]
    x = torch.randn(shape)
    weight = torch.randn(groups * channels, channels, 3, 3) / (3 * channels**0.5)
    times = []
    with TemporaryDirectory() as folder:
        path, rounded = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        for count in (1, 3) if int8 else (1,):
            names = ["x", *(f"y{index}" for index in range(count))]
            nodes = [
                onnx.helper.make_node(
                    "Conv",
                    [names[i], "w"],
                    [names[i + 1]],
                    name=names[i + 1],
                    group=groups,
                    pads=[1, 1, 1, 1],
                )
                for i in range(count)
            ]
            ends = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in (names[0], names[-1])]
            numbers = onnx.numpy_helper.from_array(weight.numpy(), "w")
            graph = onnx.helper.make_graph(nodes, "convolution", ends[:1], ends[1:], [numbers])
            opset = onnx.helper.make_opsetid("", 18)
            onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
            if int8:
                write_int8(path, rounded, ranges_of(path, [x]))
            run = partial(OnnxRunner(rounded if int8 else path), x)
            times.append(statistics.median(interleave({"it": run}, seconds=0.5)["it"]))
    return (times[1] - times[0]) / 2 if int8 else times[0]


def main(*, int8: bool) -> None:
    """Measure and print."""
    block, layer = block_of(None), cost_model(precision="int8").layer
    print(f"channel blocks of {block}; 10⁹ multiplications a second, done and estimated")  # noqa: T201
    for count in CHANNELS:
        side = LARGE if count < FEW else SMALL
        cells = []
        for groups, channels in ((4, count), (1, 3 * count)):
            pixels = BATCH * side**2
            time = seconds(groups, channels, side, int8=int8)
            done = groups * channels**2 * TAPS * pixels / time
            ends = (channels, channels), (pixels, pixels)
            estimate = convolution_cost(groups, ends[0], TAPS, ends[1], block) / time
            if int8:
                factors = Factored(torch.empty(groups, 1, 1, 1, 1, 3, 3), None)
                estimate = layer(factors, *ends, sharing=1) / time
            cells.append(f"{groups} × {channels}: {done / 1e9:4.0f} {estimate / 1e9:4.0f}")
        print("   ".join(cells), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int8="--int8" in sys.argv)
