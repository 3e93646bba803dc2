"""The options of the command line, and the job that they make; neither torch nor onnx is imported for it."""

import ast
import importlib.util
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ceconv_convert import __version__

FORM_CHOICES = ("auto", "conv3d", "conv2d", "fourier")
WEIGHTS_SUFFIX, ONNX_SUFFIX, PROGRAM_SUFFIX = ".safetensors", ".onnx", ".pt2"
OUTPUT_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", WEIGHTS_SUFFIX, ONNX_SUFFIX, PROGRAM_SUFFIX)
"""Of outputs; all but the last three hold a module, or the checkpoint that the source is."""
REPORT_SUFFIXES = (".json", ".html")


_GROUPS = {
    "Input": ("allow", "factory", "arguments", "unsafe", "input_shape"),
    "Output": ("outputs", "form", "opset", "static", "precision", "max_drop", "target", "processor", "force"),
    "Verdict": ("verify_only", "inputs", "seed", "reports", "dry_run", "quiet"),
    "Bench": ("bench", "batch", "threads", "provider"),
}
_NAMED = {name for names in _GROUPS.values() for name in names}


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
    target: str
    precision: str
    max_drop: float
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
    static: bool
    dry_run: bool
    force: bool
    quiet: bool

    @property
    def onnx_outputs(self) -> tuple[Path, ...]:
        return tuple(output for output in self.outputs if output.suffix == ONNX_SUFFIX)

    @property
    def module_outputs(self) -> tuple[Path, ...]:
        return tuple(output for output in self.outputs if output.suffix != ONNX_SUFFIX)

    @property
    def onnx_form(self) -> str:
        return self.form or "auto"

    @property
    def module_form(self) -> str | None:
        """The form of the converted module; None where the run makes none."""
        if self.form == "auto" or (self.form is None and self.outputs and not self.module_outputs):
            return None
        return self.form or "conv3d"


def _shape(text: str) -> tuple[int, ...]:
    """``3,224,224`` or ``3x224x224``. Whether a leading 1 is a batch is decided once the network is known."""
    parts = [part.strip() for part in re.split(r"[,x×]", text)]
    if len(parts) not in (3, 4, 5) or not all(re.fullmatch(r"0*[1-9][0-9]{0,8}", part) for part in parts):
        raise click.BadParameter(f"{text!r} is not an input shape, as 3,224,224 is: channels, height, width")
    return tuple(map(int, parts))


def _key_value(text: str) -> tuple[str, object]:
    """``key=value``, the value a Python literal; anything else is text."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise click.BadParameter(f"{text!r} is not of the form key=value")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return key, value


def _output(text: str, suffixes: tuple[str, ...] = OUTPUT_SUFFIXES) -> Path:
    if Path(text).suffix not in suffixes:
        raise click.BadParameter(f"{text}: the suffix decides the format, one of {', '.join(suffixes)}")
    return Path(text)


def _report(text: str) -> Path:
    return _output(text, REPORT_SUFFIXES)


def _check_usage(job: Job, context: click.Context) -> None:
    """Raise a usage error where options do not fit together, or need a library that is not installed."""
    source_of = context.get_parameter_source
    stated = {name for name in context.params if source_of(name) is ParameterSource.COMMANDLINE}
    missing = {name for name in ("matplotlib", "jinja2", "PIL") if importlib.util.find_spec(name) is None}
    verify, bench, graphs = job.verify_only, job.bench, job.onnx_outputs
    compiled = graphs and job.onnx_form in ("auto", "fourier")
    html = any(report.suffix == ".html" for report in job.reports)
    images = job.inputs is not None and job.inputs.is_dir()
    one_file = job.converted is None
    rounds, only_graphs = job.precision != "exact", (graphs or bench) and not job.module_outputs
    extra = "pip install 'ceconv-convert[report]'"
    mistakes = {
        "--verify-only takes two files, MODEL and CONVERTED": verify and one_file,
        "--verify-only writes reports only, no outputs": verify and (job.outputs or job.dry_run),
        "--verify-only runs what a .pt2 file says: pass --unsafe if you trust it": (
            verify and job.converted and job.converted.suffix == PROGRAM_SUFFIX and not job.unsafe
        ),
        "a second file is judged with --verify-only; outputs follow -o": not verify and not one_file,
        "--form auto needs .onnx outputs only": job.form == "auto" and (job.module_outputs or not graphs),
        "--opset needs an .onnx output": "opset" in stated and not (graphs or bench),
        "--target needs an .onnx output in auto or fourier": "target" in stated and not (compiled or bench),
        "--processor needs an .onnx output in auto or fourier": job.processor and not (compiled or bench),
        f"--precision {job.precision} needs .onnx outputs only": rounds and not only_graphs,
        "--precision int8 needs --inputs, images to calibrate on and to judge on": (
            job.precision == "int8" and graphs and job.inputs is None
        ),
        "--max-drop needs --precision float16 or int8": "max_drop" in stated and not (rounds or verify),
        "--static needs .onnx outputs only": job.static and (job.module_outputs or not graphs),
        "--batch needs --bench": "batch" in stated and not bench,
        "--threads needs --bench": "threads" in stated and not bench,
        "--provider needs --bench": "provider" in stated and not bench,
        "--bench excludes --verify-only and --dry-run": bench and (verify or job.dry_run),
        "--bench with --quiet prints no times: add a --report": bench and job.quiet and not job.reports,
        f"an HTML report needs matplotlib and jinja2: {extra}": html and missing - {"PIL"},
        f"a folder of images needs pillow: {extra}": images and "PIL" in missing,
    }
    for message, made in mistakes.items():
        if made:
            raise click.UsageError(message, context)


_option = partial(click.option, show_default=True)
_repeated = partial(click.option, multiple=True)
_flag = partial(click.option, is_flag=True)
_path = click.Path(path_type=Path)


class _Grouped(click.Command):
    """A command whose help has its options in groups."""

    def groups(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Of each group its options, with what they do; the docs have them too."""
        options = (option for option in self.get_params(ctx) if isinstance(option, click.Option))
        records = {option.name: option.get_help_record(ctx) for option in options}
        names = {**_GROUPS, "Other options": tuple(name for name in records if name not in _NAMED)}
        return {
            title: [record for name in group if (record := records.get(name)) is not None]
            for title, group in names.items()
        }

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, records in self.groups(ctx).items():
            with formatter.section(title):
                formatter.write_dl(records)


@click.command(cls=_Grouped, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=_path)
@click.argument("converted", type=_path, required=False)
@_repeated("-o", "--output", "outputs", metavar="FILE", type=_output, help="Write this file, by its suffix.")
@_option("--form", type=click.Choice(FORM_CHOICES), help="Form of the converted layers.")
@_option("--input-shape", metavar="C,H,W", type=_shape, help="Shape of one input, as in 3,224,224.")
@_option("--opset", type=int, default=18, metavar="N", help="Opset of the .onnx file.")
@_option(
    "--precision", type=click.Choice(["exact", "float16", "int8"]), default="exact", help="Of the .onnx file."
)
@_option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    default=1.0,
    metavar="POINTS",
    help="Most that rounding may lose.",
)
@_option(
    "--target",
    type=click.Choice(["onnxruntime", "openvino"]),
    default="onnxruntime",
    help="Runtime to optimize .onnx files for.",
)
@_option(
    "--processor",
    type=click.Choice(["avx2", "avx512", "avx512_vnni"]),
    help="Processor to optimize .onnx files for.",
)
@_repeated("--allow", metavar="package.module.Class", help="Import this class, and let MODEL name it.")
@_option("--model", "factory", metavar="package.module:factory", help="Import what builds the network.")
@_repeated("--model-arg", "arguments", metavar="KEY=VALUE", type=_key_value, help="Argument of the network.")
@_flag("--verify-only", help="Check the file CONVERTED against MODEL; convert nothing.")
@_option("--inputs", metavar="FILE|FOLDER", type=_path, help="Check on these inputs as well.")
@_repeated("--report", "reports", metavar="FILE", type=_report, help="Write a report.")
@_flag("--bench", help="Time the original and all its forms, in ONNX Runtime and in PyTorch.")
@_option("--batch", type=click.IntRange(1), default=1, help="Batch size for --bench.")
@_option("--threads", type=click.IntRange(1), help="Threads for --bench.  [default: all cores]")
@_option("--provider", metavar="NAME", default="cpu", help="Execution provider of ONNX Runtime for --bench.")
@_option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, metavar="N", help="Seed of random inputs.")
@_flag("--static", help="Fix the input shape of .onnx files, batch included.")
@_flag("--unsafe", help="Let the pickle in MODEL, or a .pt2 file, run code: only if you trust its author.")
@_flag("--dry-run", help="Print the table of layers and stop.")
@_flag("--force", help="Overwrite existing outputs.")
@_flag("--quiet", help="Print the verdict only.")
@click.version_option(__version__, prog_name="ceconv-convert")
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> Job:
    """Convert the color-equivariant network in MODEL, verify the result, and write it.

    MODEL is a whole module written by torch.save, or the weights of a published network: a state dict, a
    Lightning or ImageNet checkpoint, safetensors. Nothing in it is executed, unless --unsafe. --model builds
    a network that is not a published one from its state dict.

    The suffix of an output decides what is written: .pt, .pth, .ckpt and .tar the module, or the checkpoint
    with converted weights; .safetensors the weights; .onnx the network for ONNX Runtime; .pt2 the network for
    torch without this package. Without -o it is MODEL.FORM.pt; with --bench nothing is written.

    Forms: conv3d (circular Conv3d; the default), conv2d (expanded Conv2d), fourier (Fourier transform over
    the rotations), and auto (the cheapest for each layer; the default for .onnx outputs, and for no others).

    Without --input-shape, the first usual shape on which the network runs is taken. --inputs takes a folder
    of images (its subfolders are classes), .npy, .npz or .safetensors. Reports are .json or .html. The
    options -o, --report, --allow and --model-arg may be repeated.

    Exit codes: 0 the verdict passed; 1 it failed, and nothing was written; 2 wrong usage or unreadable input;
    3 nothing to convert, or a layer was refused.
    """
    job = Job(**options)
    if not (job.outputs or job.verify_only or job.bench):
        graph = job.form == "auto" or job.precision != "exact" or job.static
        what = job.form or ("auto" if graph else "conv3d")
        what += f".{job.precision}" if job.precision != "exact" else ""
        name = f"{job.model.stem}.{what}{ONNX_SUFFIX if graph else '.pt'}"
        job = replace(job, outputs=(job.model.parent / name,))
    _check_usage(job, context)
    return job
