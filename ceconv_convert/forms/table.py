"""The table of forms: a new form is one file and one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from ceconv_convert.errors import SpecError
from ceconv_convert.forms import conv2d, conv3d, fourier
from ceconv_convert.kernel.cyclic_fourier import applies
from ceconv_convert.kernel.spec import KernelSpec


@dataclass(frozen=True)
class Form:
    """One way to write a color-equivariant layer down.

    Attributes:
        name: what ``convert(form=…)`` and ``--form`` call it.
        summary: a line for people.
        build: the layer of a spec.
        shapes: the shapes of that layer's state dict, without building it.
        used: the name of the form that the layer of a spec gets: another where this one does not apply.
    """

    name: str
    summary: str
    build: Callable[[KernelSpec], nn.Module]
    shapes: Callable[[KernelSpec], dict[str, torch.Size]]
    used: Callable[[KernelSpec], str]


_ROWS = (
    Form("conv3d", "circular Conv3d: smallest, portable", conv3d.build, conv3d.shapes, lambda _: "conv3d"),
    Form(
        "conv2d",
        "expanded Conv2d: N_out times the weights",
        conv2d.ExpandedConv2d,
        conv2d.shapes,
        lambda _: "conv2d",
    ),
    Form(
        "fourier",
        "Fourier over the rotations: fewest multiplications",
        fourier.build,
        fourier.shapes,
        lambda spec: "fourier" if applies(spec) else "conv3d",
    ),
)

AUTO = "auto"
"""Of ``.onnx`` files alone: each layer's form is chosen by what it costs there."""

FORMS: Mapping[str, Form] = MappingProxyType({form.name: form for form in _ROWS})


def form_named(name: str) -> Form:
    """The row of the table.

    Raises:
        SpecError: where there is none, listing those that there are.
    """
    if name not in FORMS:
        raise SpecError(f"form is one of {', '.join(FORMS)}; found {name!r}")
    return FORMS[name]
