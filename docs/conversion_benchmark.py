"""Measure how long a conversion takes, beside ``torch.onnx.export`` of the original as it is.

    python docs/conversion_benchmark.py [cecnn …]

Both in processes of their own, imports included, in turn; medians of three, and the largest peak memory.
"""

import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from benchmarks import FURTHER, NETWORKS, network

NAMES = ("cecnn", "resnet44", "resnet18", "resnet50", "resnet152")
RUNS = 3
EXPORT = """
import sys, torch
size = int(sys.argv[2])
model = torch.load(sys.argv[1], weights_only=False).eval()
torch.onnx.export(model, (torch.randn(1, 3, size, size),), sys.argv[3], dynamo=True)
"""
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, capture_output=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measure(*command: str) -> tuple[float, float]:
    """Seconds, and the peak memory in MB, of a process."""
    start = perf_counter()
    command = (sys.executable, "-c", MEASURED, *command)
    found = subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    return perf_counter() - start, int(found.stdout) * 1024 / 1e6


def main(names: tuple[str, ...]) -> None:
    """Print a row for each network."""
    print("| network | parameters | layers | export | to `.onnx` | ratio | to `.safetensors` | memory |")  # noqa: T201
    print(f"|{'---|' * 8}")  # noqa: T201
    for name in names:
        model, shape = network(name), (NETWORKS | FURTHER)[name][1]
        size = str(shape[-1])
        with TemporaryDirectory() as folder:
            whole, weights = Path(folder) / "model.pt", Path(folder) / "model.pth"
            torch.save(model, whole)
            torch.save(model.state_dict(), weights)
            convert = (
                "-m",
                "ceconv_convert",
                str(weights),
                "--input-shape",
                f"3,{size},{size}",
                "--force",
                "-o",
            )
            commands = {
                "export": ("-c", EXPORT, str(whole), size, f"{folder}/plain.onnx"),
                "onnx": (*convert, f"{folder}/a.onnx"),
                "safetensors": (*convert, f"{folder}/a.safetensors"),
            }
            found = {kind: [] for kind in commands}
            for _ in range(RUNS):
                for kind, command in commands.items():
                    found[kind].append(measure(sys.executable, *command))
        seconds = {kind: median(time for time, _ in each) for kind, each in found.items()}
        memory = {kind: max(peak for _, peak in each) for kind, each in found.items()}
        parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        layers = sum(type(module).__name__ == "CEConv2d" for module in model.modules())
        ratio = seconds["onnx"] / seconds["export"]
        times = [f"{seconds[kind]:.1f} s" for kind in ("export", "onnx")]
        memories = ", ".join(f"{memory[kind] / 1000:.2f}" for kind in commands)
        row = [name, f"{parameters:.2f} M", str(layers), *times, f"{ratio:.2f}"]
        row += [f"{seconds['safetensors']:.1f} s", f"{memories} GB"]
        print(f"| {' | '.join(row)} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or NAMES)
