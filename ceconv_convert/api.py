"""The public functions, put together from the rooms below."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from ceconv_convert.checkpoint import Staging, load, migrate_checkpoint, migrate_state_dict, provenance
from ceconv_convert.errors import NothingToConvertError, SpecError, VerificationError
from ceconv_convert.graph import (
    DEFAULT_OPSET,
    Exported,
    OnnxRunner,
    SymbolicLayer,
    check_dtype,
    check_file,
    folded_layers,
    values_of,
    write_metadata,
    write_onnx,
)
from ceconv_convert.modules import AUTO, CIRCULAR, FORMS, copy_model, names_inside, replace_modules
from ceconv_convert.rewrite import PlanRow, convert, plan, replace_layers, row_as_data
from ceconv_convert.verification import (
    Evidence,
    Turn,
    Verdict,
    gather,
    judge,
    judge_module,
    symmetries_of,
    verdict_summary,
)
from ceconv_convert.verification.evidence import Progress

__all__ = [
    "convert",
    "export_onnx",
    "judge_onnx",
    "load",
    "migrate_checkpoint",
    "migrate_state_dict",
    "plan",
    "verify",
    "write_judged_onnx",
]


COMPILED = (AUTO, "fourier")
"""Forms of ``.onnx`` files whose layers the graph compiler writes."""


def verify(
    original: nn.Module,
    converted: nn.Module | str | os.PathLike[str],
    *,
    input_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Verdict:
    """Whether ``converted`` computes what ``original`` does, judged by a float64 referee.

    Seeded random inputs in batches of 1, 2 and 5, at two image sizes where the network takes them; eval mode.
    A converted module is judged whole and layer by layer. Neither model is changed.

    Args:
        original: the model before conversion.
        converted: the module after it, or the path of an ONNX file.
        input_shape: of one input, ``(3, 224, 224)``, or of a batch of 1; None finds one that runs.
        seed: of the random inputs.
        progress: called with steps done and steps in all.

    Returns:
        The verdict; true where it passed, and a sentence as a string.

    Raises:
        InputShapeError: where the original does not run on ``input_shape``, or on any usual one.
        VerificationError: where the original does not run in float64.
        ExportError: where the ONNX file cannot be loaded, or ONNX Runtime cannot convolve in the dtype.

    >>> from ceconv_convert.layers import CEConv2d
    >>> model = nn.Sequential(CEConv2d(1, 3, 3, 8, 3), nn.ReLU(), CEConv2d(3, 3, 8, 4, 3))
    >>> verify(model, convert(model)).passed
    True
    """
    evidence = gather(original, input_shape, seed=seed, progress=progress)
    if isinstance(converted, nn.Module):
        return judge_module(evidence, converted, "the converted network")
    return judge_onnx(evidence, Path(converted))


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    form: str = AUTO,
    input_shape: tuple[int, ...] | None = None,
    opset: int = DEFAULT_OPSET,
    processor: str | None = None,
    seed: int = 0,
    force: bool = False,
) -> Verdict:
    """Convert ``model`` and write it as an ONNX file, once ONNX Runtime agrees with the original.

    The file has standard operators only, an input ``input`` and an output ``output``, and a dynamic batch;
    height and width are dynamic too where the network runs at a second image size. Where it does and the file
    does not, a warning says why.

    Args:
        model: a model with ``CEConv2d`` layers, or one converted already; it is not changed.
        path: the file to write.
        form: ``auto`` chooses for each layer what costs least; or ``conv3d``, ``conv2d``, ``fourier``.
        input_shape: of one input, or of a batch of 1; None finds one that runs.
        opset: of the file.
        processor: that ``auto`` and ``fourier`` are fitted to, ``avx2`` or ``avx512``; None is this
            machine's. The file runs everywhere.
        seed: of the random inputs.
        force: overwrite an existing file.

    Returns:
        The verdict on the file in ONNX Runtime, which passed.

    Raises:
        VerificationError: where the verdict fails; nothing is written then.
        ExportError: where the network cannot be exported, or not with that opset.
        OutputError: where the file exists or cannot be written.
        ConversionError: as ``convert`` and ``verify`` do.
    """
    if form not in (AUTO, *FORMS):
        raise SpecError(f"form is one of {', '.join((AUTO, *FORMS))}; found {form!r}")
    with Staging(force=force) as staging:
        staged = staging.path_for(Path(path))
        layers, converted = plan(model, form), exportable(model, form)
        evidence = gather(model, input_shape, seed=seed)

        def record(verdict: Verdict, exported: Exported) -> provenance.Record:
            rows = [row_as_data(chosen_row(row, exported)) for row in layers]
            return provenance.record(type(model).__name__, None, form, rows, verdict_summary(verdict))

        exported, verdict = write_judged_onnx(
            evidence, converted, staged, form=form, opset=opset, processor=processor, record=record
        )
        if not verdict.passed:
            raise VerificationError(f"nothing was written: {verdict}")
        staging.commit()
    if exported.reason is not None and evidence.fixed_size is None:
        warnings.warn(f"{path}: height and width are fixed, {exported.reason}", stacklevel=2)
    return verdict


def exportable(model: nn.Module, form: str) -> nn.Module:
    """What an ``.onnx`` file of that form is exported from: layers to be compiled, or converted ones.

    Layers that are circular already have the same weight in another layout, and are compiled too; a network
    that is converted otherwise stays what it is.
    """
    try:
        return _compilable(model, form) if form in COMPILED else convert(model, form)
    except NothingToConvertError:
        if not plan(model, form).converted:
            raise
        return model


def _compilable(model: nn.Module, form: str) -> nn.Module:
    found = copy_model(model)
    circular = [layer for layer in found.modules() if isinstance(layer, CIRCULAR)]
    found = replace_modules(found, {layer: SymbolicLayer(layer.to_spec()) for layer in circular})
    try:
        return replace_layers(found, SymbolicLayer, form, inplace=True)
    except NothingToConvertError:
        if not circular:
            raise
        return found


def chosen_row(row: PlanRow, exported: Exported) -> PlanRow:
    """The row with the form that the compiler chose for it, if it did.

    A network inside a wrapper, as DataParallel's, is exported without it.
    """
    chosen = exported.compiled.choices
    for name in (row.name, *row.aliases):
        for part in names_inside(name):
            forms = dict.fromkeys(choice.form for choice in chosen if choice.layer == part)
            if forms:  # more than one where it is called more than once
                return replace(row, form=", ".join(forms))
    return row


def write_judged_onnx(
    evidence: Evidence,
    converted: nn.Module,
    path: Path,
    *,
    form: str,
    opset: int,
    processor: str | None = None,
    record: Callable[[Verdict, Exported], provenance.Record],
    progress: Progress | None = None,
) -> tuple[Exported, Verdict]:
    """Write an ONNX file, check it, judge it in ONNX Runtime, and note in it where it comes from.

    Where it is wrong with dynamic image sizes, it is written with a fixed one.
    """
    exported, verdict = _write_and_judge(evidence, converted, path, form, opset, processor, progress)
    if verdict.passed:
        write_metadata(path, {provenance.KEY: provenance.as_text(record(verdict, exported))})
    return exported, verdict


def _write_and_judge(
    evidence: Evidence,
    converted: nn.Module,
    path: Path,
    form: str,
    opset: int,
    processor: str | None,
    progress: Progress | None,
) -> tuple[Exported, Verdict]:
    check_dtype(evidence.dtype)
    example = evidence.inputs[1]  # a batch of 2
    dynamic = evidence.fixed_size is None
    write = partial(write_onnx, converted, path, example, opset=opset, form=form, processor=processor)
    exported = write(dynamic_size=dynamic)
    if not dynamic:
        exported = replace(exported, reason=f"the network takes no other size: {evidence.fixed_size}")
    check_file(path)
    judged = evidence if exported.dynamic_size else evidence.at_one_size()
    verdict = judge_onnx(judged, path, progress=progress)
    if exported.dynamic_size and not verdict.passed:
        # Some operators are exported for the example's size alone, without a word.
        again = write(dynamic_size=False)
        check_file(path)
        fixed = judge_onnx(evidence.at_one_size(), path, progress=progress)
        if fixed.passed:
            reason = f"since with dynamic ones the verdict fails: {verdict.problem}"
            return replace(again, reason=reason), fixed
    return exported, verdict


def judge_onnx(evidence: Evidence, path: Path, *, progress: Progress | None = None) -> Verdict:
    """Judge an ONNX file in ONNX Runtime: its outputs, and its values along the network."""
    check_dtype(evidence.dtype)
    run = OnnxRunner(path)
    values = values_of(path, evidence.walk.input)
    steps = evidence.walk.compare_values(values, folded=folded_layers(run.texts))
    symmetries = symmetries_of(evidence.turn, run) if isinstance(evidence.turn, Turn) else []
    candidate = f"{path.name} in ONNX Runtime"
    return judge(evidence, run, candidate, steps=steps, symmetries=symmetries, progress=progress)
