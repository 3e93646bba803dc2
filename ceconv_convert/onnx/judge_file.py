"""An ONNX file against the evidence: its outputs, its values along the network, its layers by themselves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ceconv_convert.files.system import name_of
from ceconv_convert.kernel.rotation_major import from_rotation_major, split_planes, to_rotation_major
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.onnx.boundaries import Boundary, boundaries_of
from ceconv_convert.onnx.runtime import OnnxRunner, check_dtype, inner_values
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.judge import judge, symmetries_of
from ceconv_convert.verification.layers import alone_evidence, check_alone
from ceconv_convert.verification.probe_input import magnitude_for, signs
from ceconv_convert.verification.shapes import Shape, fits, odd_sizes
from ceconv_convert.verification.symmetry import Turn
from ceconv_convert.verification.verdict import LayerCheck, Verdict

_LARGE_BATCH = 9


def judge_onnx(evidence: Evidence, path: Path, *, progress: Progress | None = None) -> Verdict:
    """Judge an ONNX file in ONNX Runtime.

    A file of fixed size or batch is judged on inputs of that; one of dynamic axes on odd sizes and a larger
    batch too, where the network runs on them.

    Args:
        evidence: from the original.
        path: the file.
        progress: called with inputs done and inputs in all.

    Raises:
        ExportError: where it cannot be loaded or run value by value, or ONNX Runtime does not convolve in the
            dtype of the original.
    """
    check_dtype(evidence.dtype)
    run = OnnxRunner(path)
    evidence = _with_fitting_inputs(evidence, run.shape)
    boundaries = boundaries_of(run.texts)
    values = inner_values(path, evidence.walk.input)
    steps = evidence.walk.compare_values(
        [value for value in values.values() if value.dtype.is_floating_point and value.numel()],
        folded={boundary.layer for boundary in boundaries if boundary.norms},
    )
    values[run.input] = evidence.walk.input.cpu()
    return judge(
        evidence,
        run,
        f"{name_of(path)} in ONNX Runtime",
        layers=_check_layers(evidence, path, boundaries, values),
        steps=steps,
        symmetries=symmetries_of(evidence.turn, run) if isinstance(evidence.turn, Turn) else [],
        progress=progress,
    )


def _with_fitting_inputs(evidence: Evidence, declared: Sequence[int | None]) -> Evidence:
    """The evidence on inputs that a file takes, of odd sizes and a larger batch too."""
    small, larger = odd_sizes(evidence.shape)
    single, many = ([(count, *size) for size in small] for count in (1, _LARGE_BATCH))
    further: list[Shape] = []
    for shapes in (single, [(1, *size) for size in larger], [*many, (_LARGE_BATCH, *evidence.shape)]):
        fitting = (shape for shape in shapes if fits(shape, declared))
        further += itertools.islice(filter(evidence.runs_at, fitting), 1)
    return evidence.fitting(declared).elsewhere(further)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer of a file, and what it is in the original.

    Attributes:
        name: its path in the original.
        boundary: where it is in the file.
        module: the original's.
        spec: what that computes, in float64.
        norms: folded into the file's, each with whether its shift is.
        input_shape: ``[B, I, N_in, H, W]``.
    """

    name: str
    boundary: Boundary[str]
    module: nn.Module
    spec: KernelSpec
    norms: list[tuple[_BatchNorm, bool]]
    input_shape: Shape


def _check_layers(
    evidence: Evidence, path: Path, boundaries: Sequence[Boundary[str]], values: Mapping[str, Tensor]
) -> list[LayerCheck]:
    """Every layer that the file tells apart, by itself, on signs; layers of one input are fed the same."""
    x = evidence.walk.input
    layers = [layer for found in boundaries if (layer := _layer_at(evidence, found, values)) is not None]
    if not layers:
        return []
    magnitudes: dict[str, float] = {}
    for layer in layers:
        name = layer.boundary.input
        magnitudes[name] = max(magnitudes.get(name, 1.0), magnitude_for(layer.spec, x.dtype))
    features: dict[str, Tensor] = {}
    fed: dict[str, Tensor] = {}
    for layer in layers:
        name = layer.boundary.input
        features[name] = signs(layer.input_shape, len(features), magnitudes[name], x.dtype)
        fed[name] = _as_in_file(features[name], values[name], layer.boundary.major_in)
    outputs = inner_values(path, x, [layer.boundary.output for layer in layers], fed)
    checks = []
    for layer in layers:
        name, spec = layer.boundary.input, layer.spec
        alone = features[name].to(x.device)
        seen = alone_evidence(layer.module, spec, layer.norms, alone, magnitudes[name])
        y = outputs[layer.boundary.output]
        y = _from_file(y, spec.out_channels, spec.out_rotations, layer.boundary.major_out)
        checks.append(check_alone(layer.name, y, seen))
    return checks


def _layer_at(evidence: Evidence, boundary: Boundary[str], values: Mapping[str, Tensor]) -> _Layer | None:
    """The layer of a boundary; None where the original has none, or the values are not of its shapes."""
    modules = dict(evidence.network.named_modules(remove_duplicate=False))
    name = evidence.walk.prefix + boundary.layer
    spec = evidence.specs.get(name)
    if spec is None or not {boundary.input, boundary.output} <= values.keys():
        return None
    norms: list[tuple[_BatchNorm, bool]] = []
    for folded in boundary.norms:
        norm = modules.get(f"{evidence.walk.prefix}{folded.module}")
        if not isinstance(norm, _BatchNorm) or norm.running_var is None:
            return None
        norms.append((norm, folded.shifts))
    try:
        x = _from_file(values[boundary.input], spec.in_channels, spec.in_rotations, boundary.major_in)
        _from_file(values[boundary.output], spec.out_channels, spec.out_rotations, boundary.major_out)
    except (RuntimeError, IndexError):  # the text is of another graph
        return None
    return _Layer(name, boundary, modules[name], spec, norms, tuple(x.shape))


def _from_file(value: Tensor, channels: int, rotations: int, major: bool) -> Tensor:
    """A value in the layout of a file as ``[B, C, N, H, W]``.

    Raises:
        RuntimeError, IndexError: where it is of another shape.
    """
    features = (from_rotation_major if major else split_planes)(value, channels, rotations)
    if features.shape[1:3] != (channels, rotations):
        raise RuntimeError(f"{tuple(value.shape)} does not hold {channels}×{rotations} planes")
    return features


def _as_in_file(features: Tensor, like: Tensor, major: bool) -> Tensor:
    """``[B, C, N, H, W]`` in the layout of a value of the file."""
    if major:
        channels = like.numel() // features[:, 0].numel()  # with those that are padding
        features = to_rotation_major(features, channels)
    return features.reshape(like.shape)
