"""What one call of the command line is to do: plain data, known before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FORM_CHOICES = ("auto", "conv3d", "conv2d", "fourier")
WEIGHTS_SUFFIX, ONNX_SUFFIX = ".safetensors", ".onnx"
OUTPUT_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", WEIGHTS_SUFFIX, ONNX_SUFFIX)
"""Of outputs; all but the last two hold a module, or the checkpoint that the source is."""
REPORT_SUFFIXES = (".json", ".html")


@dataclass(frozen=True)
class Job:
    """The arguments and options of one call; ``form`` None means auto for ``.onnx`` outputs, else conv3d."""

    model: Path
    converted: Path | None
    outputs: tuple[Path, ...]
    form: str | None
    input_shape: tuple[int, ...] | None
    opset: int
    processor: str | None
    allow: tuple[str, ...]
    factory: str | None
    arguments: tuple[tuple[str, object], ...]
    verify_only: bool
    inputs: Path | None
    reports: tuple[Path, ...]
    bench: bool
    batch: int
    threads: int | None
    provider: str
    seed: int
    unsafe: bool
    dry_run: bool
    force: bool
    quiet: bool

    @property
    def onnx_outputs(self) -> tuple[Path, ...]:
        """The ``.onnx`` outputs."""
        return tuple(output for output in self.outputs if output.suffix == ONNX_SUFFIX)

    @property
    def module_outputs(self) -> tuple[Path, ...]:
        """All other outputs."""
        return tuple(output for output in self.outputs if output.suffix != ONNX_SUFFIX)

    @property
    def onnx_form(self) -> str:
        """The form of ``.onnx`` outputs."""
        return self.form or "auto"

    @property
    def module_form(self) -> str | None:
        """The form of the converted module; None where the run makes none."""
        if self.form == "auto" or (self.form is None and self.outputs and not self.module_outputs):
            return None
        return self.form or "conv3d"
