"""Does it matter which form a network is trained in? Train two networks 5 times in each of three forms.

    python docs/training_agreement.py [--quick]

The fixture network and a small ResNet, on the colored digits of fixtures/train_color_digits.py (16×16 and
32×32 pixels): as published, accelerated, and as circular Conv3d, with the same initial weights and batches
for each seed. Prints test accuracies, and draws the losses into docs/training_losses.svg. Needs scikit-learn
and matplotlib.
"""

from __future__ import annotations

import copy
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert import CEConv2d, convert
from ceconv_convert.architectures.resnet import BasicBlock, ResNet
from ceconv_convert.training.fast_layer import set_form

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "fixtures"))
from train_color_digits import TEST_IMAGES, colored_digits, network, to_input, train  # noqa: E402

SEEDS = range(5)
COLORS = {"published": "#111111", "accelerated": "#d95f02", "Conv3d": "#1f78b4"}


def small_resnet() -> nn.Module:
    """Three blocks and a lifting layer, separable."""
    return ResNet(BasicBlock, [1, 1, 1], [12, 24, 32], 10, 3, True, False, True)


def forms(model: nn.Module) -> dict[str, nn.Module]:
    """The same initial network in all three forms."""
    accelerated = copy.deepcopy(model)
    for layer in accelerated.modules():
        if isinstance(layer, CEConv2d):  # not by size, as accelerate does: the Fourier form is to be compared
            set_form(layer, "fourier" if layer.in_rotations > 1 else "direct")
    return {"published": model, "accelerated": accelerated, "Conv3d": convert(model)}


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """In percent of the test images."""
    with torch.no_grad():
        return 100 * (model.eval()(x).argmax(1) == y).float().mean().item()


def main(*, quick: bool) -> None:
    """Train, print, draw."""
    images, labels = colored_digits(0)
    small, y = to_input(images), torch.from_numpy(labels)
    large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    experiments: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
        "fixture network, 16×16": (network, small, 1 if quick else 4),
        "ResNet of 3 blocks, 32×32": (small_resnet, large, 1 if quick else 4),
    }
    mpl.rcParams.update({"svg.hashsalt": "0", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(1, len(experiments), figsize=(9, 3.2), layout="constrained")
    for axis, (title, (build, x, epochs)) in zip(axes, experiments.items(), strict=True):
        found: dict[str, list[float]] = {name: [] for name in COLORS}
        for seed in SEEDS if not quick else range(1):
            torch.manual_seed(seed)
            for name, model in forms(build()).items():
                torch.manual_seed(seed)
                losses = train(model, x[TEST_IMAGES:], y[TEST_IMAGES:], epochs)
                found[name].append(accuracy(model, x[:TEST_IMAGES], y[:TEST_IMAGES]))
                smooth = torch.tensor(losses).unfold(0, 8, 4).mean(1)
                axis.plot(range(0, 4 * len(smooth), 4), smooth, color=COLORS[name], linewidth=0.7, alpha=0.7)
        for name, values in found.items():
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            each = ", ".join(f"{value:.1f}" for value in values)
            line = f"{title}, {name}: {statistics.mean(values):.2f} ± {spread:.2f} % ({each})"
            print(line, flush=True)  # noqa: T201
        axis.set(title=title, xlabel="step", ylabel="loss (mean of 8 steps)", yscale="log")
    axes[-1].legend(handles=[plt.Line2D([], [], color=c, label=name) for name, c in COLORS.items()])
    if not quick:
        figure.savefig(HERE / "training_losses.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
