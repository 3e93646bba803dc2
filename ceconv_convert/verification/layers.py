"""One layer by itself: on a random input, and on what it sees inside the network.

Judged channel by channel, each against the roundings that its own sums can have: a channel of small weights
is held to small errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ceconv_convert.errors import FOREIGN_FAILURES, first_line
from ceconv_convert.kernel.batch_norm import scale_and_shift, scaled
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.verification.distance import distance, distances, largest
from ceconv_convert.verification.probe_input import magnitude_for, reach_of, signs
from ceconv_convert.verification.shapes import as_text
from ceconv_convert.verification.verdict import LayerCheck, Measure, floor

_STORED = 4
_LONG_STRIDE = 32
"""A layer is judged on two steps of strides up to here, on one of strides twice as long."""
_LAYER_BOUND = 2**10
"""An original layer this many roundings from its closed form computes something else."""


@dataclass(frozen=True, eq=False)
class LayerEvidence:
    """One input of a layer, with what the original and its closed form make of it.

    Attributes:
        input: in the network's dtype.
        original: ``[B, O, N_out, H, W]``.
        exact: likewise, in float64.
        reach: ``[O]``, the largest sum of absolute products behind an output of each channel.
    """

    input: Tensor
    original: Tensor
    exact: Tensor
    reach: Tensor


def random_evidence(
    layer: nn.Module, spec: KernelSpec, seed: int, dtype: torch.dtype, device: torch.device
) -> LayerEvidence:
    """A layer on random signs, a few pixels more than its kernel, and its stride where that is usual."""
    rows, columns = spec.kernel_size
    down, right = (min(stride, _LONG_STRIDE) for stride in spec.stride)
    size = (rows + 2 * down + 3, columns + 2 * right + 4)
    magnitude = magnitude_for(spec, dtype)
    x = signs(spec.input_shape(2, size), seed, magnitude, dtype).to(device)
    return alone_evidence(layer, spec, (), x, magnitude)


def evidence_on(layer: nn.Module, spec: KernelSpec, x: Tensor) -> LayerEvidence:
    """A layer on an input that is given. The forward pass alone: a hook is no part of what is converted."""
    with torch.no_grad():
        absolute = spec.map(torch.abs)
        reach = evaluate(absolute, x.double().abs()).flatten(2).amax((0, 2))
        return LayerEvidence(x, layer.forward(x.clone()), evaluate(spec, x.double()), reach.cpu())


def alone_evidence(
    layer: nn.Module, spec: KernelSpec, norms: Sequence[tuple[_BatchNorm, bool]], x: Tensor, magnitude: float
) -> LayerEvidence:
    """A layer, with the norms that it took up, on signs.

    Args:
        layer: the original's.
        spec: what it computes, in float64.
        norms: batch norms in order, each with whether it shifts.
        x: ``signs`` of ``magnitude``.
        magnitude: of ``x``.
    """
    with torch.no_grad():
        original, exact = layer.forward(x.clone()), spec
        for norm, shifts in norms:
            scale, shift = _norm_as_scale(norm)
            exact = scaled(exact, scale.double(), shift.double() if shifts else None)
            original = original * scale.view(-1, 1, 1, 1).to(x.dtype)
            original = original + shift.view(-1, 1, 1, 1).to(x.dtype) if shifts else original
        return LayerEvidence(x, original, evaluate(exact, x.double()), reach_of(exact, magnitude))


def _norm_as_scale(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The scale and shift of a batch norm in eval mode, ``[C]`` each, in float64."""
    if norm.running_var is None or norm.running_mean is None:
        raise ValueError("a batch norm without statistics is none in eval mode")
    variance = norm.running_var.double()
    gamma = torch.ones_like(variance) if norm.weight is None else norm.weight.double()
    beta = torch.zeros_like(variance) if norm.bias is None else norm.bias.double()
    return scale_and_shift(gamma, beta, norm.running_mean.double(), variance, norm.eps)


def check_layer(
    name: str, layer: nn.Module, on_random: LayerEvidence, on_real: tuple[LayerEvidence, ...]
) -> LayerCheck:
    """A converted layer against its evidence."""
    measures: list[Measure] = []
    for seen in (on_random, *on_real):
        outcome = _check(layer, seen)
        if isinstance(outcome, str):
            return LayerCheck(name, measures[0] if measures else None, outcome)
        measures.append(outcome)
        if outcome.problem is not None:
            break
    worst = max(measures[1:], key=lambda measure: measure.strain, default=None)
    problem = next((measure.problem for measure in measures if measure.problem), None)
    return LayerCheck(name, measures[0], problem, worst)


def check_alone(name: str, found: Tensor, seen: LayerEvidence) -> LayerCheck:
    """What a layer of a file gives when it is run by itself, against the evidence on what it was fed."""
    outcome = _far_original(seen) or _compared(found, seen)
    if isinstance(outcome, str):
        return LayerCheck(name, None, outcome)
    return LayerCheck(name, outcome, outcome.problem)


def _check(layer: nn.Module, seen: LayerEvidence) -> Measure | str:
    far = _far_original(seen)
    if far is not None:
        return far
    try:
        with torch.no_grad():
            found = layer.forward(seen.input.clone())
    except FOREIGN_FAILURES as failure:
        return f"it does not run on {as_text(tuple(seen.input.shape))}: {first_line(failure)}"
    return _compared(found, seen)


def _far_original(seen: LayerEvidence) -> str | None:
    """Why nothing can be judged by the original: it would widen the tolerance until anything passes."""
    own = distance(seen.original, seen.exact)
    bound = floor(seen.input.dtype, _LAYER_BOUND, stored=_STORED) * largest(seen.exact)
    if own <= max(bound, floor(seen.input.dtype) * float(seen.reach.max())):
        return None
    return f"the original is {own:.1e} from its own closed form"


def _compared(found: Tensor, seen: LayerEvidence) -> Measure | str:
    """The measure of the channel that comes closest to its tolerance, or why none can be taken."""
    problem = mismatch(found, seen.original, seen.exact)
    if problem is not None:
        return problem
    errors, originals, scales = (
        tensor.flatten(2).amax((0, 2)).tolist()
        for tensor in (
            distances(found, seen.exact),
            distances(seen.original, seen.exact),
            seen.exact.abs().cpu(),
        )
    )
    channels = zip(errors, originals, scales, seen.reach.tolist(), strict=True)
    measures = [Measure(e, o, s, found.dtype, reach) for e, o, s, reach in channels]
    return max(measures, key=lambda measure: measure.strain)


def mismatch(found: Tensor, wanted: Tensor, truth: Tensor) -> str | None:
    """What keeps two outputs from being compared by number; None where nothing does."""
    if found.shape != wanted.shape:
        return f"it gives shape {as_text(tuple(found.shape))}, the original {as_text(tuple(wanted.shape))}"
    if found.dtype != wanted.dtype:
        return f"it gives {found.dtype}, the original {wanted.dtype}"
    for tensor, whose in ((truth, "the reference"), (wanted, "the original"), (found, "it")):
        if not bool(torch.isfinite(tensor).all()):
            return f"{whose} gives NaN or Inf"
    return None
