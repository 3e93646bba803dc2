"""The float64 referee: the network in exact arithmetic, as far as float64 goes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ceconv_convert.kernel.reference import evaluate
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.modules import replace_modules
from ceconv_convert.read import Refusal, find_sites


class ClosedForm(nn.Module):
    """A layer computed by ``kernel.reference``, from a spec in float64."""

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__()
        self.spec = spec.map(lambda tensor: tensor.detach())

    def forward(self, input: Tensor) -> Tensor:
        """``[B, I, N_in, H, W]``, or ``[B, I, H, W]`` for lifting, → ``[B, O, N_out, H', W']``."""
        return evaluate(self.spec, input)


def make_referee(model: nn.Module) -> tuple[nn.Module, dict[str, ClosedForm]]:
    """A float64 copy of ``model`` in eval mode, and its color-equivariant layers by name, in closed form.

    Weights are read after the cast, so that products of parameters are formed in float64.
    """
    exact = copy.deepcopy(model).to(torch.float64).eval()
    layers: dict[str, ClosedForm] = {}
    replacements: dict[nn.Module, nn.Module] = {}
    for site in find_sites(exact):
        if isinstance(site.reading, Refusal):
            continue  # left as it is in the converted model too
        layer = ClosedForm(site.reading.spec).eval()
        replacements[site.module] = layer
        layers[site.names[0]] = layer
    return replace_modules(exact, replacements), layers
