"""The float64 referee: the network in exact arithmetic, as far as float64 goes."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn

from ceconv_convert.kernel.reference import evaluate
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.read import Refusal, find_sites


def make_referee(model: nn.Module) -> tuple[nn.Module, dict[str, KernelSpec]]:
    """A float64 copy of ``model`` in eval mode with its layers in closed form, and their specs by name.

    Weights are read after the cast, so that products of parameters are formed in float64. Only the forward
    pass of a layer changes: its attributes and hooks stay for whoever asks.
    """
    exact = copy.deepcopy(model).to(torch.float64).eval()
    specs: dict[str, KernelSpec] = {}
    for site in find_sites(exact):
        if isinstance(site.reading, Refusal):
            continue  # left as it is in the converted model too
        spec = site.reading.spec.map(lambda tensor: tensor.detach())
        site.module.forward = partial(evaluate, spec)
        specs[site.names[0]] = spec
    return exact, specs
