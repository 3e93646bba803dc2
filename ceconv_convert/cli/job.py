"""What the user asked for, and what a run works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from ceconv_convert.conversion.find import FoundLayer
from ceconv_convert.conversion.plan_table import Plan
from ceconv_convert.files import provenance
from ceconv_convert.files.source import Source
from ceconv_convert.files.system import name_of
from ceconv_convert.forms.table import AUTO
from ceconv_convert.onnx.deliver import chosen_row
from ceconv_convert.onnx.export import DEFAULT_OPSET, Exported
from ceconv_convert.verification.evidence import Evidence
from ceconv_convert.verification.outputs import Outputs, run_module
from ceconv_convert.verification.verdict import Verdict, verdict_summary

_DEFAULT = "conv3d"


@dataclass(frozen=True)
class BenchJob:
    """How candidates are timed.

    Attributes:
        batch: images at once.
        threads: of each candidate; None is one a core.
        provider: of ONNX Runtime, as ``cpu`` or ``CUDAExecutionProvider``.
    """

    batch: int = 1
    threads: int | None = None
    provider: str = "cpu"


@dataclass(frozen=True)
class Job:
    """What the user asked for.

    Attributes:
        form: None is ``auto`` for ``.onnx`` outputs and ``conv3d`` for all others.
    """

    model: Path
    outputs: tuple[Path, ...]
    form: str | None = None
    input_shape: tuple[int, ...] | None = None
    opset: int | None = None
    processor: str | None = None
    allow: tuple[str, ...] = ()
    factory: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    unsafe: bool = False
    dry_run: bool = False
    force: bool = False
    converted: Path | None = None
    reports: tuple[Path, ...] = ()
    inputs: Path | None = None
    seed: int = 0
    bench: BenchJob | None = None

    @property
    def onnx_form(self) -> str:
        """Of ``.onnx`` outputs."""
        return AUTO if self.form is None else self.form

    @property
    def onnx_opset(self) -> int:
        """Of ``.onnx`` outputs."""
        return DEFAULT_OPSET if self.opset is None else self.opset

    @property
    def module_form(self) -> str | None:
        """Of all other outputs; None where the run makes no module."""
        modules = [output for output in self.outputs if output.suffix != ".onnx"]
        if self.form == AUTO or (self.form is None and self.outputs and not modules):
            return None
        return _DEFAULT if self.form is None else self.form

    @property
    def only_exports(self) -> bool:
        """Whether a network that is converted already will do."""
        return bool(self.outputs) and self.module_form is None and not self.dry_run and self.bench is None

    @property
    def planned_form(self) -> str:
        """What the table of layers shows."""
        return AUTO if self.module_form is None else self.module_form


@dataclass(eq=False)
class Candidates:
    """What was judged, and can be run again.

    Attributes:
        runs: everything that gives outputs, by what it is called.
        networks: the modules among it.
        exported: how the last ``.onnx`` output was written.
    """

    runs: dict[str, Callable[[Tensor], Outputs]] = field(default_factory=dict)
    networks: dict[str, nn.Module] = field(default_factory=dict)
    exported: Exported | None = None

    def add(self, name: str, network: nn.Module) -> None:
        """A module."""
        self.networks[name] = network.eval()
        self.runs[name] = partial(run_module, self.networks[name])


@dataclass(frozen=True, eq=False)
class Session:
    """What a run works with, once the original is read and has run.

    Attributes:
        job: what was asked for.
        source: the file that it comes from.
        model: the original.
        found: its color-equivariant layers.
        layers: the plan.
        evidence: what candidates are judged by.
    """

    job: Job
    source: Source
    model: nn.Module
    found: Sequence[FoundLayer]
    layers: Plan
    evidence: Evidence

    def record(
        self, verdict: Verdict | None, form: str | None = None, exported: Exported | None = None
    ) -> provenance.Record:
        """The provenance of an output, or of a report; of an ONNX file with the forms that were chosen."""
        rows = self.layers.convertible
        if self.job.converted is not None:  # nothing is converted
            rows = tuple(replace(row, form=None) for row in rows)
        elif form is None:
            form = self.layers.form
        if exported is not None:
            rows = tuple(chosen_row(row, exported) for row in rows)
        summary = None if verdict is None else verdict_summary(verdict)
        name, sha256 = name_of(self.source.path), self.source.sha256
        return provenance.record(name, sha256, form, [row.as_data() for row in rows], summary)
