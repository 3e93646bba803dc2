"""The public functions that need more than one room: ``verify`` and ``export_onnx``."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from ceconv_convert.conversion.find import find_layers
from ceconv_convert.conversion.plan import plan_layers
from ceconv_convert.errors import SpecError, VerificationError
from ceconv_convert.files import provenance
from ceconv_convert.files.staging import Staging
from ceconv_convert.forms.table import AUTO, FORMS
from ceconv_convert.onnx.deliver import chosen_row, exportable, note_record
from ceconv_convert.onnx.export import DEFAULT_OPSET
from ceconv_convert.onnx.onnx_files import onnx_files
from ceconv_convert.onnx.passes.cost_models import cost_model
from ceconv_convert.rounding.calibration import split_images
from ceconv_convert.rounding.deliver_rounded import (
    PRECISIONS,
    Rounding,
    judge_existing,
    write_in_precision,
)
from ceconv_convert.user_inputs import read_inputs
from ceconv_convert.verification.evidence import Progress, gather
from ceconv_convert.verification.judge import judge_module
from ceconv_convert.verification.shapes import Data, static_shape
from ceconv_convert.verification.verdict import Verdict, verdict_summary


def verify(
    original: nn.Module,
    converted: nn.Module | str | os.PathLike[str],
    *,
    input_shape: tuple[int, ...] | None = None,
    inputs: Tensor | str | os.PathLike[str] | None = None,
    labels: Tensor | None = None,
    max_drop: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Verdict:
    """Whether ``converted`` computes what ``original`` does, judged by a float64 reference, in eval mode.

    Both run on a random image of the network's size, and on smaller ones in batches of 1, 2 and 3, at two
    image sizes where the network takes them. The layers of a converted module, and of an ONNX file that this
    package wrote, are also judged one by one. A float16 or int8 file of this package is judged by what it
    loses.

    Args:
        original: the model before conversion; it is not changed.
        converted: the module after it, which is not changed; or the path of an ONNX file.
        input_shape: of one input, ``(3, 224, 224)``, or of a batch of 1; None finds one that runs.
        inputs: further inputs ``[count, …]``, or the path of an array file or of a folder of images, which is
            read batch by batch. An int8 file needs them: images that it was not calibrated on.
        labels: their classes, ``[count]``; None are those of the file or folder, if it has any.
        max_drop: most points of accuracy or top-1 agreement that a float16 or int8 file may lose.
        seed: of the random inputs.
        progress: called with steps done and steps in all.

    Returns:
        The verdict; true where it passed, and a sentence as a string.

    Raises:
        InputShapeError: where the original does not run on ``input_shape``, or on any usual one.
        VerificationError: where the original does not run in float64.
        UnreadableInputError: where the ONNX file is missing, or no regular file; or the ``inputs``.
        ExportError: where it cannot be loaded, or ONNX Runtime cannot convolve in the network's dtype.

    >>> from ceconv_convert import CEConv2d, convert
    >>> model = nn.Sequential(CEConv2d(1, 3, 3, 8, 3), nn.ReLU(), CEConv2d(3, 3, 8, 4, 3))
    >>> verify(model, convert(model)).passed
    True
    """
    if not isinstance(converted, nn.Module):
        onnx_files(Path(converted))  # a missing file is an error before the network runs
    data: Data | None
    if inputs is None or isinstance(inputs, Tensor):
        data = inputs
    else:
        read = read_inputs(Path(inputs), None if input_shape is None else (input_shape[-2], input_shape[-1]))
        data, labels = read.images, read.labels if labels is None else labels
    found = find_layers(original)
    evidence = gather(
        original, input_shape, found=found, seed=seed, data=data, labels=labels, progress=progress
    )
    if isinstance(converted, nn.Module):
        return judge_module(evidence, converted, "the converted network")
    return judge_existing(evidence, original, found, Path(converted), max_drop=max_drop)


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    form: str = AUTO,
    input_shape: tuple[int, ...] | None = None,
    opset: int = DEFAULT_OPSET,
    processor: str | None = None,
    target: str = "onnxruntime",
    precision: str = "exact",
    inputs: Tensor | None = None,
    labels: Tensor | None = None,
    max_drop: float = 1.0,
    seed: int = 0,
    static: bool = False,
    force: bool = False,
) -> Verdict:
    """Convert ``model``, and write it as an ONNX file if its outputs in ONNX Runtime are those of ``model``.

    The file has standard operators only, an input ``input`` and an output ``output``. Batch, height and width
    are dynamic where the network allows it; a warning says why one of them is not.

    Args:
        model: a model with ``CEConv2d`` layers, or one converted already; it is not changed.
        path: the file to write.
        form: ``auto`` chooses the cheapest for each layer; or ``conv3d``, ``conv2d``, ``fourier``.
        input_shape: of one input, or of a batch of 1; None finds one that runs.
        opset: of the file.
        processor: that ``auto`` and ``fourier`` are optimized for, ``avx2`` or ``avx512``; None is this
            machine's. The file runs everywhere.
        target: the runtime that they are optimized for, ``onnxruntime`` or ``openvino``.
        precision: ``exact`` (float32), ``float16`` or ``int8``: a rounded file may lose ``max_drop``.
        inputs: images ``[count, 3, H, W]`` to judge on. int8 takes ranges from a third of them, at most 256,
            and is judged on the others.
        labels: their classes, ``[count]``; without them top-1 agreement counts.
        max_drop: most points of accuracy or agreement that a rounded file may lose; layers with most noise
            stay float32 where it would lose more.
        seed: of the random inputs, and of the choice of images.
        static: write the file for one input shape, with the batch that ``input_shape`` begins with, or 1:
            without arithmetic on sizes, which some runtimes do not take. It is judged at that shape.
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
    if precision not in PRECISIONS:
        raise SpecError(f"precision is one of {', '.join(PRECISIONS)}; found {precision!r}")
    if precision == "int8" and inputs is None:
        raise SpecError("precision='int8' needs inputs, images to calibrate on and to judge on")
    costs = cost_model(processor, precision=precision, runtime=target)
    calibration = None
    if precision == "int8" and inputs is not None:
        split = split_images(inputs, labels, seed=seed, source="inputs")
        calibration, inputs, labels = split.calibration, split.judging, split.labels
    wanted = Rounding(precision, calibration, max_drop, processor, target) if precision != "exact" else None
    with Staging(force=force) as staging:
        staged = staging.path_for(Path(path))
        found = find_layers(model)
        batch = None
        if static:
            batch, input_shape = static_shape(input_shape, (layer.reading for layer in found))
        layers, converted = plan_layers(model, found, form), exportable(model, form, found)
        evidence = gather(model, input_shape, found=found, seed=seed, data=inputs, labels=labels)
        exported, verdict = write_in_precision(
            evidence,
            converted,
            staged,
            wanted,
            form=form,
            opset=opset,
            costs=costs,
            static_batch=batch,
        )
        if not verdict.passed:
            raise VerificationError(f"nothing was written: {verdict}")
        rows = [chosen_row(row, exported).as_data() for row in layers]
        summary = verdict_summary(verdict)
        note_record(staged, provenance.record(type(model).__name__, None, form, rows, summary))
        staging.commit()
    if evidence.fixed_size is not None and not static:  # a property of the network, not of the file
        exported = replace(exported, fixed={**exported.fixed, "size": ""})
    for note in exported.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return verdict
