"""Time training steps of the networks of docs/training.md, and print its table.

    python docs/training_benchmark.py [NETWORK …] [--published PATH] [--compile] [--eval] [--rounds N]

A step is forward pass, cross-entropy, backward pass and SGD with momentum, in float32. A network as published
and accelerated are timed by turns in one process; numbers are medians. ``--published`` takes the folder of a
checkout of github.com/Attila94/CEConv, whose networks are then timed; without it, those of this package,
which do the same arithmetic. ``--compile`` adds both compiled by torch.compile, ``--eval`` the eval mode.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks import channels
from torch import Tensor, nn

from ceconv_convert import accelerate
from ceconv_convert.architectures.cecnn import CECNN
from ceconv_convert.architectures.resnet import BasicBlock, ResNet

THREADS = 2


def resnet(name: str, rotations: int, separable: bool, published: bool) -> nn.Module:
    """A ResNet of our classes, or of the published ones."""
    if published:
        from models import resnet as published_resnet

        build = getattr(published_resnet, name)
        return build(rotations=rotations, groupcosetmaxpool=True, separable=separable, num_classes=10)
    stages, width = ([7, 7, 7], 32) if name == "ResNet44" else ([2, 2, 2, 2], 64)
    widths = channels(width, rotations, separable=separable, stages=len(stages))
    return ResNet(BasicBlock, stages, widths, 10, rotations, True, False, separable)


def cecnn(published: bool) -> nn.Module:
    """A CECNN of our classes, or of the published ones."""
    if published:
        from models.cnn import CECNN as PUBLISHED

        return PUBLISHED(17, 3, 7, True)
    return CECNN(17, 3, 7, True)


NETWORKS: dict[str, tuple[Callable[[bool], nn.Module], tuple[int, ...]]] = {
    "resnet44-n3": (lambda p: resnet("ResNet44", 3, True, p), (32, 3, 32, 32)),
    "resnet18-n3-64": (lambda p: resnet("ResNet18", 3, True, p), (8, 3, 64, 64)),
    "resnet18-n3-224": (lambda p: resnet("ResNet18", 3, True, p), (8, 3, 224, 224)),
    "resnet18-n6-64": (lambda p: resnet("ResNet18", 6, False, p), (8, 3, 64, 64)),
    "resnet18-n6-separable-64": (lambda p: resnet("ResNet18", 6, True, p), (8, 3, 64, 64)),
    "resnet18-n10-64": (lambda p: resnet("ResNet18", 10, False, p), (8, 3, 64, 64)),
    "cecnn": (cecnn, (64, 3, 28, 28)),
}


def training_step(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """One step of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def inference(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """A forward pass in eval mode."""
    model.eval()

    def run() -> None:
        with torch.inference_mode():
            model(x)

    return run


def medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, by turns; the first two turns do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(found[2:]) for name, found in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], default=[])
    parser.add_argument("--published", metavar="PATH")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--eval", action="store_true")
    parser.add_argument("--tune", action="store_true", help="choose forms by measuring")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    if asked.published:
        sys.path.insert(0, asked.published)
    for name in asked.networks or NETWORKS:
        build, shape = NETWORKS[name]
        torch.manual_seed(0)
        models = {"published": build(bool(asked.published))}
        models["accelerated"] = copy.deepcopy(models["published"])
        x, y = torch.randn(shape), torch.randint(10, shape[:1])
        accelerate(models["accelerated"], tune=x if asked.tune else None)
        if asked.compile:
            models |= {f"{key}, compiled": torch.compile(copy.deepcopy(m)) for key, m in models.items()}
        runs = {key: training_step(model, x, y) for key, model in models.items()}
        for key, run in runs.items():
            if "compiled" in key:
                start = time.perf_counter()
                run()
                print(f"{name}: {key} in {time.perf_counter() - start:.0f} s", flush=True)  # noqa: T201
        _print(name, medians(runs, asked.rounds))
        if asked.eval:
            _print(f"{name}, eval", medians({k: inference(m, x) for k, m in models.items()}, asked.rounds))


def _print(name: str, found: dict[str, float]) -> None:
    first = found["published"]
    cells = [f"{key} {ms:.1f} ms, {first / ms:.2f}×" for key, ms in found.items()]
    print(f"{name}: {' | '.join(cells)}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
