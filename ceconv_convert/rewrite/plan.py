"""What a conversion would do, before a tensor moves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ceconv_convert.kernel.spec import KernelSpec, Padding, Pair
from ceconv_convert.modules import TargetLayer, form_named
from ceconv_convert.read import Refusal, Site, find_sites


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
        from ceconv_convert.rewrite.table import plan_as_text

        return plan_as_text(self)


def plan(model: nn.Module, form: str = "conv3d") -> Plan:
    """What ``convert(model, form)`` would do.

    Args:
        model: any module; it is not changed.
        form: ``conv3d`` or ``conv2d``.

    Raises:
        SpecError: for a form that does not exist.

    >>> from ceconv_convert.layers import CEConv2d
    >>> [row.kind for row in plan(nn.Sequential(CEConv2d(1, 3, 3, 8, 3), CEConv2d(3, 3, 8, 8, 3)))]
    ['lifting', 'separable']
    """
    form_named(form)
    return plan_sites(model, find_sites(model), form)


def plan_sites(model: nn.Module, sites: list[Site], form: str) -> Plan:
    """The plan for sites already found."""
    converted = sum(isinstance(module, TargetLayer) for module in model.modules())
    return Plan(form, tuple(_row(site, form) for site in sites), converted)


def _row(site: Site, form: str) -> PlanRow:
    name, *aliases = site.names
    before = _bytes(site.module)
    if isinstance(site.reading, Refusal):
        return PlanRow(name, before, tuple(aliases), refusal=site.reading.reason)
    spec = site.reading.spec
    return PlanRow(
        name=name,
        bytes_before=before,
        aliases=tuple(aliases),
        kind=site.reading.kind,
        rotations=(spec.in_rotations, spec.out_rotations),
        channels=(spec.in_channels, spec.out_channels),
        kernel_size=spec.kernel_size,
        stride=spec.stride,
        padding=spec.padding,
        form=form,
        bytes_after=_bytes_after(spec, form),
    )


def _bytes(module: nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _bytes_after(spec: KernelSpec, form: str) -> int:
    return sum(math.prod(shape) for shape in form_named(form).shapes(spec).values()) * spec.dtype.itemsize
