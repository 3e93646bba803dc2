"""An ONNX file against the evidence: its outputs, its values along the network, its layers by themselves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ceconv_convert.files.system import name_of
from ceconv_convert.kernel.rotation_major import from_rotation_major, to_rotation_major, unflatten_rotations
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.onnx.boundaries import Boundary, boundaries_of
from ceconv_convert.onnx.runtime import OnnxRunner, check_dtype, inner_values
from ceconv_convert.verification.equivariance import HueRotation
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.judge import judge
from ceconv_convert.verification.layers import check_alone, layer_example, magnitude_for, signs
from ceconv_convert.verification.outputs import Recording
from ceconv_convert.verification.reference import Example
from ceconv_convert.verification.shapes import fits, odd_sizes
from ceconv_convert.verification.verdict import LayerCheck, Verdict

_LARGE_BATCH = 9


def judge_onnx(evidence: Evidence, path: Path, *, progress: Progress | None = None) -> Verdict:
    """Judge an ONNX file in ONNX Runtime.

    A file of fixed size or batch is judged on inputs of that; one of dynamic axes on odd sizes and a larger
    batch too, where the network runs on them.

    Raises:
        ExportError: where it cannot be loaded or run value by value, or ONNX Runtime does not convolve in the
            dtype of the original.
    """
    check_dtype(evidence.dtype)
    run = OnnxRunner(path)
    evidence = _with_fitting_inputs(evidence, run.shape)
    boundaries = boundaries_of(run.texts)
    values = inner_values(path, evidence.trace.example.input)
    steps = evidence.trace.compare_values(
        [value for value in values.values() if value.dtype.is_floating_point and value.numel()],
        folded={boundary.layer for boundary in boundaries if boundary.norms},
    )
    values[run.input] = evidence.trace.example.input.cpu()
    rotation = evidence.hue_rotation
    symmetries = rotation.compare(lambda x: Recording(run(x))) if isinstance(rotation, HueRotation) else []
    return judge(
        evidence,
        run,
        f"{name_of(path)} in ONNX Runtime",
        layers=_check_layers(evidence, path, boundaries, values),
        steps=steps,
        symmetries=symmetries,
        progress=progress,
    )


def _with_fitting_inputs(evidence: Evidence, declared: Sequence[int | None]) -> Evidence:
    """The evidence on inputs that a file takes, of odd sizes and a larger batch too."""
    small, larger = odd_sizes(evidence.shape)
    single, many = ([(count, *size) for size in small] for count in (1, _LARGE_BATCH))
    further: list[Example] = []
    for shapes in (single, [(1, *size) for size in larger], [*many, (_LARGE_BATCH, *evidence.shape)]):
        fitting = (shape for shape in shapes if fits(shape, declared))
        further += itertools.islice(filter(None, map(evidence.example_at, fitting)), 1)
    evidence = evidence.fitting(declared)
    return replace(evidence, random=(*evidence.random, *further))


def _check_layers(
    evidence: Evidence, path: Path, boundaries: Sequence[Boundary[str]], values: Mapping[str, Tensor]
) -> list[LayerCheck]:
    """Every layer that the file tells apart, by itself, on signs; layers of one input are fed the same."""
    prefix, x = evidence.trace.prefix, evidence.trace.example.input
    modules = dict(evidence.networks.original.named_modules(remove_duplicate=False))
    known = [boundary for boundary in boundaries if _is_known(boundary, evidence, modules, values)]
    magnitudes: dict[str, float] = {}
    for boundary in known:
        magnitude = magnitude_for(evidence.networks.specs[prefix + boundary.layer], x.dtype)
        magnitudes[boundary.input] = max(magnitudes.get(boundary.input, 1.0), magnitude)
    features: dict[str, Tensor] = {}
    fed: dict[str, Tensor] = {}
    for boundary in known:
        shape = _input_features(values, boundary, evidence.networks.specs[prefix + boundary.layer]).shape
        features[boundary.input] = signs(shape, len(features), magnitudes[boundary.input], x.dtype)
        fed[boundary.input] = _as_in_file(features[boundary.input], values[boundary.input], boundary.major_in)
    outputs = inner_values(path, x, [boundary.output for boundary in known], fed) if known else {}
    checks = []
    for boundary in known:
        name, magnitude = prefix + boundary.layer, magnitudes[boundary.input]
        spec, alone = evidence.networks.specs[name], features[boundary.input].to(x.device)
        seen = layer_example(modules[name], spec, alone, _norms(boundary, modules, prefix), magnitude)
        checks.append(check_alone(name, _output_features(outputs, boundary, spec), seen))
    return checks


def _is_known(
    boundary: Boundary[str],
    evidence: Evidence,
    modules: Mapping[str, nn.Module],
    values: Mapping[str, Tensor],
) -> bool:
    """Whether the original has that layer and its norms, and the values are of its shapes."""
    spec = evidence.networks.specs.get(evidence.trace.prefix + boundary.layer)
    if spec is None or len(_norms(boundary, modules, evidence.trace.prefix)) < len(boundary.norms):
        return False
    try:
        _input_features(values, boundary, spec)
        _output_features(values, boundary, spec)
    except (RuntimeError, LookupError):  # the text is of another graph
        return False
    return True


def _norms(
    boundary: Boundary[str], modules: Mapping[str, nn.Module], prefix: str
) -> list[tuple[_BatchNorm, bool]]:
    """Those folded into a layer that the original has, each with whether its shift is folded."""
    found = [(modules.get(f"{prefix}{norm.module}"), norm.shifts) for norm in boundary.norms]
    return [(m, shifts) for m, shifts in found if isinstance(m, _BatchNorm) and m.running_var is not None]


def _input_features(values: Mapping[str, Tensor], boundary: Boundary[str], spec: KernelSpec) -> Tensor:
    """``[B, I, N_in, H, W]``."""
    return _from_file(values[boundary.input], spec.in_channels, spec.in_rotations, boundary.major_in)


def _output_features(values: Mapping[str, Tensor], boundary: Boundary[str], spec: KernelSpec) -> Tensor:
    """``[B, O, N_out, H, W]``."""
    return _from_file(values[boundary.output], spec.out_channels, spec.out_rotations, boundary.major_out)


def _from_file(value: Tensor, channels: int, rotations: int, major: bool) -> Tensor:
    """A value of the file as ``[B, C, N, H, W]``; RuntimeError or IndexError where it is of another shape."""
    features = (from_rotation_major if major else unflatten_rotations)(value, channels, rotations)
    if features.shape[1:3] != (channels, rotations):
        raise RuntimeError(f"{tuple(value.shape)} is not {channels} channels of {rotations} rotations")
    return features


def _as_in_file(features: Tensor, like: Tensor, major: bool) -> Tensor:
    """``[B, C, N, H, W]`` in the layout of a value of the file."""
    if major:
        channels = like.numel() // features[:, 0].numel()  # with those that are padding
        features = to_rotation_major(features, channels)
    return features.reshape(like.shape)
