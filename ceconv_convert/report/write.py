"""The report as a file: JSON for pipelines, HTML for people."""

from __future__ import annotations

import json
from pathlib import Path

from ceconv_convert.errors import OutputError
from ceconv_convert.report.data import Report
from ceconv_convert.report.html import render

REPORT_SUFFIXES = (".json", ".html")


def write_report(report: Report, path: Path) -> None:
    """Write a report; the suffix decides how.

    Raises:
        OutputError: where it cannot be written.
    """
    if path.suffix == ".html":
        text = render(report)
    else:
        text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.write_text(text, "utf-8", "backslashreplace")  # names of files may be no text
    except OSError as error:
        raise OutputError(f"{path.name} cannot be written: {error.strerror}") from error
