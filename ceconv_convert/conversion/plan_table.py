"""A plan of a conversion, one row a color-equivariant layer, and its text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ceconv_convert.kernel.spec import Padding, Pair

HEADINGS = (
    *("layer", "kind", "rotations", "channels", "kernel"),
    *("stride", "padding", "form", "before", "after"),
)


@dataclass(frozen=True)
class PlanRow:
    """One layer and its replacement; None for what a state dict or a refused layer does not tell.

    Attributes:
        name: its path in the module, ``""`` for the root; ``aliases`` are further paths of the same module.
        kind: ``lifting``, ``hidden`` or ``separable``.
        rotations: N_in, N_out; ``channels`` are I, O.
        padding: zeros, ``((top, bottom), (left, right))``; kernel size and stride are rows, columns.
        form: of the replacement.
        bytes_before: of the layer's parameters and buffers; ``bytes_after`` of its replacement's.
        refusal: why the layer is not converted; None where it is.
    """

    name: str
    bytes_before: int
    aliases: tuple[str, ...] = ()
    kind: str | None = None
    rotations: Pair | None = None
    channels: Pair | None = None
    kernel_size: Pair | None = None
    stride: Pair | None = None
    padding: Padding | None = None
    form: str | None = None
    bytes_after: int | None = None
    refusal: str | None = None

    def cells(self) -> tuple[str, ...]:
        """One text for each of ``HEADINGS``; equal strides or paddings of rows and columns as one number."""
        aliases = f" (= {', '.join(self.aliases)})" if self.aliases else ""
        padding = [str(low) if low == high else f"{low}+{high}" for low, high in self.padding or ()]
        return (
            (self.name or "(root)") + aliases,
            self.kind or "refused",
            "→".join(map(str, self.rotations or ())),
            "→".join(map(str, self.channels or ())),
            "×".join(map(str, self.kernel_size or ())),
            "×".join(dict.fromkeys(map(str, self.stride or ()))),
            "×".join(dict.fromkeys(padding)),
            self.form or "",
            bytes_as_text(self.bytes_before),
            "" if self.bytes_after is None else bytes_as_text(self.bytes_after),
        )

    def as_data(self) -> dict[str, object]:
        """The row as plain data, for reports and provenance records: tuples are lists, as in JSON."""
        shapes = ("rotations", "channels", "kernel_size", "stride", "padding")
        fields = ("name", "aliases", "kind", *shapes, "form")
        return {name: _listed(getattr(self, name)) for name in fields}


def _listed(value: object) -> object:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Plan:
    """The rows, in the order of the module; ``converted`` counts layers that are in a target form already."""

    form: str
    rows: tuple[PlanRow, ...]
    converted: int = 0

    @property
    def refused(self) -> tuple[PlanRow, ...]:
        """The rows that stay as they are."""
        return tuple(row for row in self.rows if row.refusal is not None)

    @property
    def convertible(self) -> tuple[PlanRow, ...]:
        """The rows that are replaced."""
        return tuple(row for row in self.rows if row.refusal is None)

    def refusals(self) -> list[str]:
        """A line for each refused layer."""
        return [f"{row.name or '(root)'} is refused: {row.refusal}" for row in self.refused]

    def totals(self) -> str:
        """One line about the whole plan."""
        rows = self.convertible
        before = bytes_as_text(sum(row.bytes_before for row in rows))
        line = f"{len(rows)} layer{'' if len(rows) == 1 else 's'} to {self.form}, {before}"
        after = [row.bytes_after for row in rows if row.bytes_after is not None]
        if len(after) == len(rows):
            line += f" → {bytes_as_text(sum(after))}"
        return f"{line}; {len(self.refused)} refused" if self.refused else line

    def __iter__(self) -> Iterator[PlanRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def table(self) -> list[str]:
        """A line of headings, and one for each row."""
        return aligned_lines([HEADINGS, *(row.cells() for row in self.rows)], right=HEADINGS[-2:])

    def __str__(self) -> str:
        return "\n".join([*self.table(), *self.refusals(), self.totals()])


def aligned_lines(rows: Iterable[Sequence[str]], right: Collection[str]) -> list[str]:
    """A table as lines: headings first. Columns whose heading is in ``right`` are aligned right."""
    columns = []
    for column in zip(*rows, strict=True):
        align, width = str.rjust if column[0] in right else str.ljust, max(map(len, column))
        columns.append([align(cell, width) for cell in column])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def bytes_as_text(count: int) -> str:
    """A size with its unit.

    >>> bytes_as_text(999), bytes_as_text(12_345), bytes_as_text(3_456_789)
    ('999 B', '12.3 kB', '3.5 MB')
    """
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (1000, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
