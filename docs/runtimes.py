"""Write docs/runtimes.md: which runtimes run our files, dynamic and static, with which error, and how fast.

    python docs/runtimes.py [--render] [RUNTIME …]

Each runtime is installed into an environment of its own, under .runtimes, and runs every file in a process of
its own: some crash. What was measured is kept there, so that one runtime can be measured again. ONNX Runtime
Web needs node and npm.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from benchmarks import NETWORKS, network
from torch import Tensor, nn

from ceconv_convert import convert, load
from ceconv_convert.forms.table import AUTO
from ceconv_convert.onnx.deliver import exportable
from ceconv_convert.onnx.export import write_onnx

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".runtimes"
PACKAGES = {  # by the name of the function in runtime_runners.py: how it is called, and what pip installs
    "onnxruntime": ("ONNX Runtime", ("onnxruntime",)),
    "web": ("ONNX Runtime Web (Node, wasm)", ()),
    "openvino": ("OpenVINO", ("openvino",)),
    "opencv": ("OpenCV dnn", ("opencv-python-headless",)),
    "iree": ("IREE (llvm-cpu)", ("iree-base-compiler[onnx]", "iree-base-runtime")),
    "tvm": ("TVM (relax, untuned)", ("apache-tvm", "onnx")),
    "tract": ("tract", ("tract",)),
    "mnn": ("MNN", ("MNN",)),
    "litert": ("LiteRT (onnx2tf)", ("onnx2tf",)),
    "reference": ("onnx's reference evaluator", ("onnx",)),
    "torch_export": ("torch.export", ("torch",)),
    "torch_compile": ("torch.compile", ("torch",)),
    "executorch": ("ExecuTorch (XNNPACK)", ("executorch", "torch")),
}
PROGRAMS = ("torch_export", "torch_compile", "executorch")
"""Those that start at an exported program of torch, not at an ONNX file."""
WEB = "1.30.0"
FORMS = ("original", AUTO, "fourier", "conv2d", "conv3d")
HEAD = """\
# Runtimes

What reads our `.onnx` and `.pt2` files, as measured by `make runtimes` (`docs/runtimes.py`), each runtime in
an environment of its own, on one machine ({cores} cores, {vectors}): times are the shortest of up to 30 runs,
some of them beside other work. One input: 1×3×16×16 for `color_digits`, the trained example network, and
1×3×224×224 for ResNet18 with N = 3 and random weights.

A cell has the worst error, relative to the largest output, beside a float64 run of the original in PyTorch;
and the time of a run: in milliseconds of the network exported as it is, and of the others in that time (of
the static file where that runs) in the same runtime. Up to 1e-4 counts as agreement, more is **wrong**; a
dash was not measured. *Static* files are those of `--static`; *dynamic* ones have a dynamic batch, height and
width, and the reader fixes them where it asks for that (tract, TVM, onnx2tf). The last three runtimes start
at exported programs (`.pt2`), which have no form `auto`.
"""
LIMIT = 240
"""Seconds that a file may take in a runtime, compilation included."""
AGREES = 1e-4
"""Largest error relative to the largest output; a float32 network has about 1e-6."""


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """A small trained network and a real one, each with the shape of its input, batch first."""
    digits, (_, shape) = load(ROOT / "fixtures" / "color_digits.pt"), NETWORKS["resnet18"]
    return {"color_digits": (digits, (1, 3, 16, 16)), "ResNet18": (network("resnet18"), shape)}


def write_files() -> None:
    """Every form of both networks, dynamic and static, with an input and the output of the original."""
    for name, (model, shape) in networks().items():
        folder = FOLDER / "files" / name
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        x = torch.randn(shape)
        with torch.no_grad():
            np.save(folder / "expected.npy", model.eval().double()(x.double()).numpy())
        np.save(folder / "input.npy", x.numpy())
        model.float()
        for form in FORMS:
            _write_programs(model, x, form, folder)
            converted = model if form == "original" else exportable(model, form)
            two = torch.cat([x, x])
            write_onnx(converted, folder / f"{form}.dynamic.onnx", two, form=form)
            fixed = {"size": "", "batch": ""}
            write_onnx(converted, folder / f"{form}.static.onnx", x, form=form, fixed=fixed, static_batch=1)


def _write_programs(model: nn.Module, x: Tensor, form: str, folder: Path) -> None:
    """Exported programs of one form, dynamic and static; none of ``auto``, which is a form of ONNX files."""
    if form == AUTO:
        return
    converted = (model if form == "original" else convert(model, form)).requires_grad_(False).eval()
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    for kind, example, dynamic in (("static", x, {}), ("dynamic", torch.cat([x, x]), axes)):
        program = torch.export.export(converted, (example,), dynamic_shapes=(dynamic,))
        torch.export.save(program, folder / f"{form}.{kind}.pt2")


def python_of(name: str) -> Path | None:
    """The interpreter with that runtime; installed if it is not there, and None where pip cannot."""
    packages = PACKAGES[name][1]
    venv = FOLDER / re.sub(r"\[.*", "", packages[0] if packages else name)
    python, pip = venv / "bin" / "python", ["-m", "pip", "install", "--quiet", "numpy", *packages]
    if name in PROGRAMS:
        pip += ["--constraint", str(ROOT / "constraints.txt")]
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)  # noqa: S603
    done = subprocess.run([python, *pip], capture_output=True).returncode == 0  # noqa: S603
    if name == "web":
        npm = ["npm", "install", "--silent", "--ignore-scripts", "--prefix", venv, f"onnxruntime-web@{WEB}"]
        done &= subprocess.run(npm, capture_output=True).returncode == 0  # noqa: S603
    return python if done else None


def version_of(python: Path, name: str) -> str:
    """Of what was installed."""
    if name == "web":
        return WEB
    package = re.sub(r"\[.*", "", PACKAGES[name][1][0])
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.check_output([python, "-c", code], text=True).strip()  # noqa: S603


def measure(name: str) -> None:
    """Run every file in one runtime, and keep what was found."""
    python = python_of(name)
    if python is None:
        return
    kept = FOLDER / f"{name}.json"
    found: dict[str, object] = json.loads(kept.read_text()) if kept.exists() else {}
    found["version"] = version_of(python, name)
    tools = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}  # such as onnxsim
    for folder in sorted((FOLDER / "files").iterdir(), key=lambda found: found.name.lower()):
        expected = np.load(folder / "expected.npy")
        for path in sorted(folder.glob("*.pt2" if name in PROGRAMS else "*.onnx")):
            output = FOLDER / f"{name}.npy"
            output.unlink(missing_ok=True)
            words = [python, Path(__file__).with_name("runtime_runners.py"), name, path]
            words += [folder / "input.npy", output]
            entry: dict[str, object]
            try:
                run = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, env=tools)  # noqa: S603
                last = run.stdout.strip().splitlines()[-1:] if run.returncode == 0 else []
                entry = json.loads(last[0]) if last else {"error": _crash(run)}
            except subprocess.TimeoutExpired:
                entry = {"error": f"not done after {LIMIT} s"}
            if "seconds" in entry:
                got = np.load(output).astype(np.float64)
                same = got.shape == expected.shape
                entry["error_size"] = float(abs(got - expected).max() / abs(expected).max()) if same else None
            found[f"{folder.name}/{path.stem}"] = entry
            print(name, folder.name, path.stem, str(entry)[:200], flush=True)  # noqa: T201
            kept.write_text(json.dumps(found, indent=1))


def _crash(run: "subprocess.CompletedProcess[str]") -> str:
    return f"crashes (exit code {run.returncode}): {' '.join(run.stderr.split())[-160:]}"


def _words(error: str) -> str:
    """The line of an error that says something."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    said = [line for line in lines if re.search("error|fail|not |cannot|Caused|expect", line, re.IGNORECASE)]
    text = re.sub(r"/\S*/", "", (said or lines or [""])[0]).replace("|", "/").replace("`", "'")
    return text[:160] + ("…" if len(text) > 160 else "")


def cell(found: dict[str, dict[str, object]], title: str, form: str, kind: str, notes: list[str]) -> str:
    """Agrees, and the time beside that of the network as it is; or a note with the refusal."""
    entry = found.get(f"{title}/{form}.{kind}")
    if entry is None:
        return "–"
    if "seconds" not in entry:
        text = _words(str(entry["error"]))
        notes += [text] if text not in notes else []
        return f"no [{notes.index(text) + 1}]"
    size = entry["error_size"]
    if not isinstance(size, float) or not size < AGREES:
        return f"**wrong** ({'another shape' if size is None else f'{size:.0e}'})"
    usual = [found.get(f"{title}/original.{each}", {}) for each in ("static", "dynamic")]
    times = [other["seconds"] for other in usual if "seconds" in other]
    took = float(str(entry["seconds"]))
    speed = f"{took * 1e3:.3g} ms" if form == "original" or not times else f"{took / times[0]:.2f}×"
    return f"{size:.0e}, {speed}"


def render() -> None:
    """Write the page from what was measured."""
    vectors = torch.backends.cpu.get_cpu_capability().replace("AVX512", "AVX-512")
    lines, notes = [HEAD.format(cores=os.cpu_count(), vectors=vectors).rstrip()], []
    measured = {
        name: json.loads(p.read_text()) for name in PACKAGES if (p := FOLDER / f"{name}.json").exists()
    }
    for title in ("color_digits", "ResNet18"):
        lines.append(f"\n## {title}\n")
        lines.append("| runtime | file | as it is | `auto` | `fourier` | `conv2d` | `conv3d` |")
        lines.append(f"|{'---|' * 7}")
        for name, found in measured.items():
            for kind in ("dynamic", "static"):
                runtime = f"{PACKAGES[name][0]} {found['version']}" if kind == "dynamic" else ""
                cells = [
                    "" if form == AUTO and name in PROGRAMS else cell(found, title, form, kind, notes)
                    for form in FORMS
                ]
                lines.append(f"| {' | '.join((runtime, kind, *cells))} |")
    lines.append("\nIn the runtimes' own words:\n")
    lines += [f"{number}. `{text}`" for number, text in enumerate(notes, 1)]
    if missing := [title for name, (title, _) in PACKAGES.items() if name not in measured]:
        lines.append(f"\nNot measured: {', '.join(missing)}.")
    (ROOT / "docs" / "runtimes.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure the runtimes that are named, or all; then write the page."""
    names = [name for name in sys.argv[1:] if name != "--render"]
    if "--render" not in sys.argv:
        if not (FOLDER / "files" / "ResNet18").exists():
            write_files()
        for name in names or PACKAGES:
            measure(name)
    render()


if __name__ == "__main__":
    main()
