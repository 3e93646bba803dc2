"""An exact ONNX file → one of less than float32 that is judged; bad layers go back to float32."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from ceconv_convert.files import provenance
from ceconv_convert.files.system import name_of
from ceconv_convert.onnx.deliver import note_record, write_judged_onnx
from ceconv_convert.onnx.export import Exported
from ceconv_convert.onnx.passes.cost_models import CostModel
from ceconv_convert.onnx.runtime import OnnxRunner
from ceconv_convert.rounding.judge_rounded import judge_rounded
from ceconv_convert.rounding.round_file import has_vnni, ranges_of, write_float16, write_int8
from ceconv_convert.rounding.units import units_of
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.rounded import Rounded
from ceconv_convert.verification.shapes import in_batches, random_input
from ceconv_convert.verification.verdict import Verdict

PRECISIONS = ("exact", "float16", "int8")
KEY = "ceconv_convert.precision"
"""Of a text in the file: what it was made for, and which layers are not rounded."""
_RANDOM_IMAGES, _RANDOM_BATCH = 16, 4
_FASTER = 3
"""One layer at a time goes back to float32; from so many on, a third as many as did before."""


@dataclass(frozen=True, eq=False)
class Rounding:
    """What is wanted: a precision, images to ``calibrate`` on, and the most points that may be lost."""

    precision: str
    calibration: Tensor | None = None
    max_drop: float = 1.0
    processor: str | None = None


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
        return exported, write_rounded(evidence, exact, path, verdict, wanted) if verdict.passed else verdict


def write_rounded(evidence: Evidence, exact: Path, path: Path, verdict: Verdict, wanted: Rounding) -> Verdict:
    """Round the file ``exact``, which has passed its ``verdict``, and judge the result.

    Where a layer is noisy by itself, or too much is lost, the noisiest layers go back to float32, one after
    the other, until the verdict passes or none is left.
    """
    model = onnx.load(exact, load_external_data=False)
    units = units_of(model)
    runner = OnnxRunner(exact)
    batches = _batches(evidence.data or _random(evidence), runner.shape[0])
    reduced = wanted.precision == "int8" and not has_vnni(wanted.processor)
    made_for = _made_for(wanted, reduced=reduced)
    ranges = None
    if wanted.calibration is not None:
        reads = in_batches(wanted.calibration, evidence.shape, torch.float32, torch.device("cpu"))
        ranges = ranges_of(exact, _batches([read() for read in reads], runner.shape[0]))
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
    _note_precision(path, rounded, kept)
    name = f"{name_of(path)} in {wanted.precision} in ONNX Runtime"
    return replace(verdict, candidate=name, problem=rounded.problem, rounded=rounded)


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


def _batches(data: Sequence[Tensor], declared: int | None) -> list[Tensor]:
    return list(data) if declared is None else list(torch.split(torch.cat(list(data)), declared))


def _random(evidence: Evidence) -> list[Tensor]:
    """Where there are no images of the user's."""
    x = random_input(
        (_RANDOM_IMAGES, *evidence.shape), evidence.examples.seed, torch.float32, torch.device("cpu")
    )
    return list(torch.split(x, _RANDOM_BATCH))


def _note_precision(path: Path, rounded: Rounded, kept: Mapping[str, str]) -> None:
    text: provenance.Record = {
        "precision": rounded.precision,
        "made_for": rounded.made_for,
        "float32": dict(kept),
    }
    note_record(path, text, KEY)
