"""What the steps of a run share: the job, the original, and the evidence that candidates are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ceconv_convert.cli.job import Job
from ceconv_convert.conversion.find import FoundLayer
from ceconv_convert.conversion.plan_table import Plan
from ceconv_convert.files import provenance
from ceconv_convert.files.source import Source
from ceconv_convert.files.system import name_of
from ceconv_convert.onnx.deliver import chosen_row
from ceconv_convert.onnx.export import Exported
from ceconv_convert.onnx.runtime import CONVOLVED
from ceconv_convert.report.terminal import Terminal
from ceconv_convert.surgery import copy_model
from ceconv_convert.verification.evidence import Evidence, gather
from ceconv_convert.verification.verdict import Verdict, verdict_summary


@dataclass(frozen=True, eq=False)
class RunContext:
    """The original ``model`` with its color-equivariant layers, once it has run."""

    job: Job
    terminal: Terminal
    source: Source
    model: nn.Module
    found: Sequence[FoundLayer]
    plan: Plan
    evidence: Evidence

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
            rows = tuple(chosen_row(row, exported) for row in rows)
        summary = None if verdict is None else verdict_summary(verdict)
        layers = [row.as_data() for row in rows]
        return provenance.record(name_of(self.source.path), self.source.sha256, form, layers, summary)

    def for_onnx(self, *files: Path) -> RunContext:
        """In float32, if ONNX Runtime does not convolve in the model's dtype; a line on each of ``files``."""
        evidence, terminal = self.evidence, self.terminal
        if evidence.dtype in CONVOLVED:
            return self
        reason = f"since ONNX Runtime's CPU provider does not convolve in {str(evidence.dtype)[6:]}"
        for file in files:
            terminal.line(f"{file}: in float32, {reason}")
        data, labels = torch.cat(evidence.data) if evidence.data else None, evidence.labels
        with terminal.progress("running the original in float32"):
            model = copy_model(self.model).float()
            single = gather(
                model, evidence.shape, found=self.found, seed=self.job.seed, data=data, labels=labels
            )
        return replace(self, model=model, evidence=single)
