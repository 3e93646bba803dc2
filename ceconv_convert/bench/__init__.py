"""Candidates side by side: time, memory, size, multiplications."""

from ceconv_convert.bench.measure import Bench, Row, measure
from ceconv_convert.bench.providers import check_threads, provider_named
from ceconv_convert.bench.table import (
    HEADINGS,
    RUNTIMES,
    bench_as_data,
    bench_as_lines,
    row_as_texts,
    time_as_text,
)

__all__ = [
    "HEADINGS",
    "RUNTIMES",
    "Bench",
    "Row",
    "bench_as_data",
    "bench_as_lines",
    "check_threads",
    "measure",
    "provider_named",
    "row_as_texts",
    "time_as_text",
]
