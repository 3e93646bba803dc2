"""Plans and verdicts in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ceconv_convert.rewrite import Plan, PlanRow
    from ceconv_convert.verification import Evidence, Verdict

HEADINGS = ("layer", "kind", "rotations", "channels", "kernel", "stride", "padding", "form", "before", "after")


def bytes_as_text(count: int) -> str:
    """A size with its unit.

    >>> bytes_as_text(999), bytes_as_text(12_345), bytes_as_text(3_456_789)
    ('999 B', '12.3 kB', '3.5 MB')
    """
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def row_as_cells(row: PlanRow) -> tuple[str, ...]:
    """A row of the plan, one text a heading; of a refused one, only its name and size."""
    name = row.name or "(root)"
    if row.aliases:
        name += f" (= {', '.join(row.aliases)})"
    if row.kind is None or row.bytes_after is None:
        return (name, "refused", "", "", "", "", "", "", bytes_as_text(row.bytes_before), "")
    padding = tuple(side[0] if side[0] == side[1] else f"{side[0]}+{side[1]}" for side in row.padding or ())
    return (
        name,
        row.kind,
        "→".join(map(str, row.rotations or ())),
        "→".join(map(str, row.channels or ())),
        "×".join(map(str, row.kernel_size or ())),
        _once(row.stride or ()),
        _once(padding),
        row.form or "",
        bytes_as_text(row.bytes_before),
        bytes_as_text(row.bytes_after),
    )


def refusals(plan: Plan) -> list[str]:
    """A line for each refused layer."""
    return [f"{row.name or '(root)'} is refused: {row.refusal}" for row in plan.refused]


def totals(plan: Plan) -> str:
    """One line about the whole plan."""
    before = sum(row.bytes_before for row in plan.convertible)
    after = sum(row.bytes_after or 0 for row in plan.convertible)
    count = len(plan.convertible)
    line = f"{count} layer{'' if count == 1 else 's'} to {plan.form}, {bytes_as_text(before)} → {bytes_as_text(after)}"
    return f"{line}; {len(plan.refused)} refused" if plan.refused else line


def plan_as_text(plan: Plan) -> str:
    """The plan as a plain table."""
    rows = [HEADINGS, *(row_as_cells(row) for row in plan)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *refusals(plan), totals(plan)])


def verdict_as_line(*verdicts: Verdict) -> str:
    """One line: what was judged, how it came out, and by how much. The first failure speaks for all."""
    for verdict in verdicts:
        if not verdict.passed:
            return f"FAIL: {verdict.candidate}: {verdict.problem}"
    inputs = max(len(verdict.cases) for verdict in verdicts)
    layers = max(len(verdict.layers) for verdict in verdicts)
    worst = max(verdicts, key=lambda verdict: verdict.error)
    return (
        f"PASS: {' and '.join(verdict.candidate for verdict in verdicts)}: worst error {worst.error:.1e}, "
        f"the original's own {worst.original_error:.1e}, tolerance {worst.tolerance:.1e}, "
        f"on {inputs} inputs{f' and {layers} layers' if layers else ''}"
    )


def evidence_as_lines(evidence: Evidence) -> list[str]:
    """What verdicts rest on: the inputs, and where the tolerance comes from."""
    from ceconv_convert.verification.verdict import FLOOR, MULTIPLE

    shapes = ", ".join("×".join(map(str, x.shape)) for x in evidence.inputs)
    lines = [
        f"inputs: {shapes}",
        f"errors: worst distance from a float64 referee; tolerance: {MULTIPLE} × the original's own error "
        f"+ {FLOOR} roundings of the largest output",
    ]
    if evidence.fixed_size is not None:
        lines.insert(1, f"one image size alone, since the network takes no other: {evidence.fixed_size}")
    return lines


def _once(values: Sequence[object]) -> str:
    """Two equal values as one, else both."""
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else "×".join(texts)
