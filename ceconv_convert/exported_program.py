"""A converted network as an exported program, which plain torch loads and runs without this package."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ceconv_convert.errors import ExportError
from ceconv_convert.files import provenance
from ceconv_convert.files.system import name_of, reading, writing
from ceconv_convert.onnx.capture import EXPORT_FAILURES, explain, quiet, traced
from ceconv_convert.surgery import copy_model, unwrapped
from ceconv_convert.verification.equivariance import HueRotation
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.judge import judge
from ceconv_convert.verification.outputs import Recording, run_module
from ceconv_convert.verification.verdict import Verdict

Run = Callable[[Tensor], Any]


def write_judged_program(
    evidence: Evidence,
    converted: nn.Module,
    path: Path,
    record: Callable[[Verdict], provenance.Record],
    *,
    progress: Progress | None = None,
) -> tuple[Verdict, Run, str]:
    """Write a network by ``torch.export.save``, load the file again, and judge what it computes.

    Batch, height and width are dynamic where torch can. The file has the ``record`` of its verdict among its
    extra files, under ``ceconv_convert``. Returned are also what runs the file, and what is not dynamic.

    Raises:
        ExportError: where torch cannot export the network.
        OutputError: where the file cannot be written.
    """
    module, example = unwrapped(copy_model(converted).eval()), evidence.export_example
    batch, size = {0: torch.export.Dim.DYNAMIC}, {}
    if evidence.fixed_size is None:
        size = dict.fromkeys((example.dim() - 2, example.dim() - 1), torch.export.Dim.DYNAMIC)
    failure: Exception | None = None
    for axes in (batch | size, batch, size, {}):
        x = example if 0 in axes else example[:1]
        try:
            program = traced(module, x, axes)
            break
        except EXPORT_FAILURES as error:
            failure = failure or error
    else:
        raise ExportError(f"torch cannot export the network: {explain(failure or ValueError())}") from failure
    save = partial(torch.export.save, program, path)
    with quiet(), writing(path):
        save()
    verdict, run = judge_program(evidence, path, progress=progress)
    if verdict.passed:
        with quiet(), writing(path):
            save(extra_files={provenance.KEY: provenance.as_text(record(verdict))})
    fixed = {"batch": 0, "height and width": example.dim() - 1}
    return verdict, run, " and ".join(what for what, axis in fixed.items() if axis not in axes)


def judge_program(evidence: Evidence, path: Path, *, progress: Progress | None = None) -> tuple[Verdict, Run]:
    """Judge what a ``.pt2`` file computes, at sizes that it takes, and what runs it; loading may run code.

    Raises:
        UnreadableInputError: where torch cannot load it.
    """
    with quiet(), reading(path, " as an exported program"):
        program = torch.export.load(path)
        module = program.module()
        shape = program.graph.find_nodes(op="placeholder")[-1].meta["val"].shape
        evidence = evidence.fitting([size if isinstance(size, int) else None for size in shape])
    run, rotation = partial(run_module, module), evidence.hue_rotation
    symmetries = rotation.compare(lambda x: Recording(run(x))) if isinstance(rotation, HueRotation) else []
    name = f"{name_of(path)} in torch.export"
    return judge(evidence, run, name, symmetries=symmetries, progress=progress), module
