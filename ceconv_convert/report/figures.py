"""The report's figures, as SVG that takes the page's text color: readable on light and on dark."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK = "#123456"
"""Stands for the page's text color."""
_ORIGINAL = "#8a8f98"
_CANDIDATES = ("#d9480f", "#1971c2", "#2b8a3e", "#9c36b5")
_CURVES = ("#d9480f", "#1971c2", "#2b8a3e", "#9c36b5", "#e67700", "#0b7285")
_TIMES = {"onnx": "#d9480f", "torch": "#1971c2"}
_LONGEST = 32
"""Characters of a name in a figure."""
_LARGEST = 1e100
"""Numbers beyond it are drawn there: matplotlib's own arithmetic overflows."""
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
    """Each layer's error in the network, relative to its features; None without layers.

    Grey is the original; a line a candidate; dashed is what passes. Layers that are off are crossed, at the
    upper edge where their error is not finite.
    """
    series = [
        (verdict["candidate"], [step for step in verdict["steps"] if step["is_layer"] and step["features"]])
        for verdict in verdicts
    ]
    series = [(name, steps) for name, steps in series if steps]
    if not series:
        return None
    names = list(dict.fromkeys(step["name"] for _, steps in series for step in steps))
    with _drawing("errors"):
        figure = Figure(figsize=(9.5, 3.6), layout="constrained")
        axes = figure.add_subplot()
        _, steps = series[0]
        places = [names.index(step["name"]) for step in steps]
        own = _relative(steps, "original_error")
        axes.plot(places, own, color=_ORIGINAL, lw=5, alpha=0.5, label="original")
        axes.plot(places, _relative(steps, "tolerance"), color=_ORIGINAL, lw=1, ls="--", label="tolerance")
        for index, (name, found) in enumerate(series):
            color = _CANDIDATES[index % len(_CANDIDATES)]
            places = [names.index(step["name"]) for step in found]
            values = _relative(found, "error")
            axes.plot(places, values, "o-", color=color, ms=3.5, lw=1.3, label=_label(name))
            points = zip(places, values, found, strict=True)
            off = [(place, value) for place, value, step in points if step["problem"]]
            _cross(axes, off, color)
            _cross(axes, [(place, 1.0) for place, value in off if math.isnan(value)], color, at_edge=True)
        axes.set_yscale("log")
        axes.set_ylabel("error / largest feature")
        stride = max(1, len(names) // 24)
        shown = range(0, len(names), stride)
        axes.set_xticks(shown, [_label(names[place]) for place in shown], rotation=45, ha="right")
        axes.grid(visible=True, axis="y")
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
        return _svg(figure, "errors")


def hue_wheel(hue: Mapping[str, Any], what: str) -> str:
    """Scores or features by the angle that the hue turned, original and candidates over each other."""
    curves: Mapping[str, Sequence[Sequence[float | None]]] = hue[what]["curves"]
    names: Sequence[str] = hue[what]["names"]
    with _drawing(what):
        figure = Figure(figsize=(4.6, 4.8), layout="constrained")
        axes: Any = figure.add_subplot(projection="polar")
        angles = [math.radians(angle) for angle in hue["angles"]]
        for index, name in enumerate(names):
            color = _CURVES[index % len(_CURVES)]
            for candidate, rows in curves.items():
                row = [_drawn(value) for value in rows[index]]
                if candidate == "original":
                    axes.plot(angles, row, color=color, lw=6, alpha=0.3, label=name)
                else:
                    axes.plot(angles, row, color=color, lw=1.2, ls="--")
        if hue["turn"] is not None:
            for turn in range(round(360 / hue["turn"])):
                axes.axvline(math.radians(turn * hue["turn"]), color=_INK, lw=0.8, alpha=0.5)
        axes.set_theta_zero_location("N")
        axes.tick_params(labelsize=7)
        axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.06), fontsize=8)
        return _svg(figure, what)


def timing_bars(bench: Mapping[str, Any]) -> str:
    """A bar a candidate, its median time; the dark part is what its multiplications alone would take."""
    from ceconv_convert.bench.bench_table import time_as_text, title

    rows = bench["rows"]
    with _drawing("times"):
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


@contextmanager
def _drawing(salt: str) -> Iterator[None]:
    """Settings for a figure; a reader of the page cannot act on what it warns of, as fonts."""
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _cross(axes: Axes, points: Iterable[tuple[int, float]], color: str, *, at_edge: bool = False) -> None:
    transform = axes.get_xaxis_transform() if at_edge else axes.transData
    for place, value in points:
        axes.plot(place, value, "x", color=color, ms=11, mew=2.5, clip_on=False, transform=transform)


def _relative(steps: Iterable[Mapping[str, Any]], what: str) -> list[float]:
    """A measure over the largest feature; what is exact lies at the edge of the picture."""
    values = []
    for step in steps:
        found, scale = step["features"][what], step["features"]["scale"]
        values.append(math.nan if found is None or not scale else max(_drawn(found / scale), 1e-17))
    return values


def _drawn(value: float | None) -> float:
    """A number of the report as matplotlib draws it: what is missing leaves a gap."""
    return math.nan if value is None else max(-_LARGEST, min(value, _LARGEST))


def _label(name: str) -> str:
    """The end of a name for matplotlib, where a ``$`` begins a formula and a first ``_`` hides a label."""
    text = "".join(character if character.isprintable() else "?" for character in name)
    text = text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _svg(figure: Figure, name: str) -> str:
    """As text, its names beginning with ``name``: a page has several, and each name once."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
