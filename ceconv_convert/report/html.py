"""The report as one self-contained page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ceconv_convert.bench.bench_table import HEADINGS, row_as_texts
from ceconv_convert.bench.measure import Row
from ceconv_convert.report.figures import error_per_layer, hue_figure, timing_bars


def render(report: Mapping[str, Any]) -> str:
    """The page; it loads nothing from elsewhere."""
    environment = Environment(
        loader=PackageLoader("ceconv_convert.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["error"] = _error
    environment.filters["size"] = _size
    hue, bench, verdicts = report["hue"], report["bench"], report["verdicts"]
    sweeps = [what for what in ("scores", "features") if hue is not None and hue[what] is not None]
    return environment.get_template("report.html").render(
        report=report,
        errors=_figure(error_per_layer(verdicts)),
        sweeps={what: _figure(hue_figure(hue, what)) for what in sweeps},
        rows=[{"layer": layer, "checks": _checks(layer["name"], verdicts)} for layer in report["layers"]],
        times=None if bench is None else _figure(timing_bars(bench)),
        headings=HEADINGS,
        candidates=[] if bench is None else [_texts(row) for row in bench["rows"]],
    )


def _figure(svg: str | None) -> Markup | None:
    """Markup as it is: made by matplotlib, which escapes names."""
    return None if svg is None else Markup(svg)  # noqa: S704


def _checks(name: str, verdicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each verdict says of a layer; None where it does not mention it."""
    parts = {"by_itself": ("layers", name), "inside": ("steps", name or "(root)")}
    parts["symmetry"] = ("symmetries", name or "(root)")
    return [
        {
            what: next((check for check in verdict[part] if check["name"] == key), None)
            for what, (part, key) in parts.items()
        }
        for verdict in verdicts
    ]


def _texts(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of times as in the terminal."""
    return row_as_texts(Row(**{**row, "error": math.nan if row["error"] is None else row["error"]}))


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
