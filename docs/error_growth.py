"""Draw docs/error_growth.svg: how far float32 is from float64, layer by layer of N rotations.

    python docs/error_growth.py

64 → 64 channels, 3×3, weights as a fresh layer has them, standard normal input; medians over five seeds.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from ceconv_convert import CEConv2d, convert

ROTATIONS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 36)
FORMS = {"published layer": None, "conv3d": "conv3d", "conv2d": "conv2d", "fourier": "fourier"}
STYLES = {
    "published layer": ("#8a8f98", 6, 0.5),
    "conv3d": ("#1971c2", 1.6, 1),
    "conv2d": ("#2b8a3e", 1.6, 1),
}
CHANNELS, SIZE, SEEDS = 64, 12, 5
EPS = torch.finfo(torch.float32).eps


def error(rotations: int, form: str | None, seed: int) -> float:
    """Worst distance from float64 over the largest output."""
    torch.manual_seed(seed)
    model = nn.Sequential(CEConv2d(rotations, rotations, CHANNELS, CHANNELS, 3, padding=1, separable=False))
    x = torch.randn(1, CHANNELS, rotations, SIZE, SIZE)
    with torch.no_grad():
        found = (model if form is None else convert(model, form))(x)
        exact = model.double()(x.double())
    return float((found - exact).abs().max() / exact.abs().max())


def main() -> None:
    """Measure, print, draw."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for name, form in FORMS.items():
        values = [statistics.median(error(n, form, seed) for seed in range(SEEDS)) for n in ROTATIONS]
        print(name, " ".join(f"{n}:{value:.1e}" for n, value in zip(ROTATIONS, values, strict=True)))  # noqa: T201
        color, width, alpha = STYLES.get(name, ("#d9480f", 2.2, 1))
        axes.plot(ROTATIONS, values, "o-", color=color, lw=width, alpha=alpha, ms=3.5, label=name)
    axes.set(xscale="log", yscale="log", xlabel="rotations N", ylabel="error / largest output")
    axes.set_xticks(ROTATIONS, [str(n) for n in ROTATIONS])
    axes.minorticks_off()
    axes.axhline(EPS, color="#8a8f98", lw=1, ls="--")
    axes.annotate(" one rounding of float32", (ROTATIONS[0], 1.05 * EPS), fontsize=8)
    axes.grid(visible=True, alpha=0.2)
    axes.legend(frameon=False)
    path = Path(__file__).with_suffix(".svg")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
