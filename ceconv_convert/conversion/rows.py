"""The plan: one row a color-equivariant layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ceconv_convert.kernel.spec import Padding, Pair


@dataclass(frozen=True)
class PlanRow:
    """One color-equivariant layer and what becomes of it.

    Attributes:
        name: its path in the module, ``""`` for the root.
        aliases: further paths of the same module.
        kind: ``lifting``, ``hidden`` or ``separable``; None where the layer is refused.
        rotations: N_in, N_out.
        channels: I, O.
        kernel_size: rows, columns.
        stride: rows, columns.
        padding: zeros, ``((top, bottom), (left, right))``.
        form: the form it is written in; None where it is refused.
        bytes_before: of its parameters and buffers.
        bytes_after: of those of its replacement.
        refusal: why it is not converted; None where it is.
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


@dataclass(frozen=True)
class Plan:
    """One row a layer, in the order of the module; ``converted`` counts layers in a target form already."""

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

    def __iter__(self) -> Iterator[PlanRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        from ceconv_convert.conversion.plan_table import plan_as_text

        return plan_as_text(self)
