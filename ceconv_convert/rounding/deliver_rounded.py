"""An exact ONNX file → one of less than float32 that is judged; bad layers go back to float32."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from ceconv_convert.conversion.find import FoundLayer
from ceconv_convert.errors import UnreadableInputError, first_line
from ceconv_convert.files.system import name_of
from ceconv_convert.onnx.boundaries import LAYERS
from ceconv_convert.onnx.deliver import exportable, note_record, write_judged_onnx
from ceconv_convert.onnx.export import Exported
from ceconv_convert.onnx.judge_file import judge_onnx
from ceconv_convert.onnx.passes.cost_models import RUNTIMES, CostModel, cost_model
from ceconv_convert.onnx.passes.costs import processor_here
from ceconv_convert.onnx.runtime import OnnxRunner, check_dtype
from ceconv_convert.rounding.judge_rounded import LIMITS, judge_rounded
from ceconv_convert.rounding.round_file import (
    bytes_by_module,
    has_vnni,
    opset_of,
    ranges_of,
    write_float16,
    write_int8,
)
from ceconv_convert.rounding.units import units_of
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.rounded import Rounded
from ceconv_convert.verification.shapes import in_batches, random_input
from ceconv_convert.verification.verdict import Verdict

PRECISIONS = ("exact", "float16", "int8")
KEY = "ceconv_convert.precision"
"""Of a text in the file: what it was made for, how, and which layers are not rounded."""
_RANDOM_IMAGES, _RANDOM_BATCH = 16, 4
_FASTER = 3
"""One layer at a time goes back to float32; from so many on, a third as many as did before."""


@dataclass(frozen=True)
class Note:
    """The text: how the exact file was made, and which layers are ``float32``, each with the reason."""

    form: str
    processor: str
    target: str
    precision: str
    made_for: str
    float32: dict[str, str]


@dataclass(frozen=True, eq=False)
class Rounding:
    """What is wanted: a precision, images to ``calibrate`` on, and the most points that may be lost.

    Forms are chosen for the ``processor``, None is this machine's, and the runtime ``target``.
    """

    precision: str
    calibration: Tensor | None = None
    max_drop: float = 1.0
    processor: str | None = None
    target: str = RUNTIMES[0]


def write_in_precision(
    evidence: Evidence,
    converted: nn.Module,
    path: Path,
    wanted: Rounding | None,
    *,
    form: str,
    opset: int,
    costs: CostModel | None = None,
    static_batch: int | None = None,
    progress: Progress | None = None,
) -> tuple[Exported, Verdict]:
    """Write an ONNX file as ``write_judged_onnx`` does, and round it if that is ``wanted``."""
    write = partial(
        write_judged_onnx,
        evidence,
        converted,
        form=form,
        opset=opset,
        costs=costs,
        static_batch=static_batch,
        progress=progress,
    )
    if wanted is None:
        return write(path)
    with TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.onnx"
        exported, verdict = write(exact)
        if not verdict.passed:
            return exported, verdict
        verdict = _write_rounded(evidence, exact, path, verdict, wanted, form)
        return replace(exported, bytes_of=bytes_by_module(path)), verdict


def judge_existing(
    evidence: Evidence,
    model: nn.Module,
    found: Sequence[FoundLayer],
    path: Path,
    *,
    max_drop: float,
    progress: Progress | None = None,
) -> Verdict:
    """Judge an ONNX file; a rounded one of ours beside an exact one, which is made again as it was.

    A rounded one is judged on the user's images; in float16 on random ones, where there are none.

    Raises:
        UnreadableInputError: where there are none for int8, or the file does not say how it was made.
        ExportError: as ``judge_onnx`` does.
    """
    check_dtype(evidence.dtype)
    runner, name = OnnxRunner(path), name_of(path)
    if KEY not in runner.texts:
        return judge_onnx(evidence, path, runner, progress=progress)
    made = _read_note(runner.texts[KEY], name)
    evidence = evidence.fitting(runner.shape)
    if made.precision == "int8" and not evidence.data:
        raise UnreadableInputError(f"{name} is in int8, which is judged on images: add --inputs")
    with TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.onnx"
        _, verdict = write_judged_onnx(
            evidence,
            exportable(model, made.form, found),
            exact,
            form=made.form,
            opset=opset_of(onnx.load(path, load_external_data=False)),
            costs=cost_model(made.processor, precision=made.precision, runtime=made.target),
            static_batch=runner.shape[0],
            progress=progress,
        )
        if not verdict.passed:
            return verdict
        same = OnnxRunner(exact).texts.get(LAYERS) == runner.texts.get(LAYERS)
        rounded = judge_rounded(
            exact,
            path,
            units_of(onnx.load(exact, load_external_data=False)) if same else [],
            _batches(evidence, runner.shape[0], random=made.precision != "int8"),
            evidence.networks.specs,
            labels=evidence.labels,
            precision=made.precision,
            made_for=made.made_for,
            max_drop=max_drop,
            kept=made.float32,
        )
    return _verdict_on(rounded, verdict, path)


def _write_rounded(
    evidence: Evidence, exact: Path, path: Path, verdict: Verdict, wanted: Rounding, form: str
) -> Verdict:
    """Round the file ``exact``, which has passed its ``verdict``, and judge the result.

    Where a layer is noisy by itself, or too much is lost, the noisiest layers go back to float32, one after
    the other, until the verdict passes or none is left.
    """
    model = onnx.load(exact, load_external_data=False)
    units = units_of(model)
    runner = OnnxRunner(exact)
    evidence = evidence.fitting(runner.shape)
    batches = _batches(evidence, runner.shape[0], random=wanted.calibration is None)
    reduced = wanted.precision == "int8" and not has_vnni(wanted.processor)
    made_for = _made_for(wanted, reduced=reduced)
    ranges = None
    if wanted.calibration is not None:
        reads = in_batches(wanted.calibration, evidence.shape, torch.float32, torch.device("cpu"))
        ranges = ranges_of(exact, _whole([read() for read in reads], runner.shape[0]))
    kept: dict[str, str] = {}
    while True:
        nodes = [node for unit in units if unit.name in kept for node in unit.nodes]
        if ranges is None:
            write_float16(exact, path, kept=nodes)
        else:
            write_int8(exact, path, ranges, kept=nodes, reduce_range=reduced)
        rounded = judge_rounded(
            exact,
            path,
            units,
            batches,
            evidence.networks.specs,
            labels=evidence.labels,
            precision=wanted.precision,
            made_for=made_for,
            max_drop=wanted.max_drop,
            kept=kept,
        )
        new = _to_float32(rounded, max(1, len(kept) // _FASTER))
        if not new:
            break
        kept |= new
    note = Note(form, wanted.processor or processor_here(), wanted.target, wanted.precision, made_for, kept)
    note_record(path, asdict(note), KEY)
    return _verdict_on(rounded, verdict, path)


def _verdict_on(rounded: Rounded, exact: Verdict, path: Path) -> Verdict:
    name = f"{name_of(path)} in {rounded.precision} in ONNX Runtime"
    return replace(exact, candidate=name, problem=rounded.problem, rounded=rounded)


def _to_float32(rounded: Rounded, most: int) -> dict[str, str]:
    """The layers that go back to float32 next, with the reason; none where the verdict passes."""
    if rounded.problem is None:
        return {}
    there = [layer for layer in rounded.layers if layer.precision == rounded.precision]
    bad = {layer.name: layer.problem for layer in there if layer.problem is not None}
    if bad:
        return bad
    noisy = sorted(there, key=lambda layer: min(layer.alone, layer.channel))[:most]
    return {layer.name: f"{layer.alone:.1f} dB, the most noise while {rounded.lost()}" for layer in noisy}


def _made_for(wanted: Rounding, *, reduced: bool) -> str:
    if wanted.precision != "int8":
        return "GPUs, browsers and phones; inputs and outputs are float32"
    images = 0 if wanted.calibration is None else len(wanted.calibration)
    processor = "without VNNI, so weights have 7 bits" if reduced else "with VNNI"
    return f"ONNX Runtime on a CPU {processor}; calibrated on {images} images"


def _batches(evidence: Evidence, declared: int | None, *, random: bool) -> list[Tensor]:
    """The user's images; where there are none that the file takes, and ``random`` ones will do, those."""
    return _whole(evidence.data or (_random(evidence) if random else ()), declared)


def _whole(data: Sequence[Tensor], declared: int | None) -> list[Tensor]:
    """Batches of the declared size, if there is one, without those images that fill none."""
    count = sum(map(len, data))
    if count < (declared or 1):
        raise UnreadableInputError(
            f"{count} images do not fill a batch of {declared or 1}: give more, or a smaller --input-shape"
        )
    if declared is None:
        return list(data)
    return list(torch.split(torch.cat(list(data))[: count // declared * declared], declared))


def _random(evidence: Evidence) -> list[Tensor]:
    """Where there are no images of the user's."""
    x = random_input(
        (_RANDOM_IMAGES, *evidence.shape), evidence.examples.seed, torch.float32, torch.device("cpu")
    )
    return list(torch.split(x, _RANDOM_BATCH))


def _read_note(text: str, name: str) -> Note:
    try:
        made = Note(**json.loads(text))
        if made.precision in LIMITS and isinstance(made.float32, dict):
            return made
        problem = f"{made.precision!r} is no precision"
    except (ValueError, TypeError) as error:
        problem = first_line(error)
    raise UnreadableInputError(f"{name}: its text {KEY} does not say how the file was made: {problem}")
