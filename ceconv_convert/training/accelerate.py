"""Give the layers of a network faster forward and backward passes, in place; parameters stay."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ceconv_convert.conversion.derivatives import derivative_reason
from ceconv_convert.conversion.find import FoundLayer, Refusal, find_layers, is_candidate, read_again
from ceconv_convert.errors import NothingToConvertError, SpecError
from ceconv_convert.kernel.cyclic_fourier import fourier_applies
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.training.fast_layer import FastForm, describe, form_of, set_form
from ceconv_convert.training.fourier_convolution import transforms_of
from ceconv_convert.training.tune import fastest_forms

_PUBLISHED = "as published"
_LEAST_SAVED = 80
"""Multiplications for each number that is mixed: there both forms took the same time on AVX-512 cores."""


@dataclass(frozen=True)
class AcceleratedLayer:
    """A layer of the model: its first name, how it is computed, and why not otherwise if it was refused."""

    name: str
    computed: str
    refusal: str | None = None

    def __str__(self) -> str:
        because = "" if self.refusal is None else f" ({self.refusal})"
        return f"{self.name or 'the root module'}: {self.computed}{because}"


@dataclass(frozen=True)
class Acceleration:
    """What ``accelerate`` did, a row for each layer; printed, a line for each."""

    rows: tuple[AcceleratedLayer, ...]

    @property
    def refused(self) -> tuple[AcceleratedLayer, ...]:
        """The layers that were left as they are."""
        return tuple(row for row in self.rows if row.refusal is not None)

    def __str__(self) -> str:
        return "\n".join(map(str, self.rows))


def accelerate(
    model: nn.Module, *, tune: Tensor | tuple[object, ...] | None = None, undo: bool = False
) -> Acceleration:
    """Let every color-equivariant layer of ``model`` compute what it does in less time, in place.

    Modules, parameters, buffers and their names stay the very same; so do hooks, modes and the classes that
    pickles name. Outputs and gradients are the same up to rounding. Cyclic layers become Fourier products
    over the rotations (docs/math.md), others one convolution with all rotations of the kernel, as published.
    Copies of the model compute alike; a model from a pickle is as it was before, and may be accelerated.

    Args:
        model: any module with layers that ``convert`` takes, or such a layer. Layers that it refuses stay as
            they are.
        tune: an input, or a tuple of the arguments, of ``model``. Forward and backward pass of each layer are
            then timed on the shapes that it gets from it, in every form, and the fastest is taken. By default
            the layer's shape decides.
        undo: let all layers compute as before.

    Returns:
        A row for each layer: printed, it says how each one is computed, as ``print(model)`` does.

    Raises:
        NothingToConvertError: where there is no such layer.
        SpecError: for a layer whose parameters do not fit its attributes, or are on several devices.
        InputShapeError: where ``model`` does not run on ``tune``.
        ConversionError: where ``tune`` is given, and ``model`` cannot be copied to run it.

    After an error the model is as it was.

    >>> from ceconv_convert import CEConv2d
    >>> model = nn.Sequential(CEConv2d(1, 3, 3, 32, 3), CEConv2d(3, 3, 32, 32, 3))
    >>> print(accelerate(model))
    0: direct
    1: fourier, 4 convolutions for 9
    >>> print(accelerate(model, undo=True))
    0: as published
    1: as published
    """
    if tune is not None and undo:
        raise SpecError("nothing is to be tuned where undo=True: pass one of the two")
    _check_parameters(model)
    found = find_layers(model)
    if not found:
        raise NothingToConvertError("there is nothing to accelerate: the model has no CEConv2d layer")
    found = tuple(_as_refused(layer) for layer in found)
    taken = [layer for layer in found if not isinstance(layer.reading, Refusal)]
    forms: Mapping[str, FastForm | None] = {}
    if undo:
        forms = {layer.names[0]: None for layer in taken}
    elif tune is None:
        forms = {layer.names[0]: _form_for(layer.reading) for layer in taken}
    else:
        choices = {layer.names[0]: _choices(layer.reading) for layer in taken}
        forms = fastest_forms(model, choices, tune)
    for layer in taken:
        set_form(layer.module, forms[layer.names[0]])
    return Acceleration(tuple(map(_row, found)))


def _as_refused(layer: FoundLayer) -> FoundLayer:
    """A layer with a forward pass that is none of the published one's stays as it is."""
    if isinstance(layer.reading, Refusal) or not layer.reading.group_major:
        return layer
    return replace(layer, reading=Refusal("it is group-major: its features are flat, hues first"))


def _check_parameters(model: nn.Module) -> None:
    """Raise where a layer cannot work at all, however it is computed."""
    for name, module in model.named_modules():
        if not is_candidate(module):
            continue
        place = name or "the root module"
        devices = sorted({str(parameter.device) for parameter in module.parameters()})
        if len(devices) > 1:
            raise SpecError(f"{place} has parameters on {' and '.join(devices)}: move it to one device first")
        try:
            if derivative_reason(module) is None:
                read_again(module)
        except SpecError as error:
            raise SpecError(f"{place} cannot be accelerated: {error}") from error


def _choices(spec: KernelSpec | Refusal) -> tuple[FastForm, ...]:
    """The forms that compute what a layer does."""
    fits = isinstance(spec, KernelSpec) and fourier_applies(spec)
    return ("direct", "fourier") if fits else ("direct",)


def _form_for(spec: KernelSpec | Refusal) -> FastForm:
    """The Fourier form where it saves enough multiplications for the features that it mixes."""
    form = _choices(spec)[-1]
    if form == "direct" or not isinstance(spec, KernelSpec):
        return form
    products, rotations = len(transforms_of(spec.in_rotations)[0]), spec.in_rotations
    saved = (rotations**2 - products) * math.prod(spec.kernel_size) * spec.in_channels * spec.out_channels
    mixed = (rotations + products) * (math.prod(spec.stride) * spec.in_channels + spec.out_channels)
    return form if saved >= _LEAST_SAVED * mixed else "direct"


def _row(layer: FoundLayer) -> AcceleratedLayer:
    form = form_of(layer.module)
    computed = _PUBLISHED if form is None else describe(form, layer.module.in_rotations)
    refusal = layer.reading.reason if isinstance(layer.reading, Refusal) else None
    return AcceleratedLayer(layer.names[0], computed, refusal)
