"""Cost models by runtime and precision. Their units are multiplications of the precision's convolution.

int8 in ONNX Runtime: a convolution of one group takes its input as it lies there; one of several lays out
columns. Transforms over the rotations are in float32, between a DequantizeLinear and a QuantizeLinear.
OpenVINO: convolutions by blocks of 16 channels; transforms are fused sums and products, which cost the more
the faster a multiplication is. docs/cost_model.py holds the estimates against a machine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.factored import Factored
from ceconv_convert.kernel.spec import Pair
from ceconv_convert.onnx.passes.costs import block_of, layer_cost, up_to

RUNTIMES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class CostModel:
    """``layer`` costs a layer by its factors, I' and O', H·W in and out, and how many layers share the input.

    ``block`` is the channel block of the runtime; ``elementwise`` whether transforms are written as sums.
    """

    block: int
    layer: Callable[..., float]
    elementwise: bool = False


@dataclass(frozen=True)
class _Constants:
    """Costs in multiplications: of a column's number, of a number moved, of one mixed; and a node's."""

    column: float
    moved: float
    mixed: float
    node: float
    inner: int  # the numbers behind an output are padded to a multiple of this, …
    outer: int  # … and the channels out to a multiple of this
    unaligned: float = 1.0  # times the cost of mixing, with channels that are no such multiple


_INT8 = _Constants(column=38, moved=68, mixed=420, node=5e6, inner=4, outer=16)
_BFLOAT16 = _Constants(column=0, moved=4, mixed=40, node=1e6, inner=16, outer=16, unaligned=4)
_OPENVINO_INT8 = _Constants(column=0, moved=8, mixed=250, node=2e6, inner=16, outer=16, unaligned=4)


def cost_model(
    processor: str | None = None, *, precision: str = "exact", runtime: str = "onnxruntime"
) -> CostModel:
    """The model for a processor, None is this machine's; SpecError for what is not known.

    >>> cost_model("avx2").block
    8
    """
    block = block_of(processor)
    if runtime not in RUNTIMES:
        raise SpecError(f"target is one of {', '.join(RUNTIMES)}; found {runtime!r}")
    if runtime == "openvino":
        constants = _OPENVINO_INT8 if precision == "int8" else _BFLOAT16
        return CostModel(block, partial(_cost, constants), elementwise=True)
    if precision == "int8":
        return CostModel(block, partial(_cost, _INT8))
    return CostModel(block, partial(layer_cost, block=block))


def _cost(it: _Constants, factors: Factored, channels: Pair, pixels: Pair, *, sharing: int) -> float:
    groups, rows, _, columns, _, *kernel = factors.weight.shape
    taps = math.prod(kernel)
    values_in, values_out = channels[0] * pixels[0], channels[1] * pixels[1]
    behind = up_to(columns * channels[0] * taps, it.inner * taps)
    cost = groups * behind * up_to(rows * channels[1], it.outer) * pixels[1] + it.node
    cost += it.moved * groups * (columns * values_in + rows * values_out)
    if groups > 1:
        cost += it.column * groups * columns * channels[0] * taps * pixels[1]
    mixes = ((factors.forward, values_in / sharing), (factors.inverse, values_out))
    for (matrix, values), count in zip(mixes, channels, strict=True):
        if matrix is not None:
            mixed = it.mixed * (it.unaligned if count % it.outer else 1)
            cost += mixed * sum(matrix.shape) * values + it.node
    return float(cost)
