"""The report's figures, as SVG that takes the page's text color: readable on light and on dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_INK = "#123456"
"""Stands for the page's text color."""
_ORIGINAL = "#8a8f98"
_CANDIDATES = ("#d9480f", "#1971c2", "#2b8a3e", "#9c36b5")
_CURVES = ("#d9480f", "#1971c2", "#2b8a3e", "#9c36b5", "#e67700", "#0b7285")
_TIMES = {"onnx": "#d9480f", "torch": "#1971c2"}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.2,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def error_per_layer(verdicts: Sequence[Mapping[str, Any]]) -> str | None:
    """Each layer's distance from the referee, in the network, relative to its features; None without layers.

    Grey is the original; a line a candidate; dashed is what passes.
    """
    series = [
        (verdict["candidate"], [step for step in verdict["steps"] if step["is_layer"] and step["features"]])
        for verdict in verdicts
    ]
    series = [(name, steps) for name, steps in series if steps]
    if not series:
        return None
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": "errors"}):
        figure = Figure(figsize=(9.5, 3.6), layout="constrained")
        axes = figure.add_subplot()
        _, steps = series[0]
        places = range(len(steps))
        own = _relative(steps, "original_error")
        axes.plot(places, own, color=_ORIGINAL, lw=5, alpha=0.5, label="original")
        axes.plot(places, _relative(steps, "tolerance"), color=_ORIGINAL, lw=1, ls="--", label="tolerance")
        for (name, found), color in zip(series, _CANDIDATES, strict=False):
            values = _relative(found, "error")
            axes.plot(range(len(found)), values, "o-", color=color, ms=3.5, lw=1.3, label=name)
            wrong = [index for index, step in enumerate(found) if step["problem"]]
            axes.plot(wrong, [values[i] for i in wrong], "x", color=color, ms=11, mew=2.5)
        axes.set_yscale("log")
        axes.set_ylabel("error / largest feature")
        stride = max(1, len(steps) // 24)
        axes.set_xticks([p for p in places if p % stride == 0])
        labels = [step["name"] for index, step in enumerate(steps) if index % stride == 0]
        axes.set_xticklabels(labels, rotation=45, ha="right")
        axes.grid(visible=True, axis="y")
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
        return _svg(figure, "errors")


def hue_wheel(hue: Mapping[str, Any], what: str) -> str:
    """Scores or features by the angle that the hue turned, original and candidates over each other."""
    curves: Mapping[str, Sequence[Sequence[float]]] = hue[what]["curves"]
    names: Sequence[str] = hue[what]["names"]
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": what}):
        figure = Figure(figsize=(4.6, 4.8), layout="constrained")
        axes: Any = figure.add_subplot(projection="polar")
        angles = [math.radians(angle) for angle in hue["angles"]]
        for index, name in enumerate(names):
            color = _CURVES[index % len(_CURVES)]
            for candidate, rows in curves.items():
                if candidate == "original":
                    axes.plot(angles, rows[index], color=color, lw=6, alpha=0.3, label=name)
                else:
                    axes.plot(angles, rows[index], color=color, lw=1.2, ls="--")
        if hue["turn"] is not None:
            for turn in range(round(360 / hue["turn"])):
                axes.axvline(math.radians(turn * hue["turn"]), color=_INK, lw=0.8, alpha=0.5)
        axes.set_theta_zero_location("N")
        axes.tick_params(labelsize=7)
        axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.06), fontsize=8)
        return _svg(figure, what)


def timing_bars(bench: Mapping[str, Any]) -> str:
    """A bar a candidate, its median time; the dark part is what its multiplications alone would take."""
    from ceconv_convert.bench import time_as_text, title  # it brings torch along

    rows = bench["rows"]
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": "times"}):
        figure = Figure(figsize=(9.5, 0.42 * len(rows) + 0.8), layout="constrained")
        axes = figure.add_subplot()
        names = [title(row["name"], row["runtime"]) for row in rows]
        places = list(range(len(rows)))
        times = [1e3 * row["seconds"] for row in rows]
        colors = [_ORIGINAL if row["name"] == "original" else _TIMES[row["runtime"]] for row in rows]
        axes.barh(places, times, color=colors, alpha=0.55, height=0.66)
        limits = [1e3 * min(row["limit"] or 0, row["seconds"]) for row in rows]
        axes.barh(places, limits, color=colors, height=0.66)
        for place, row, value in zip(places, rows, times, strict=True):
            ratio = "" if row["ratio"] is None else f"  {row['ratio']:.2f}×"
            text = f"{time_as_text(row['seconds'])}{ratio}"
            axes.annotate(text, (value, place), (5, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.18 * max(times))
        axes.set_xlabel("ms a run")
        axes.grid(visible=True, axis="x")
        axes.set_axisbelow(True)
        return _svg(figure, "times")


def _relative(steps: Sequence[Mapping[str, Any]], what: str) -> list[float]:
    """A measure over the largest feature; what is exact, or no number, lies at the edge of the picture."""
    values = []
    for step in steps:
        found, scale = step["features"][what], step["features"]["scale"]
        values.append(float("nan") if found is None or not scale else max(found / scale, 1e-17))
    return values


def _svg(figure: Figure, name: str) -> str:
    """As text, its names beginning with ``name``: a page has several, and each name once."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
