"""An ONNX file against the evidence: its outputs, its values along the network, its layers by themselves."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ceconv_convert.files.system import name_of
from ceconv_convert.kernel.rotation_major import (
    from_rotation_major,
    give_features,
    to_rotation_major,
    unflatten_rotations,
)
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


def judge_onnx(
    evidence: Evidence, path: Path, run: OnnxRunner | None = None, *, progress: Progress | None = None
) -> Verdict:
    """Judge an ONNX file in ONNX Runtime; ``run`` is a session of it, if there is one.

    A file of fixed size or batch is judged on inputs of that; one of dynamic axes on odd sizes and a larger
    batch too, where the network runs on them.

    Raises:
        ExportError: where it cannot be loaded or run value by value, or ONNX Runtime does not convolve in the
            dtype of the original.
    """
    check_dtype(evidence.dtype)
    run = run or OnnxRunner(path)
    evidence = _with_fitting_inputs(evidence, run.shape)
    x = evidence.trace.example.input
    boundaries = boundaries_of(run.texts)
    values = inner_values(path, x)
    steps = evidence.trace.compare_values(
        [value for value in values.values() if value.dtype.is_floating_point and value.numel()],
        folded={boundary.layer for boundary in boundaries if boundary.norms},
    )
    values[run.input] = x.cpu()
    rotation = evidence.hue_rotation
    symmetries = rotation.compare(lambda x: Recording(run(x))) if isinstance(rotation, HueRotation) else []
    layers, name = _check_layers(evidence, path, boundaries, values), f"{name_of(path)} in ONNX Runtime"
    return judge(evidence, run, name, layers=layers, steps=steps, symmetries=symmetries, progress=progress)


def _with_fitting_inputs(evidence: Evidence, declared: Sequence[int | None]) -> Evidence:
    """The evidence on inputs that a file takes, of odd sizes and a larger batch too."""
    evidence = evidence.fitting(declared)
    half, larger = odd_sizes(evidence.small)
    further: list[Example] = []
    many = [(_LARGE_BATCH, *half), (_LARGE_BATCH, *evidence.small), (1, *half)]
    for shapes in ([(1, *larger)], many):
        fitting = (shape for shape in shapes if fits(shape, declared))
        further += itertools.islice(evidence.examples.running(*fitting), 1)
    return replace(evidence, random=(*evidence.random, *further))


def _check_layers(
    evidence: Evidence, path: Path, boundaries: Sequence[Boundary[str]], values: Mapping[str, Tensor]
) -> list[LayerCheck]:
    """Every layer that the file tells apart, by itself, on signs; layers of one input are fed the same.

    Left out are layers and norms that the original does not have, and values that are not of its shapes: the
    text may be of another graph.
    """
    prefix, x, specs = evidence.trace.prefix, evidence.trace.example.input, evidence.networks.specs
    modules = dict(evidence.networks.original.named_modules(remove_duplicate=False))
    known = []
    magnitudes: dict[str, float] = {}
    shapes: dict[str, Sequence[int]] = {}
    for boundary in boundaries:
        spec = specs.get(prefix + boundary.layer)
        norms = _norms(boundary, modules, prefix)
        if spec is None or len(norms) < len(boundary.norms):
            continue
        try:
            taken = values[boundary.input]
            features = _from_file(taken, spec.in_channels, spec.in_rotations, boundary.major_in)
            _output_of(values, boundary, spec)
        except (RuntimeError, LookupError):
            continue
        known.append((boundary, spec, norms))
        shapes[boundary.input] = features.shape
        magnitudes[boundary.input] = max(magnitudes.get(boundary.input, 1.0), magnitude_for(spec, x.dtype))
    inputs = enumerate(shapes.items())
    alone = {name: signs(shape, seed, magnitudes[name], x.dtype) for seed, (name, shape) in inputs}
    fed = {b.input: _as_in_file(alone[b.input], values[b.input], b.major_in) for b, _, _ in known}
    outputs = inner_values(path, x, [boundary.output for boundary, _, _ in known], fed) if known else {}
    checks = []
    for boundary, spec, norms in known:
        name, random = prefix + boundary.layer, alone[boundary.input].to(x.device)
        random = give_features(random, spec.group_major)
        seen = layer_example(modules[name], spec, random, norms, magnitudes[boundary.input])
        found = give_features(_output_of(outputs, boundary, spec), spec.group_major)
        checks.append(check_alone(name, found, seen))
    return checks


def _norms(
    boundary: Boundary[str], modules: Mapping[str, nn.Module], prefix: str
) -> list[tuple[_BatchNorm, bool]]:
    """Those folded into a layer that the original has, each with whether its shift is folded."""
    found = [(modules.get(f"{prefix}{norm.module}"), norm.shifts) for norm in boundary.norms]
    return [(m, shifts) for m, shifts in found if isinstance(m, _BatchNorm) and m.running_var is not None]


def _output_of(values: Mapping[str, Tensor], boundary: Boundary[str], spec: KernelSpec) -> Tensor:
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
