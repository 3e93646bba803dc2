"""A rounded file beside the exact one that it was made from: what it decides, and the noise of each layer."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor

from ceconv_convert.kernel.color import rotation_about_grey
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec
from ceconv_convert.onnx.runtime import OnnxRunner, inner_values
from ceconv_convert.rounding.units import Unit
from ceconv_convert.verification.decisions import accuracy, agreement
from ceconv_convert.verification.equivariance import with_rotated_hue
from ceconv_convert.verification.outputs import Outputs
from ceconv_convert.verification.rounded import HUE_FACTOR, HueDrop, LayerNoise, Rounded

LIMITS = {"int8": (25.0, 12.0), "float16": (45.0, 30.0)}
"""Least signal to noise ratios of a layer and of a channel, in decibels."""
_NOISE_IMAGES = 8
"""Images that the noise of layers is measured on: every value of the network is kept for them."""
_BY_DESIGN = 1e-3
"""Largest change of an output that is invariant by design, relative to its size."""
_MOST = 200.0
_DEQUANTIZED = "_DequantizeLinear_Output"


def judge_rounded(
    exact: Path,
    path: Path,
    units: Sequence[Unit],
    batches: Sequence[Tensor],
    specs: Mapping[str, KernelSpec],
    *,
    labels: Tensor | None,
    precision: str,
    made_for: str,
    max_drop: float,
    kept: Mapping[str, str],
) -> Rounded:
    """Run both files on images that were not calibrated on.

    Without ``units`` the noise of layers is not measured. ``kept`` are those that are float32 in the rounded
    file, with the reason; ``labels`` are classes.
    """
    before, after = OnnxRunner(exact), OnnxRunner(path)
    truth, found = [before(x) for x in batches], [after(x) for x in batches]
    errors = [
        ((b.double() - a.double()).abs() / (float(a.double().abs().max()) or 1.0)).flatten()
        for a, b in zip(
            map(_joined, zip(*truth, strict=True)), map(_joined, zip(*found, strict=True)), strict=True
        )
    ]
    few = batches[0][: before.shape[0] or _NOISE_IMAGES]
    noise = layer_noise(exact, path, units, few) if units else []
    layers = []
    for unit, ratios in zip(units, noise, strict=True):
        own = "float32" if unit.name in kept else precision
        layers.append(LayerNoise(unit.name, own, *ratios, LIMITS[precision], kept.get(unit.name, "")))
    return Rounded(
        precision,
        made_for,
        sum(map(len, batches)),
        max_drop,
        max(float(error.max()) for error in errors),
        max(float(error.mean()) for error in errors),
        agreement(truth, found),
        None if labels is None else accuracy(truth, found, labels),
        tuple(_hue(before, after, batches, truth, found, specs, HUE_FACTOR * max_drop)),
        tuple(layers),
    )


def layer_noise(
    exact: Path, path: Path, units: Sequence[Unit], x: Tensor
) -> list[tuple[float, float, float]]:
    """Signal to noise of each unit on ``x``: on exact inputs, whole and of its worst channel; and in all."""
    there = {name for node in onnx.load(path, load_external_data=False).graph.node for name in node.output}
    names = {name for unit in units for name in (unit.input, unit.output)} - {_input(exact)}
    truth = {_input(exact): x} | inner_values(exact, x, sorted(names))
    ends = [_dequantized(unit.output, there) for unit in units]
    outputs = {unit.output for unit in units}
    # What one layer gives and the next takes is rounded once: that is counted where it is given.
    starts = [_dequantized(u.input, there) if u.input in outputs else u.input for u in units]
    total = inner_values(path, x, [*ends, *(start for start in starts if start in there)], fused=True)
    fed = {
        start: truth[unit.input].to(total[start].dtype)
        for start, unit in zip(starts, units, strict=True)
        if start in there
    }
    alone = inner_values(path, x, ends, fed, fused=True)
    return [
        (*_ratios(alone[end], truth[unit.output]), _ratios(total[end], truth[unit.output])[0])
        for unit, end in zip(units, ends, strict=True)
    ]


def _input(path: Path) -> str:
    return str(onnx.load(path, load_external_data=False).graph.input[0].name)


def _dequantized(name: str, there: set[str]) -> str:
    return f"{name}{_DEQUANTIZED}" if f"{name}{_DEQUANTIZED}" in there else name


def _ratios(found: Tensor, truth: Tensor) -> tuple[float, float]:
    """Of all channels, and of the worst one against the mean signal; ``[B, …, H, W]`` or ``[B, C]``."""
    last = truth.dim() - 2 if truth.dim() > 3 else truth.dim()
    signal, error = truth.double().flatten(1, last - 1), (found - truth).double().flatten(1, last - 1)
    axes = [axis for axis in range(signal.dim()) if axis != 1]
    powers, noises = signal.square().mean(axes), error.square().mean(axes)
    powers = powers[powers > 0]  # channels that are padding have none
    return _in_decibels(powers.sum(), noises.sum()), _in_decibels(powers.mean(), noises.max())


def _in_decibels(signal: Tensor, noise: Tensor) -> float:
    if not noise.isfinite() or not signal > 0:
        return -_MOST if noise > 0 or noise.isnan() else _MOST
    return min(_MOST, 10 * math.log10(signal / noise)) if noise > 0 else _MOST


def _joined(outputs: Sequence[Tensor]) -> Tensor:
    return torch.cat(
        [output.reshape(len(output), -1) if output.dim() else output.reshape(1, 1) for output in outputs]
    )


def _hue(
    before: OnnxRunner,
    after: OnnxRunner,
    batches: Sequence[Tensor],
    truth: Sequence[Outputs],
    found: Sequence[Outputs],
    specs: Mapping[str, KernelSpec],
    limit: float,
) -> list[HueDrop]:
    """With the hue rotated by one rotation, and by half of one; nothing where inputs have no hue."""
    rotated = [with_rotated_hue(x, specs) for x in batches]
    lifting = next((spec for spec in specs.values() if isinstance(spec, LiftingSpec)), None)
    whole = [x for x in rotated if not isinstance(x, str)]
    if lifting is None or len(whole) < len(rotated):
        return []
    degrees = 360 / lifting.out_rotations
    half = rotation_about_grey(degrees / 2)
    between = [torch.einsum("ij,bj...->bi...", half, x.double()).to(x.dtype) for x in batches]
    drops = []
    for angle, images in ((degrees, whole), (degrees / 2, between)):
        turned, rounded = [before(x) for x in images], [after(x) for x in images]
        change = _change(truth, turned)
        drops.append(
            HueDrop(
                angle,
                change,
                _change(found, rounded),
                agreement(truth, turned),
                agreement(found, rounded),
                limit if angle == degrees and change <= _BY_DESIGN else None,
            )
        )
    return drops


def _change(before: Sequence[Outputs], after: Sequence[Outputs]) -> float:
    first, second = (_joined([outputs[0] for outputs in found]).double() for found in (before, after))
    return float((first - second).norm() / (first.norm() or 1.0))
