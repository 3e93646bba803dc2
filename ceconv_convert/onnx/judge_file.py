"""An ONNX file against the evidence: its outputs, its values along the network, its layers by themselves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ceconv_convert.files.system import name_of, stat_of
from ceconv_convert.kernel.rotation_major import from_rotation_major, split_planes, to_rotation_major
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.onnx.assumptions import Assumption, violations
from ceconv_convert.onnx.boundaries import Boundary, boundaries_of
from ceconv_convert.onnx.isolate import run_isolated
from ceconv_convert.onnx.onnx_files import data_files
from ceconv_convert.onnx.runtime import OnnxRunner, check_dtype
from ceconv_convert.onnx.values import named_values
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.judge import judge, symmetries_of
from ceconv_convert.verification.layers import alone_evidence, check_alone
from ceconv_convert.verification.probe_input import magnitude_for, signs
from ceconv_convert.verification.shapes import Shape, as_text, fits, odd_sizes
from ceconv_convert.verification.symmetry import Turn
from ceconv_convert.verification.verdict import LayerCheck, Verdict

_LARGE_BATCH = 9


def onnx_files(path: Path) -> tuple[Path, ...]:
    """An ONNX file, and what lies beside it with its weights.

    Raises:
        UnreadableInputError: where one of them is missing, or no regular file.
    """
    stat_of(path)
    files = (path, *data_files(path))
    for file in files:
        stat_of(file)
    return files


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
    evidence = _suited(evidence, run.shape)
    boundaries = boundaries_of(run.texts)
    values = named_values(path, evidence.walk.input)
    steps = evidence.walk.compare_values(
        [value for value in values.values() if value.dtype.is_floating_point and value.numel()],
        folded={boundary.layer for boundary in boundaries if boundary.norms},
    )
    values[run.input] = evidence.walk.input.cpu()
    symmetries = symmetries_of(evidence.turn, run) if isinstance(evidence.turn, Turn) else []
    return judge(
        evidence,
        run,
        f"{name_of(path)} in ONNX Runtime",
        layers=_layers_alone(evidence, path, boundaries, values),
        steps=steps,
        symmetries=symmetries,
        progress=progress,
    )


@dataclass(frozen=True)
class Wrong:
    """Axes at some of whose sizes a file is wrong, and how that is known."""

    axes: frozenset[str]
    why: str


def wrong_sizes(evidence: Evidence, assumptions: Sequence[Assumption], path: Path) -> Wrong | None:
    """The first assumption of a graph that fails where the network runs, and the file is wrong there."""
    run = OnnxRunner(path)
    tried: list[Shape] = []
    for assumption in assumptions:
        if any(not assumption.holds(_sizes(shape)) for shape in tried):
            continue
        candidates = violations(assumption, _sizes((1, *evidence.shape)), assumptions)
        middle = evidence.shape[:-2]
        shapes = ((s["batch"], *middle, s["height"], s["width"]) for s in candidates)
        fitting = (shape for shape in shapes if fits(shape, run.shape))
        shape = next(filter(evidence.runs_at, fitting), None)
        if shape is None:
            continue
        tried.append(shape)
        problem = judge(evidence.at(shape), run, name_of(path)).problem
        if problem is not None:
            return Wrong(assumption.axes, f"it is wrong unless {assumption}: at {as_text(shape)} {problem}")
    return None


def _sizes(shape: Shape) -> dict[str, int]:
    return {"batch": shape[0], "height": shape[-2], "width": shape[-1]}


def _suited(evidence: Evidence, declared: Sequence[int | None]) -> Evidence:
    """The evidence that a file with such an input can be judged by."""
    small, larger = odd_sizes(evidence.shape)
    single, many = ([(count, *size) for size in small] for count in (1, _LARGE_BATCH))
    further: list[Shape] = []
    for shapes in (single, [(1, *size) for size in larger], [*many, (_LARGE_BATCH, *evidence.shape)]):
        fitting = (shape for shape in shapes if fits(shape, declared))
        further += itertools.islice(filter(evidence.runs_at, fitting), 1)
    return evidence.fitting(declared).elsewhere(further)


def _layers_alone(
    evidence: Evidence, path: Path, boundaries: list[Boundary], values: Mapping[str, Tensor]
) -> list[LayerCheck]:
    """Every layer that the file tells apart, fed with signs; a value that several layers take is fed once."""
    x, magnitudes = evidence.walk.input, dict[str, float]()
    found = [alone for b in boundaries if (alone := _alone(evidence, b, values)) is not None]
    for alone in found:
        name, magnitude = alone.boundary.input, magnitude_for(alone.spec, x.dtype)
        magnitudes[name] = max(magnitudes.get(name, 1.0), magnitude)
    fed: dict[str, Tensor] = {}
    packed: dict[str, Tensor] = {}
    for alone in found:
        name = alone.boundary.input
        features = alone.input_features(values[name])
        fed[name] = signs(features.shape, len(fed), magnitudes[name], x.dtype)
        packed[name] = alone.as_in_file(fed[name], values[name])
    gives = run_isolated(path, [alone.boundary for alone in found], packed, x) if found else []
    checks = []
    for alone, y in zip(found, gives, strict=True):
        name = alone.boundary.input
        seen = alone_evidence(alone.layer, alone.spec, alone.norms, fed[name].to(x.device), magnitudes[name])
        checks.append(check_alone(alone.name, alone.output_features(y), seen))
    return checks


@dataclass(frozen=True, eq=False)
class _Alone:
    """A layer of a file that can be run by itself.

    Attributes:
        name: its path in the original.
        boundary: where it is in the file.
        layer: the original's.
        spec: what that computes, in float64.
        norms: what the file's took up, each with whether it shifts.
    """

    name: str
    boundary: Boundary
    layer: nn.Module
    spec: KernelSpec
    norms: list[tuple[_BatchNorm, bool]]

    def input_features(self, value: Tensor) -> Tensor:
        """A value of the file as ``[B, I, N_in, H, W]``."""
        return _features(value, self.spec.in_channels, self.spec.in_rotations, self.boundary.major_in)

    def output_features(self, value: Tensor) -> Tensor:
        """A value of the file as ``[B, O, N_out, H, W]``."""
        return _features(value, self.spec.out_channels, self.spec.out_rotations, self.boundary.major_out)

    def as_in_file(self, features: Tensor, like: Tensor) -> Tensor:
        """``[B, I, N_in, H, W]`` in the layout of a value of the file."""
        if self.boundary.major_in:
            channels = like.numel() // features[:, 0].numel()  # with those that are padding
            features = to_rotation_major(features, channels)
        return features.reshape(like.shape)


def _alone(evidence: Evidence, boundary: Boundary, values: Mapping[str, Tensor]) -> _Alone | None:
    """A layer of the file with what it is in the original; None where they cannot be told, or do not fit."""
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
    alone = _Alone(name, boundary, modules[name], spec, norms)
    try:
        alone.input_features(values[boundary.input])
        alone.output_features(values[boundary.output])
    except (RuntimeError, IndexError):  # the note is not of this graph
        return None
    return alone


def _features(value: Tensor, channels: int, rotations: int, major: bool) -> Tensor:
    """A value in the layout of a file as ``[B, C, N, H, W]``.

    Raises:
        RuntimeError, IndexError: where it is of another shape.
    """
    found = from_rotation_major if major else split_planes
    features = found(value, channels, rotations)
    if features.shape[1:3] != (channels, rotations):
        raise RuntimeError(
            f"a value of shape {tuple(value.shape)} does not hold {channels}×{rotations} planes"
        )
    return features
