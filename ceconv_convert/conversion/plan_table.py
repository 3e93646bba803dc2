"""The plan as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ceconv_convert.conversion.rows import Plan, PlanRow

HEADINGS = (
    "layer",
    "kind",
    "rotations",
    "channels",
    "kernel",
    "stride",
    "padding",
    "form",
    "before",
    "after",
)


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
    if row.kind is None:
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
        "" if row.bytes_after is None else bytes_as_text(row.bytes_after),
    )


def row_as_data(row: PlanRow) -> dict[str, object]:
    """A row of the plan as plain data, for reports and records."""
    fields = ("rotations", "channels", "kernel_size", "stride", "padding")
    shapes = {name: _listed(getattr(row, name)) for name in fields}
    return {"name": row.name, "aliases": list(row.aliases), "kind": row.kind, **shapes, "form": row.form}


def _listed(value: object) -> object:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def refusals(plan: Plan) -> list[str]:
    """A line for each refused layer."""
    return [f"{row.name or '(root)'} is refused: {row.refusal}" for row in plan.refused]


def totals(plan: Plan) -> str:
    """One line about the whole plan."""
    before = sum(row.bytes_before for row in plan.convertible)
    after = sum(row.bytes_after or 0 for row in plan.convertible)
    count = f"{len(plan.convertible)} layer{'' if len(plan.convertible) == 1 else 's'}"
    line = f"{count} to {plan.form}, {bytes_as_text(before)}"
    if all(row.bytes_after is not None for row in plan.convertible):
        line += f" → {bytes_as_text(after)}"
    return f"{line}; {len(plan.refused)} refused" if plan.refused else line


def plan_as_text(plan: Plan) -> str:
    """The plan as a plain table."""
    rows = [HEADINGS, *(row_as_cells(row) for row in plan)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, *refusals(plan), totals(plan)])


def _once(values: Sequence[object]) -> str:
    """Two equal values as one, else both."""
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else "×".join(texts)
