"""The report as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ceconv_convert.bench.bench_table import HEADINGS, row_as_texts
from ceconv_convert.conversion.plan import bytes_as_text
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
    environment.filters |= {"error": _error, "size": bytes_as_text, "texts": row_as_texts}
    hue, bench = report["hue"], report["bench"]
    sweeps = [what for what in ("scores", "features") if hue is not None and hue[what] is not None]
    return environment.get_template("report.html").render(
        report=report,
        errors=error_per_layer(report["verdicts"]),
        sweeps={what: hue_figure(hue, what) for what in sweeps},
        times=None if bench is None else timing_bars(bench),
        headings=HEADINGS,
    )


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"
