"""The float64 reference: the network in exact arithmetic, as far as float64 goes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ceconv_convert.conversion.derivatives import is_ours
from ceconv_convert.conversion.find import FoundLayer
from ceconv_convert.conversion.read_module import Refusal
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.surgery import copy_model


def make_reference(model: nn.Module, found: Sequence[FoundLayer]) -> tuple[nn.Module, dict[str, KernelSpec]]:
    """A float64 copy of ``model`` in eval mode with its layers in closed form, and their specs by name.

    Weights are read after the cast, so that products of parameters are formed in float64.
    """
    exact = copy_model(model).to(torch.float64).eval()
    specs: dict[str, KernelSpec] = {}
    for layer in found:
        if not isinstance(layer.reading, Refusal):  # else it is left as it is in the converted model too
            specs[layer.names[0]] = _close(*layer.in_copy(exact))
    return exact, specs


def make_original(model: nn.Module, found: Sequence[FoundLayer]) -> nn.Module:
    """A copy of ``model`` in eval mode that runs in its own dtype.

    The published layer's forward pass runs in the default dtype alone. In another dtype a layer of a class
    that is not ours computes what its parameters say, which reading it has made sure of.
    """
    original = copy_model(model).eval()
    for layer in found:
        if isinstance(layer.reading, Refusal) or is_ours(layer.module):
            continue
        if layer.reading.dtype != torch.get_default_dtype():
            _close(*layer.in_copy(original))
    return original


def _close(layer: nn.Module, spec: KernelSpec) -> KernelSpec:
    """Put the closed form in place of a layer's forward pass; its attributes and hooks stay for who asks."""
    detached = spec.map(lambda tensor: tensor.detach())

    def forward(input: Tensor) -> Tensor:  # by the layer's own name for it: it may be called by keyword
        return evaluate(detached, input)

    layer.forward = forward
    return detached
