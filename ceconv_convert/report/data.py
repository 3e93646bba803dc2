"""The report as plain data: one document, which the JSON file is and the HTML file shows.

The schema is described in docs/report.md. Keys are added, never renamed or dropped, within a version.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

SCHEMA = "ceconv-convert/report"
VERSION = 1

Report = dict[str, object]


def make_report(
    record: Mapping[str, object],
    line: str,
    passed: bool,
    explained: Iterable[str],
    verdicts: Iterable[Mapping[str, object]],
    outputs: Iterable[Mapping[str, object]],
    hue: Mapping[str, object] | None,
    bench: Mapping[str, object] | None = None,
) -> Report:
    """The document; numbers that are not finite, which JSON does not have, are None in it.

    Args:
        record: the provenance of a run, without its verdict.
        line: the verdict line.
        passed: whether all verdicts passed.
        explained: what verdicts rest on, line by line.
        verdicts: in full, one a candidate.
        outputs: what was written: name, bytes and SHA-256.
        hue: what becomes of the output as the input's hue turns full circle; None where it has none.
        bench: how fast candidates are; None where they were not measured.
    """
    report: Report = {
        "schema": SCHEMA,
        "version": VERSION,
        "passed": passed,
        "line": line,
        "basis": list(explained),
        **{key: value for key, value in record.items() if key != "verdict"},
        "verdicts": [dict(verdict) for verdict in verdicts],
        "outputs": [dict(output) for output in outputs],
        "hue": None if hue is None else dict(hue),
        "bench": None if bench is None else dict(bench),
    }
    return {key: _finite(value) for key, value in report.items()}


def _finite(value: object) -> object:
    """A copy with None for every NaN and infinity, however deep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
