"""What the steps of a run share, and what it judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ceconv_convert.cli.options import Job
from ceconv_convert.conversion.find import FoundLayer
from ceconv_convert.conversion.plan import Plan
from ceconv_convert.files import provenance
from ceconv_convert.files.source import Source
from ceconv_convert.files.system import name_of
from ceconv_convert.report.terminal import Terminal
from ceconv_convert.verification.evidence import Evidence
from ceconv_convert.verification.verdict import Verdict, verdict_summary

if TYPE_CHECKING:
    from ceconv_convert.onnx.export import Exported


def print_plan(plan: Plan, terminal: Terminal) -> None:
    """The table of layers, why some are refused, and the sums."""
    terminal.table(plan.table(), ("red" if row.refusal else "" for row in plan.folded()))
    for refusal in plan.refusals():
        terminal.line(refusal, "red")
    terminal.line(plan.totals())


@dataclass(frozen=True, eq=False)
class RunContext:
    """What the steps of a run share: the job, and the original with its layers, once it has run."""

    job: Job
    terminal: Terminal
    source: Source
    model: nn.Module
    found: Sequence[FoundLayer]
    plan: Plan
    evidence: Evidence
    calibration: Tensor | None = None  # images that nothing is judged on
    static_batch: int | None = None  # of .onnx files of one input shape

    def record(
        self, verdict: Verdict | None, form: str | None = None, exported: Exported | None = None
    ) -> provenance.Record:
        """The provenance of an output or a report; with the forms that were chosen for an ONNX file."""
        rows = self.plan.convertible
        if self.job.verify_only:  # nothing is converted
            rows = tuple(replace(row, form=None) for row in rows)
        else:
            form = form or self.plan.form
        if exported is not None:
            from ceconv_convert.onnx.deliver import chosen_row

            rows = tuple(chosen_row(row, exported) for row in rows)
        summary = None if verdict is None else verdict_summary(verdict)
        layers = [row.as_data() for row in rows]
        return provenance.record(name_of(self.source.path), self.source.sha256, form, layers, summary)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network that was judged: a module, or a function that runs an ONNX file."""

    verdict: Verdict
    network: Callable[[Tensor], object]
    exported: Exported | None = None
