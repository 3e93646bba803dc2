"""The command and its options. ``--help`` imports neither torch nor onnx."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click

from ceconv_convert import __version__

_MOST_DIGITS = 9
_LARGEST_SEED = 2**63 - 1
_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".safetensors", ".onnx")


def _parse_shape(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """``3,224,224`` or ``3x224x224``: channels, height, width; features have rotations before the height.

    What a batch of 1 before them means is settled once the network is known.
    """
    if value is None:
        return None
    parts = re.split(r"[,x×]", value)
    digits = [part.strip() for part in parts]
    if len(parts) not in (3, 4, 5) or not all(
        part.isdecimal() and len(part) <= _MOST_DIGITS and int(part) > 0 for part in digits
    ):
        raise click.BadParameter(
            f"{value!r} is not an input shape: give channels, height and width, as in 3,224,224"
        )
    return tuple(map(int, digits))


def _check_seed(context: click.Context, parameter: click.Parameter, value: int) -> int:
    """What torch takes; as click's own range it would fill a line of the help."""
    if not 0 <= value <= _LARGEST_SEED:
        raise click.BadParameter(f"{value} is not in the range from 0 to {_LARGEST_SEED}")
    return value


def _parse_arguments(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, object]:
    """``key=value`` with Python literals as values; anything else is text."""
    arguments: dict[str, object] = {}
    for pair in values:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"{pair!r} is not of the form key=value")
        try:
            arguments[key] = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            arguments[key] = text
    return arguments


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("converted", type=click.Path(path_type=Path), required=False)
@click.option(
    "-o",
    "--output",
    "outputs",
    metavar="OUT",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Where to write; may be given several times. The suffix decides: .pt, .pth, .ckpt and .tar (the "
    "module, or the checkpoint with migrated weights), .safetensors (the weights), .onnx.  "
    "[default: MODEL.FORM.pt; nothing with --bench]",
)
@click.option(
    "--form",
    type=click.Choice(["auto", "conv3d", "conv2d", "fourier"]),
    help="How layers are written: circular Conv3d, expanded Conv2d, Fourier over the rotations; auto chooses "
    "for each layer of an .onnx file what costs least.  [default: auto for .onnx, conv3d for all others]",
)
@click.option(
    "--input-shape",
    metavar="C,H,W",
    callback=_parse_shape,
    help="Shape of one input without the batch, as in 3,224,224.  [default: the first usual one that runs]",
)
@click.option("--opset", type=int, help="Opset of the .onnx file.  [default: 18]")
@click.option(
    "--processor",
    type=click.Choice(["avx2", "avx512"]),
    help="What auto and fourier .onnx files are fitted to; they run on all.  [default: this machine's]",
)
@click.option(
    "--allow",
    metavar="package.module.Class",
    multiple=True,
    help="A further class that MODEL may name; it is imported. May be given several times.",
)
@click.option(
    "--model",
    "factory",
    metavar="package.module:factory",
    help="What builds the network of a state dict that is none of the published ones; it is imported.",
)
@click.option(
    "--model-arg",
    "arguments",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_parse_arguments,
    help="An argument of the network, where the file does not tell. May be given several times.",
)
@click.option(
    "--verify-only",
    is_flag=True,
    help="Judge the file CONVERTED (.onnx, .pt, .safetensors, …) against MODEL; convert nothing.",
)
@click.option(
    "--inputs",
    metavar="FOLDER|FILE",
    type=click.Path(path_type=Path),
    help="Judge on these inputs too: a folder of images (folders in it are classes), .npy, .npz or "
    ".safetensors.",
)
@click.option(
    "--report",
    "reports",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Write a report, .json or .html; may be given several times.",
)
@click.option(
    "--bench", is_flag=True, help="Time the original and every form of it, in ONNX Runtime and in PyTorch."
)
@click.option("--batch", type=click.IntRange(1), help="Images at once, for --bench.  [default: 1]")
@click.option(
    "--threads", type=click.IntRange(1), help="Of each candidate, for --bench.  [default: all cores]"
)
@click.option("--provider", metavar="NAME", help="ONNX Runtime's, for --bench: cpu, cuda, …  [default: cpu]")
@click.option(
    "--seed",
    type=int,
    callback=_check_seed,
    default=0,
    metavar="N",
    show_default=True,
    help="Of the random inputs.",
)
@click.option("--unsafe", is_flag=True, help="Run what MODEL's pickle says: only if you trust its author.")
@click.option("--dry-run", is_flag=True, help="Print the table of layers and stop.")
@click.option("--force", is_flag=True, help="Overwrite existing outputs.")
@click.option("--quiet", is_flag=True, help="Print the verdict alone.")
@click.version_option(__version__, prog_name="ceconv-convert")
@click.pass_obj
def cli(
    written: list[Path] | None,
    model: Path,
    converted: Path | None,
    outputs: tuple[Path, ...],
    form: str | None,
    input_shape: tuple[int, ...] | None,
    opset: int | None,
    processor: str | None,
    allow: tuple[str, ...],
    factory: str | None,
    arguments: dict[str, object],
    verify_only: bool,
    inputs: Path | None,
    reports: tuple[Path, ...],
    bench: bool,
    batch: int | None,
    threads: int | None,
    provider: str | None,
    seed: int,
    unsafe: bool,
    dry_run: bool,
    force: bool,
    quiet: bool,
) -> bool:
    """Convert the color-equivariant network in MODEL, verify the result, and write it.

    MODEL is a whole module that torch.save wrote, or the weights of a published network: a state dict,
    a Lightning or ImageNet checkpoint, safetensors. Nothing in it is executed, unless --unsafe.

    Exit codes: 0 the verdict passed; 1 it failed, and nothing was written; 2 wrong usage or unreadable input;
    3 nothing to convert, or a layer was refused.
    """
    from ceconv_convert.report.terminal import Terminal

    default = model.parent / f"{model.stem}.{form or 'conv3d'}{'.onnx' if form == 'auto' else '.pt'}"
    targets = outputs or (() if verify_only or bench else (default,))
    for suffixes, option, paths in (
        (_SUFFIXES, "-o", targets),
        ((".json", ".html"), "--report", reports),
    ):
        for path in paths:
            if path.suffix not in suffixes:
                raise click.UsageError(
                    f"{option} {path}: the suffix decides the format, one of {', '.join(suffixes)}"
                )
    modules = [target for target in targets if target.suffix != ".onnx"]
    graphs = len(targets) > len(modules)
    if form == "auto" and modules:
        raise click.UsageError(f"--form auto is of .onnx outputs, and {modules[0]} is none")
    if form == "auto" and not graphs:
        raise click.UsageError("--form auto is of .onnx outputs, and there is none")
    if opset is not None and not graphs and not bench:
        raise click.UsageError("--opset is of an .onnx output, and there is none")
    if processor is not None and not bench and (not graphs or form in ("conv3d", "conv2d")):
        raise click.UsageError("--processor is of an .onnx output of the form auto or fourier")
    if verify_only and (outputs or dry_run or converted is None):
        raise click.UsageError("--verify-only takes two files, MODEL and CONVERTED, and writes reports alone")
    if converted is not None and not verify_only:
        raise click.UsageError(f"{converted}: a second file is judged with --verify-only, outputs follow -o")
    if not bench and (batch, threads, provider) != (None, None, None):
        raise click.UsageError("--batch, --threads and --provider are of --bench")
    if bench and (verify_only or dry_run):
        raise click.UsageError("--bench converts first: it goes with neither --verify-only nor --dry-run")
    if bench and quiet and not reports:
        raise click.UsageError("--quiet prints the verdict alone: give --bench a --report")
    terminal = Terminal(quiet=quiet)
    with terminal.progress("loading torch"):
        from ceconv_convert.cli.job import BenchJob, Job
        from ceconv_convert.cli.run import run
    job = Job(
        model=model,
        outputs=targets,
        form=form,
        input_shape=input_shape,
        opset=opset,
        processor=processor,
        allow=allow,
        factory=factory,
        arguments=arguments,
        unsafe=unsafe,
        dry_run=dry_run,
        force=force,
        converted=converted,
        reports=reports,
        inputs=inputs,
        seed=seed,
        bench=BenchJob(batch or 1, threads, provider or "cpu") if bench else None,
    )
    return run(job, terminal, [] if written is None else written)
