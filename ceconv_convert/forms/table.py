"""The table of forms: a new form is one file and one row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from ceconv_convert.errors import SpecError
from ceconv_convert.forms import conv3d
from ceconv_convert.forms.conv2d import ExpandedConv2d, FourierConv2d
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.kernel.cyclic_fourier import fourier_applies, fourier_factors
from ceconv_convert.kernel.factored import Factored, expanded_factors, hue_applies, hue_factors
from ceconv_convert.kernel.spec import KernelSpec


@dataclass(frozen=True)
class Form:
    """One way to write a color-equivariant layer down, in PyTorch, in the graph compiler, or in both."""

    name: str
    summary: str
    applies: Callable[[KernelSpec], bool]  # whether the form is exact for a spec
    layer: Callable[[KernelSpec], TargetLayer] | None = None  # PyTorch's, where the form applies
    factors: Callable[[KernelSpec], Factored] | None = None  # what the graph compiler writes for such a spec
    variant_of: str | None = None  # the form that users name to get this one; None: itself

    def is_requested_as(self, name: str) -> bool:
        """Whether users who name a form get this one."""
        return name == (self.variant_of or self.name)

    def build(self, spec: KernelSpec) -> TargetLayer:
        """The PyTorch layer of a spec, a circular Conv3d where this form does not apply."""
        layer = self.layer if self.applies(spec) else None
        return (layer or conv3d.build)(spec)


def _always(spec: KernelSpec) -> bool:
    return True


TABLE = (
    Form("conv3d", "circular Conv3d: smallest, portable", _always, conv3d.build),
    Form("conv2d", "expanded Conv2d: N_out times the weights", _always, ExpandedConv2d, expanded_factors),
    Form(
        "fourier",
        "Fourier over the rotations: fewest multiplications",
        fourier_applies,
        FourierConv2d,
        fourier_factors,
    ),
    Form(
        "fourier pairs",
        "the same with complex numbers as pairs of channels: wider convolutions",
        partial(fourier_applies, width=2),
        factors=partial(fourier_factors, width=2),
        variant_of="fourier",
    ),
    Form("hue", "lifting by three kernels a channel, mixed", hue_applies, factors=hue_factors),
)

FORMS: Mapping[str, Form] = MappingProxyType({form.name: form for form in TABLE if form.layer is not None})
"""Those that PyTorch has, by the names of ``convert(form=…)`` and ``--form``."""

AUTO = "auto"
"""Of ``.onnx`` files alone: each layer's form is chosen by what it costs there."""


def form_named(name: str) -> Form:
    """The row of the table; raises SpecError where there is none, listing those that there are."""
    if name not in FORMS:
        raise SpecError(f"form is one of {', '.join(FORMS)}; found {name!r}")
    return FORMS[name]
