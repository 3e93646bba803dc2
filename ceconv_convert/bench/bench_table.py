"""A measurement as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ceconv_convert.verification.shapes import as_text

if TYPE_CHECKING:  # reports without a measurement do not wait for onnx
    from ceconv_convert.bench.measure import Bench

_UNSTEADY = 0.25  # of the median: where the middle half of the runs is wider, the times mean little
_RUNTIMES = {"onnx": "ONNX Runtime", "torch": "PyTorch eager"}


def time_as_text(seconds: float) -> str:
    """In milliseconds, to three digits or one behind the point.

    >>> time_as_text(0.51234), time_as_text(0.0021234), time_as_text(0.0002)
    ('512.3 ms', '2.12 ms', '0.200 ms')
    """
    return f"{_three_digits(1e3 * seconds)} ms"


def _three_digits(number: float) -> str:
    return f"{number:.{max(1, 2 - math.floor(math.log10(number)))}f}" if number > 0 else "0"


_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "time": ("seconds", time_as_text),
    "speed": ("ratio", "{:.2f}×".format),
    "error": ("error", "{:.1e}".format),
    "file": ("size", lambda size: f"{_three_digits(size / 1e6)} MB"),
    "load": ("load", "{:.2f} s".format),
    "peak memory": ("memory", lambda memory: f"{memory / 1e6:.0f} MB"),
    "multiplications": ("multiplications", lambda count: f"{_three_digits(count / 1e9)}·10⁹"),
    "limit": ("limit", time_as_text),
}
"""By heading: the key in a row, and how its value is written."""
HEADINGS = ("candidate", *_COLUMNS)


def title(row: Mapping[str, Any]) -> str:
    """The candidate of a row in words."""
    runtime = _RUNTIMES.get(row["runtime"])
    return f"{row['name']}, {runtime}" if runtime else str(row["name"])


def row_as_texts(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of a report, one text a heading; empty where nothing was measured."""
    return (title(row), *("" if row[key] is None else text(row[key]) for key, text in _COLUMNS.values()))


def bench_as_lines(bench: Bench) -> list[str]:
    """What the table is about, and which rows are unsteady."""
    unsteady = (row for row in bench.rows if row.high - row.low > _UNSTEADY * row.seconds)
    return [
        f"{as_text(bench.shape)} on {bench.processor}; "
        f"{bench.threads} thread{'' if bench.threads == 1 else 's'}, {bench.provider}",
        "medians of interleaved runs; speed against the original, of files in ONNX Runtime; limit: the "
        f"multiplications at {bench.rate / 1e9:.0f}·10⁹ a second, a large matrix product's rate here",
        *(
            f"{title(vars(row))}: a quarter of its runs took more than {time_as_text(row.high)},"
            f" another less than {time_as_text(row.low)}: something else may run on this machine"
            for row in unsteady
        ),
    ]
