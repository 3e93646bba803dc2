"""Candidates side by side: time, memory, size, multiplications."""

from ceconv_convert.bench.measure import Bench, Row, measure
from ceconv_convert.bench.providers import check_threads, provider_named
from ceconv_convert.bench.table import (
    HEADINGS,
    bench_as_data,
    bench_as_lines,
    row_as_texts,
    time_as_text,
    title,
)

__all__ = [
    "HEADINGS",
    "Bench",
    "Row",
    "bench_as_data",
    "bench_as_lines",
    "check_threads",
    "measure",
    "provider_named",
    "row_as_texts",
    "time_as_text",
    "title",
]
