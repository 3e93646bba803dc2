"""The float64 reference of a network, and whether the original is close enough to it to be a measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ceconv_convert.conversion.derivatives import is_ours
from ceconv_convert.conversion.find import FoundLayer
from ceconv_convert.conversion.read_module import Refusal
from ceconv_convert.errors import VerificationError
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.surgery import copy_model
from ceconv_convert.verification.outputs import Outputs, distance, largest, run_module
from ceconv_convert.verification.sensitivity import output_sensitivity
from ceconv_convert.verification.shapes import device_of, dtype_of
from ceconv_convert.verification.tolerance import MULTIPLE, relative_tolerance

_STORED_EPS = 2**8
"""Largest original-to-reference error that is judged, in eps of the storage dtype, …"""
_ARITHMETIC_EPS = 2**16
"""… plus so many eps of the arithmetic, …"""
_MOST = 0.5
"""… and never more than this; all relative to the largest output."""


@dataclass(frozen=True, eq=False)
class Networks:
    """The original and its float64 reference, both copies in eval mode.

    Attributes:
        original: runs in its own dtype.
        reference: has its color-equivariant layers in closed form.
        specs: what these layers compute, in float64, by name.
    """

    original: nn.Module
    reference: nn.Module
    specs: Mapping[str, KernelSpec]

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype that the original computes in."""
        return dtype_of(self.original)

    @cached_property
    def device(self) -> torch.device:
        """Of both."""
        return device_of(self.original)

    def run(self, x: Tensor) -> Example:
        """Both on an input in the original's dtype."""
        return Example(x, run_module(self.original, x), run_module(self.reference, x.double()), self)


@dataclass(frozen=True, eq=False)
class Example:
    """An input with the outputs of the original and, in float64, of the reference."""

    input: Tensor
    original: Outputs
    exact: Outputs
    networks: Networks

    @cached_property
    def sensitivity(self) -> list[float]:
        """How far rounding inside the network may move each output; takes another pass of the reference."""
        eps = torch.finfo(self.networks.dtype).eps
        return output_sensitivity(self.networks.reference, self.input, self.exact, eps)

    def check_original(self) -> None:
        """Raise VerificationError where the original is further from the reference than rounding explains."""
        for index, (output, exact) in enumerate(zip(self.original, self.exact, strict=True)):
            if not output.dtype.is_floating_point or output.shape != exact.shape:
                continue  # compared for equality; the verdict says so
            error = distance(output, exact)
            if error > self._bound(exact) and not error <= MULTIPLE * self.sensitivity[index]:
                raise VerificationError(
                    f"the original is {error:.1e} from its own float64 reference, on outputs up to "
                    f"{largest(exact):.1e}: too far to judge anything by it"
                )

    def check_repeatable(self) -> None:
        """Raise VerificationError where the original gives other outputs when it runs again."""
        again = run_module(self.networks.original, self.input)
        for output, repeated in zip(self.original, again, strict=True):
            if output.shape != repeated.shape or distance(output, repeated) > self._bound(output):
                raise VerificationError(
                    "the original gives another output when it runs again on the same input: it is random in "
                    "eval mode, or keeps state, and nothing can be compared with it"
                )

    def _bound(self, output: Tensor) -> float:
        relative = relative_tolerance(self.networks.dtype, _ARITHMETIC_EPS, stored=_STORED_EPS)
        return min(relative, _MOST) * largest(output)


def make_networks(model: nn.Module, found: Sequence[FoundLayer]) -> Networks:
    """Copies of ``model``, whose color-equivariant layers are ``found``.

    Raises:
        VerificationError: where it has no numbers.
    """
    lazy = [name for name, tensor in model.state_dict(keep_vars=True).items() if is_lazy(tensor)]
    if lazy:
        raise VerificationError(
            f"{', '.join(lazy)} has no numbers yet: run the model once, so that its lazy modules get them"
        )
    original = _make_original(model, found)
    if device_of(original).type == "meta":
        raise VerificationError("the model is on the meta device and has no numbers: load its weights first")
    return Networks(original, *_make_reference(model, found))


def _make_reference(model: nn.Module, found: Sequence[FoundLayer]) -> tuple[nn.Module, dict[str, KernelSpec]]:
    """Weights are read after the cast, so that products of parameters are formed in float64."""
    reference = copy_model(model).to(torch.float64).eval()
    specs: dict[str, KernelSpec] = {}
    for layer in found:
        if not isinstance(layer.reading, Refusal):  # else it is left as it is in the converted model too
            specs[layer.names[0]] = _use_closed_form(*layer.in_copy(reference))
    return reference, specs


def _make_original(model: nn.Module, found: Sequence[FoundLayer]) -> nn.Module:
    """The published layer's forward pass runs in the default dtype alone.

    In another dtype a layer of a class that is not ours computes in closed form: reading it has made sure
    that this is what it computes.
    """
    original = copy_model(model).eval()
    for layer in found:
        if isinstance(layer.reading, Refusal) or is_ours(layer.module):
            continue
        if layer.reading.dtype != torch.get_default_dtype():
            _use_closed_form(*layer.in_copy(original))
    return original


def _use_closed_form(layer: nn.Module, spec: KernelSpec) -> KernelSpec:
    """Replace a layer's forward pass; its attributes and hooks stay, since the network may read them."""
    detached = spec.map(lambda tensor: tensor.detach())

    def forward(input: Tensor) -> Tensor:  # by the layer's own name for it: it may be called by keyword
        return evaluate(detached, input)

    layer.forward = forward
    return detached
