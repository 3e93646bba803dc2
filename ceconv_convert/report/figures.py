"""The report's figures, as SVG in the page's text color: readable on light and on dark."""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from ceconv_convert.bench.bench_table import row_as_texts, title

_INK = "#123456"  # stands for the page's text color
_GREY = "#8a8f98"
_COLORS = ("#d9480f", "#1971c2", "#2b8a3e", "#9c36b5", "#e67700", "#0b7285")
_TIMES = {"onnx": _COLORS[0], "torch": _COLORS[1], "openvino": _COLORS[2]}
_LONGEST = 32  # characters of a name in a figure
_LARGEST = 1e100  # numbers beyond it are drawn there: matplotlib's own arithmetic overflows
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
_OFF = ("legend.frameon", "axes.spines.top", "axes.spines.right")
_FONT = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
_SETTINGS: Any = {**dict.fromkeys(_INKED, _INK), **dict.fromkeys(_OFF, False), **_FONT, "grid.alpha": 0.2}


def error_per_layer(verdicts: Sequence[Mapping[str, Any]]) -> str | None:
    """Each layer's error relative to its features: the original's, the tolerance, and a line per candidate.

    Layers that are off are crossed, at the upper edge where their error is not finite. None without layers.
    """
    series = []
    for verdict in verdicts:
        steps = [step for step in verdict["steps"] if step["is_layer"] and step["features"]]
        if steps:
            series.append((verdict["candidate"], steps))
    if not series:
        return None
    names = list(dict.fromkeys(step["name"] for _, steps in series for step in steps))

    def draw(axes: Any) -> None:
        for index, (candidate, steps) in enumerate(series):
            color = _COLORS[index % len(_COLORS)]
            places = [names.index(step["name"]) for step in steps]
            if index == 0:
                own, tolerance = _relative(steps, "original_error"), _relative(steps, "tolerance")
                axes.plot(places, own, color=_GREY, lw=5, alpha=0.5, label="original")
                axes.plot(places, tolerance, color=_GREY, lw=1, ls="--", label="tolerance")
            values = _relative(steps, "error")
            axes.plot(places, values, "o-", color=color, ms=3.5, lw=1.3, label=_label(candidate))
            for place, value, step in zip(places, values, steps, strict=True):
                if step["problem"]:
                    edge = {"transform": axes.get_xaxis_transform()} if math.isnan(value) else {}
                    height = 1.0 if edge else value
                    axes.plot(place, height, "x", color=color, ms=11, mew=2.5, clip_on=False, **edge)
        axes.set_yscale("log")
        axes.set_ylabel("error / largest feature")
        shown = range(0, len(names), max(1, len(names) // 24))
        axes.set_xticks(shown, [_label(names[place]) for place in shown], rotation=45, ha="right")
        axes.grid(visible=True, axis="y")
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1))

    return _svg("errors", (9.5, 3.6), draw)


def hue_figure(hue: Mapping[str, Any], what: str) -> str:
    """Scores or features by the angle of the hue rotation, original and candidates over each other."""

    def draw(axes: Any) -> None:
        angles = [math.radians(angle) for angle in hue["angles"]]
        for index, name in enumerate(hue[what]["names"]):
            color = _COLORS[index % len(_COLORS)]
            for candidate, rows in hue[what]["curves"].items():
                row = [_drawn(value) for value in rows[index]]
                if candidate == "original":
                    axes.plot(angles, row, color=color, lw=6, alpha=0.3, label=name)
                else:
                    axes.plot(angles, row, color=color, lw=1.2, ls="--")
        if hue["turn"] is not None:
            for rotation in range(round(360 / hue["turn"])):
                axes.axvline(math.radians(rotation * hue["turn"]), color=_INK, lw=0.8, alpha=0.5)
        axes.set_theta_zero_location("N")
        axes.tick_params(labelsize=7)
        axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.06), fontsize=8)

    return _svg(what, (4.6, 4.8), draw, projection="polar")


def timing_bars(bench: Mapping[str, Any]) -> str:
    """A bar per candidate, its median time; the dark part is what its multiplications alone would take."""
    rows = bench["rows"]

    def draw(axes: Any) -> None:
        places = range(len(rows))
        times = [1e3 * row["seconds"] for row in rows]
        limits = [1e3 * min(row["limit"] or 0, row["seconds"]) for row in rows]
        colors = [_GREY if row["name"] == "original" else _TIMES[row["runtime"]] for row in rows]
        axes.barh(places, times, color=colors, alpha=0.55, height=0.66)
        axes.barh(places, limits, color=colors, height=0.66)
        for place, row, time in zip(places, rows, times, strict=True):
            text = "  ".join(row_as_texts(row)[1:3])
            axes.annotate(text, (time, place), (5, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, map(title, rows))
        axes.invert_yaxis()
        axes.set_xlim(0, 1.18 * max(times))
        axes.set_xlabel("ms a run")
        axes.grid(visible=True, axis="x")
        axes.set_axisbelow(True)

    return _svg("times", (9.5, 0.42 * len(rows) + 0.8), draw)


def _svg(name: str, size: tuple[float, float], draw: Callable[[Any], None], **subplot: Any) -> str:
    """The figure as text; its ids begin with ``name``, since a page has several figures."""
    buffer = io.StringIO()
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about fonts: a reader of the page cannot act on it
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot(**subplot))
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


def _relative(steps: Iterable[Mapping[str, Any]], what: str) -> list[float]:
    """A measure over the largest feature; an error of zero is drawn at the lower edge."""
    values = []
    for step in steps:
        value, scale = step["features"][what], step["features"]["scale"]
        values.append(math.nan if value is None or not scale else max(_drawn(value / scale), 1e-17))
    return values


def _drawn(value: float | None) -> float:
    """A number of the report as matplotlib can draw it; a missing one leaves a gap."""
    return math.nan if value is None else max(-_LARGEST, min(value, _LARGEST))


def _label(name: str) -> str:
    """The end of a name for matplotlib, where a ``$`` begins a formula and a leading ``_`` hides a label."""
    text = "".join(character if character.isprintable() else "?" for character in name)
    text = text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
