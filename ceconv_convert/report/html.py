"""The report as one self-contained page."""

from __future__ import annotations

import math
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ceconv_convert.report.data import Report
from ceconv_convert.report.figures import error_per_layer, hue_wheel, timing_bars


def render(report: Report) -> str:
    """The page: nothing is fetched to show it."""
    environment = Environment(
        loader=PackageLoader("ceconv_convert.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["error"] = _error
    environment.filters["size"] = _size
    found: dict[str, Any] = dict(report)
    errors = error_per_layer(found["verdicts"])
    hue = found["hue"]
    wheels = [] if hue is None else [what for what in ("scores", "features") if hue[what] is not None]
    return environment.get_template("report.html").render(
        report=found,
        errors=None if errors is None else Markup(errors),  # noqa: S704 (made by matplotlib, which escapes)
        wheels={what: Markup(hue_wheel(hue, what)) for what in wheels},  # noqa: S704
        rows=_rows(found),
        **_bench(found["bench"]),
    )


def _bench(bench: dict[str, Any] | None) -> dict[str, Any]:
    """The bars, and the table as on the terminal."""
    if bench is None:
        return {"times": None}
    from ceconv_convert.bench.bench_table import HEADINGS, row_as_texts
    from ceconv_convert.bench.measure import Row

    rows = (
        Row(**{**row, "error": math.nan if row["error"] is None else row["error"]}) for row in bench["rows"]
    )
    return {
        "times": Markup(timing_bars(bench)),  # noqa: S704
        "headings": HEADINGS,
        "candidates": [row_as_texts(row) for row in rows],
    }


def _rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a layer: what the plan says, and what each verdict does."""
    rows = []
    for layer in report["layers"]:
        checks = []
        for verdict in report["verdicts"]:
            by_itself = next((c for c in verdict["layers"] if c["name"] == layer["name"]), None)
            inside = next((s for s in verdict["steps"] if s["name"] == (layer["name"] or "(root)")), None)
            symmetry = next(
                (s for s in verdict["symmetries"] if s["name"] == (layer["name"] or "(root)")), None
            )
            checks.append({"by_itself": by_itself, "inside": inside, "symmetry": symmetry})
        rows.append({"layer": layer, "checks": checks})
    return rows


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
