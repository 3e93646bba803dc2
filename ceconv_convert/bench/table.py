"""A measurement as a table, for people, and as data, for reports."""

from __future__ import annotations

from dataclasses import asdict

from ceconv_convert.bench.measure import Bench, Row

HEADINGS = (
    "candidate",
    "time",
    "speed",
    "error",
    "file",
    "load",
    "peak memory",
    "multiplications",
    "limit",
)
RUNTIMES = {"onnx": "ONNX Runtime", "torch": "PyTorch eager"}


def row_as_texts(row: Row) -> tuple[str, ...]:
    """A row, one text a heading; empty where nothing was measured."""
    return (
        f"{row.name}, {RUNTIMES[row.runtime]}",
        f"{row.seconds * 1e3:.1f} ms",
        "" if row.ratio is None else f"{row.ratio:.2f}×",
        f"{row.error:.1e}",
        "" if row.size is None else f"{row.size / 1e6:.1f} MB",
        "" if row.load is None else f"{row.load:.2f} s",
        "" if row.memory is None else f"{row.memory / 1e6:.0f} MB",
        "" if row.multiplications is None else f"{row.multiplications / 1e9:.2f}·10⁹",
        "" if row.limit is None else f"{row.limit * 1e3:.1f} ms",
    )


def bench_as_lines(bench: Bench) -> list[str]:
    """What the table says about, and on what it was measured."""
    shape = "×".join(map(str, bench.shape))
    threads = f"{bench.threads} thread{'' if bench.threads == 1 else 's'}"
    return [
        f"{shape} on {bench.processor}; {threads}, {bench.provider}",
        "medians of interleaved runs; speed against the original in the same runtime; limit: the "
        f"multiplications at {bench.rate / 1e9:.0f}·10⁹ a second, a large matrix product's rate here",
    ]


def bench_as_data(bench: Bench) -> dict[str, object]:
    """Plain data for the JSON report."""
    return asdict(bench)
