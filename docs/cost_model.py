"""Hold the estimates of onnx/passes/costs.py against this machine: convolutions of 17 to 224 channels, 3×3.

    python docs/cost_model.py

For three rotations: four groups of I → I channels, and one convolution of 3·I → 3·I; what they do in a
second, and the estimate over the time. The closer the estimates are to one number, the better.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch

from ceconv_convert.bench.measure import interleave
from ceconv_convert.onnx.passes.costs import block_of, convolution_cost
from ceconv_convert.onnx.runtime import OnnxRunner

CHANNELS = (17, 20, 24, 27, 28, 32, 40, 47, 48, 55, 56, 64, 81, 96, 110, 112, 220, 224)
BATCH, TAPS, LARGE, SMALL, FEW = 8, 9, 28, 14, 100


def seconds(groups: int, channels: int, side: int) -> float:
    """The median time of one convolution in ONNX Runtime."""
    kind = onnx.TensorProto.FLOAT
    shape = [BATCH, groups * channels, side, side]
    ends = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    weight = onnx.numpy_helper.from_array(torch.randn(groups * channels, channels, 3, 3).numpy(), "w")
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], group=groups, pads=[1, 1, 1, 1])
    graph = onnx.helper.make_graph([node], "convolution", ends[:1], ends[1:], [weight])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "convolution.onnx"
        opset = onnx.helper.make_opsetid("", 18)
        onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
        run = partial(OnnxRunner(path), torch.randn(shape))
        return statistics.median(interleave({"it": run}, seconds=0.5)["it"])


def main() -> None:
    """Measure and print."""
    block = block_of(None)
    print(f"channel blocks of {block}; 10⁹ multiplications a second, done and estimated")  # noqa: T201
    for count in CHANNELS:
        side = LARGE if count < FEW else SMALL
        cells = []
        for groups, channels in ((4, count), (1, 3 * count)):
            pixels = BATCH * side**2
            time = seconds(groups, channels, side)
            done = groups * channels**2 * TAPS * pixels / time
            estimate = convolution_cost(groups, (channels, channels), TAPS, (pixels, pixels), block) / time
            cells.append(f"{groups} × {channels}: {done / 1e9:4.0f} {estimate / 1e9:4.0f}")
        print("   ".join(cells), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
