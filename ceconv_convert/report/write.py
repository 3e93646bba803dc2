"""The report: plain data, written as JSON for programs or as HTML for people.

The schema is described in docs/report.md. Keys are added, never renamed or dropped, within a version.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ceconv_convert.bench.bench_table import HEADINGS, row_as_texts
from ceconv_convert.conversion.plan import bytes_as_text
from ceconv_convert.files.system import writing
from ceconv_convert.verification.verdict import Verdict, verdict_as_lines, verdict_in_full

Report = dict[str, object]


def make_report(
    record: Mapping[str, object],
    *,
    basis: Iterable[str] = (),
    verdicts: Sequence[Verdict],
    outputs: Iterable[Mapping[str, object]] = (),
    hue: Mapping[str, object] | None = None,
    bench: Mapping[str, object] | None = None,
) -> Report:
    """The document, from the provenance ``record`` of a run and a verdict per candidate."""
    report: Report = {
        "schema": "ceconv-convert/report",
        "version": 1,
        "passed": all(verdicts),
        "line": ", ".join(verdict_as_lines(*verdicts)),
        "basis": list(basis),
        **{key: value for key, value in record.items() if key != "verdict"},
        "verdicts": [verdict_in_full(verdict) for verdict in verdicts],
        "outputs": list(outputs),
        "hue": hue,
        "bench": bench,
    }
    return {key: _finite(value) for key, value in report.items()}


def _finite(value: object) -> object:
    """A copy with None for every NaN and infinity, which JSON does not have, however deep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def write_report(report: Report, path: Path) -> None:
    """Write a report, as HTML where the suffix is ``.html``, else as JSON."""
    if path.suffix == ".html":
        text = render(report)
    else:
        text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path.name):
        path.write_text(text, "utf-8", "backslashreplace")  # file names may hold bytes that are no text


def render(report: Mapping[str, Any]) -> str:
    """A report as one page, which loads nothing from elsewhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # these libraries are an extra

    from ceconv_convert.report.figures import error_per_layer, hue_figure, timing_bars

    templates = PackageLoader("ceconv_convert.report")
    environment = Environment(loader=templates, autoescape=True, undefined=StrictUndefined)
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
