"""What a conversion would do, before a tensor moves: one row a color-equivariant layer."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ceconv_convert.conversion.find import FoundLayer, Refusal, find_layers
from ceconv_convert.conversion.read_state_dict import LayerTensors, layers_in_state
from ceconv_convert.errors import SpecError
from ceconv_convert.forms.table import AUTO, form_named
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.kernel.spec import Padding, Pair

HEADINGS = ("layer", "kind", "N", "channels", "kernel", "form", "before", "after")
_WIDTH = 80
_MANY = 40
"""A table of more rows has layers that differ in one number of their path alone in one row."""
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])(?!.*(?<![^.])\d+(?![^.]))")
"""The last number in a path: ``1`` of ``layers.2.1.conv1``."""


@dataclass(frozen=True)
class PlanRow:
    """One layer and its replacement; None for what a state dict or a refused layer does not tell."""

    name: str  # its path in the module, "" for the root
    bytes_before: int  # of the layer's parameters and buffers
    aliases: tuple[str, ...] = ()  # further paths of the same module
    kind: str | None = None  # lifting, hidden or separable
    rotations: Pair | None = None  # N_in, N_out
    channels: Pair | None = None  # I, O
    kernel_size: Pair | None = None  # rows, columns
    stride: Pair | None = None  # rows, columns
    padding: Padding | None = None  # zeros, ((top, bottom), (left, right))
    form: str | None = None  # of the replacement
    bytes_after: int | None = None  # of the replacement
    refusal: str | None = None  # why the layer is not converted; None where it is

    def cells(self) -> tuple[str, ...]:
        """One text for each of ``HEADINGS``; stride and padding beside the kernel, where there are any."""
        aliases = f" (= {', '.join(self.aliases)})" if self.aliases else ""
        padding = [str(low) if low == high else f"{low}+{high}" for low, high in self.padding or ()]
        kernel = ["×".join(map(str, self.kernel_size or ()))]
        for letter, numbers, usual in (("s", self.stride, "1"), ("p", padding, "0")):
            text = "×".join(dict.fromkeys(map(str, numbers or (usual,))))
            kernel += [letter + text] if text != usual else []
        return (
            (self.name or "(root)") + aliases,
            self.kind or "refused",
            "→".join(map(str, self.rotations or ())),
            "→".join(map(str, self.channels or ())),
            " ".join(kernel),
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
        """A line of headings, and one for each of the ``folded`` rows."""
        return aligned_lines([HEADINGS, *(row.cells() for row in self.folded())], right=HEADINGS[-2:])

    def folded(self) -> list[PlanRow]:
        """The rows; of many, those that are equal but for one number in their path as one."""
        alike: dict[tuple[PlanRow, str], list[PlanRow]] = {}
        for row in self.rows:
            name = _NUMBER.sub("#", row.name) if len(self.rows) > _MANY and not row.aliases else row.name
            alike.setdefault((replace(row, name=""), name), []).append(row)
        folded = []
        for (_, name), rows in alike.items():
            numbers = [int(found[0]) for row in rows if (found := _NUMBER.search(row.name))]
            several = name.replace("#", f"{min(numbers, default=0)}…{max(numbers, default=0)}")
            if numbers and max(numbers) - min(numbers) >= len(rows):  # with others in between
                several += f" ×{len(rows)}"
            folded.append(replace(rows[0], name=several if rows[1:] else rows[0].name))
        return folded

    def __str__(self) -> str:
        return "\n".join([*self.table(), *self.refusals(), self.totals()])


def aligned_lines(rows: Iterable[Sequence[str]], right: Collection[str]) -> list[str]:
    """A table as lines: headings first. Columns whose heading is in ``right`` are aligned right.

    Columns move closer where a line would be too long for a terminal.
    """
    columns = []
    for column in zip(*rows, strict=True):
        align, width = str.rjust if column[0] in right else str.ljust, max(map(len, column))
        columns.append([align(cell, width) for cell in column])
    lines = list(zip(*columns, strict=True))
    gap = "  " if len("  ".join(lines[0])) <= _WIDTH else " "
    return [gap.join(cells).rstrip() for cells in lines]


def bytes_as_text(count: int) -> str:
    """A size with its unit.

    >>> bytes_as_text(999), bytes_as_text(12_345), bytes_as_text(3_456_789)
    ('999 B', '12.3 kB', '3.5 MB')
    """
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (1000, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def plan(model: nn.Module | Mapping[str, Tensor], form: str = "conv3d") -> Plan:
    """What ``convert(model, form)``, or ``migrate_state_dict(model)``, would do.

    A state dict does not tell stride and padding, nor the rotations out of some layers.

    Args:
        model: any module, or a state dict; it is not changed.
        form: ``conv3d``, ``conv2d`` or ``fourier``; ``auto`` for a module that becomes an ``.onnx`` file;
            of a state dict ``conv3d`` alone.

    Raises:
        SpecError: for a form that does not exist, or that a state dict cannot take.
        StateDictError: for a state dict that does not tell which tensors are layers.

    >>> from ceconv_convert import CEConv2d
    >>> [row.kind for row in plan(nn.Sequential(CEConv2d(1, 3, 3, 8, 3), CEConv2d(3, 3, 8, 8, 3)))]
    ['lifting', 'separable']
    """
    if isinstance(model, nn.Module):
        return plan_layers(model, find_layers(model), form)
    if form_named(form).name != "conv3d":
        raise SpecError(f"a state dict is migrated to conv3d alone, found form={form!r}")
    return Plan(form, tuple(_row_of_tensors(layer, model, form) for layer in layers_in_state(model)))


def plan_layers(model: nn.Module, found: Sequence[FoundLayer], form: str) -> Plan:
    """The plan for layers already found; raises SpecError for a form that does not exist."""
    if form != AUTO:
        form_named(form)
    converted = sum(isinstance(module, TargetLayer) for module in model.modules())
    return Plan(form, tuple(_row(layer, form) for layer in found), converted)


def _row(layer: FoundLayer, form: str) -> PlanRow:
    name, *aliases = layer.names
    before = _bytes([*layer.module.parameters(), *layer.module.buffers()])
    spec = layer.reading
    if isinstance(spec, Refusal):
        return PlanRow(name, before, tuple(aliases), refusal=spec.reason)
    written, after = AUTO, None
    if form != AUTO:
        built = form_named(form).build(spec)
        written, after = built.form, _bytes(built.state_dict().values())
    return PlanRow(
        name,
        before,
        tuple(aliases),
        spec.kind,
        rotations=(spec.in_rotations, spec.out_rotations),
        channels=(spec.in_channels, spec.out_channels),
        kernel_size=spec.kernel_size,
        stride=spec.stride,
        padding=spec.padding,
        form=written,
        bytes_after=after,
    )


def _row_of_tensors(layer: LayerTensors, state: Mapping[str, Tensor], form: str) -> PlanRow:
    weight = layer.effective_weight()
    keys = ("weight", "pointwise_weight", "transformation_matrix", "bias")
    before = _bytes(state[key] for name in keys if (key := f"{layer.name}{name}") in state)
    return PlanRow(
        layer.name.rstrip("."),
        before,
        kind=layer.kind,
        rotations=layer.rotations(),
        channels=(weight.shape[1], weight.shape[0]),
        kernel_size=(weight.shape[3], weight.shape[4]),
        form=form,
        bytes_after=before - _bytes(layer.factors.values()) + _bytes([weight]),
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
