"""One layer by itself: on random signs, and on what it sees inside the network.

Judged channel by channel, each against the rounding that its own sums can have: a channel of small weights is
held to small errors.

With x = ± a everywhere the absolute products behind an output add up to a · Σ |w| + |b|, channel by channel.
A kernel whose products are far below its bias would be lost in the rounding of that; a makes them alike.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.spec import KernelSpec, scale_and_shift, scaled
from ceconv_convert.verification.outputs import run_candidate, run_module
from ceconv_convert.verification.tolerance import Measure, distance, distances, largest, relative_tolerance
from ceconv_convert.verification.verdict import LayerCheck

_LONG_STRIDE = 32
"""A layer is judged on two steps of strides up to here, on one of strides twice as long."""
_STORED_EPS = 4
"""Largest error of an original layer that is judged, in eps of the storage dtype, …"""
_ARITHMETIC_EPS = 2**10
"""… plus so many eps of the arithmetic, relative to the largest output."""


@dataclass(frozen=True, eq=False)
class LayerExample:
    """One input of a layer, with the outputs of the original and of its closed form, ``[B, O, N_out, H, W]``.

    ``sums_of_products`` are the largest sums of absolute products behind an output, of each channel, ``[O]``.
    """

    input: Tensor
    original: Tensor
    exact: Tensor
    sums_of_products: Tensor


def signs(shape: Sequence[int], seed: int, magnitude: float, dtype: torch.dtype) -> Tensor:
    """± ``magnitude``, seeded."""
    random = torch.randint(0, 2, tuple(shape), generator=torch.Generator().manual_seed(seed))
    return ((2 * random - 1) * magnitude).to(dtype)


def magnitude_for(spec: KernelSpec, dtype: torch.dtype) -> float:
    """A power of two, at least 1: with it the products of every channel's kernel add up to its bias, or more.

    Bounded so that sums stay far from overflow in ``dtype``.

    >>> from ceconv_convert.kernel.spec import CyclicSpec
    >>> weight, bias = torch.ones(1, 1, 3, 1, 1), torch.tensor([12.0])
    >>> magnitude_for(CyclicSpec(weight, bias, 3, (1, 1), ((0, 0), (0, 0))), torch.float32)
    4.0
    """
    products = spec.weight.abs().flatten(1).sum(1)  # [O]
    there = products > 0
    if spec.bias is None or not bool(there.any()):
        return 1.0
    wanted = float((spec.bias.abs()[there] / products[there]).max())
    most = math.sqrt(torch.finfo(dtype).max) / float(products.max())
    return 2.0 ** max(0, math.ceil(math.log2(max(1.0, min(wanted, most)))))


def example_on_signs(layer: nn.Module, spec: KernelSpec, seed: int, like: Tensor) -> LayerExample:
    """A layer on signs, a few pixels more than its kernel and its stride, in the dtype of ``like``."""
    rows, columns = spec.kernel_size
    down, right = (min(stride, _LONG_STRIDE) for stride in spec.stride)
    size = (rows + 2 * down + 3, columns + 2 * right + 4)
    magnitude = magnitude_for(spec, like.dtype)
    x = signs(spec.input_shape(2, size), seed, magnitude, like.dtype).to(like.device)
    return layer_example(layer, spec, x, magnitude=magnitude)


def layer_example(
    layer: nn.Module,
    spec: KernelSpec,
    x: Tensor,
    norms: Sequence[tuple[_BatchNorm, bool]] = (),
    magnitude: float | None = None,
) -> LayerExample:
    """A layer of the original on ``x``, by its forward pass alone: hooks are no part of what is converted.

    ``norms`` are batch norms that follow and are judged with it, each with whether it shifts. Where ``x`` is
    signs, ``magnitude`` is theirs.
    """
    with torch.no_grad():
        original, exact = layer.forward(x.clone()), spec
        for norm, shifts in norms:
            scale, shift = _scale_and_shift(norm)
            exact = scaled(exact, scale, shift if shifts else None)
            original = original * scale.view(-1, 1, 1, 1).to(x.dtype)
            original = original + shift.view(-1, 1, 1, 1).to(x.dtype) if shifts else original
        absolute, largest_input = exact.map(torch.abs), x.double().abs()
        if magnitude is not None:  # all windows without zeros are alike
            absolute = replace(absolute, padding=((0, 0), (0, 0)))
            shape = spec.input_shape(1, spec.kernel_size)
            largest_input = torch.full(shape, magnitude, dtype=spec.dtype, device=spec.weight.device)
        sums = evaluate(absolute, largest_input).flatten(2).amax((0, 2)).cpu()
        return LayerExample(x, original, evaluate(exact, x.double()), sums)


def _scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    if norm.running_var is None or norm.running_mean is None:
        raise ValueError("a batch norm without statistics is none in eval mode")
    variance = norm.running_var.double()
    gamma = torch.ones_like(variance) if norm.weight is None else norm.weight.double()
    beta = torch.zeros_like(variance) if norm.bias is None else norm.bias.double()
    return scale_and_shift(gamma, beta, norm.running_mean.double(), variance, norm.eps)


def check_layer(name: str, run: Callable[[Tensor], Tensor], *examples: LayerExample) -> LayerCheck:
    """A converted layer against the original, on signs and then on what it sees inside the network."""
    measures: list[Measure] = []
    problem = None
    for example in examples:
        measure = _measure(run, example)
        if isinstance(measure, str):
            return LayerCheck(name, measure, measures[0] if measures else None)
        measures.append(measure)
        problem = measure.problem
        if problem is not None:
            break
    worst = max(measures[1:], key=lambda measure: measure.error_over_tolerance, default=None)
    return LayerCheck(name, problem, measures[0], worst)


def check_alone(name: str, found: Tensor, example: LayerExample) -> LayerCheck:
    """The output ``found`` of a layer of a file that ran by itself on the input of ``example``."""
    return check_layer(name, lambda _: found, example)


def _measure(run: Callable[[Tensor], Tensor], example: LayerExample) -> Measure | str:
    """The measure of the channel that comes closest to its tolerance, or why there is none."""
    exact, dtype = example.exact, example.input.dtype
    own = distance(example.original, exact)
    bound = relative_tolerance(dtype, _ARITHMETIC_EPS, stored=_STORED_EPS) * largest(exact)
    if not own <= max(bound, relative_tolerance(dtype) * float(example.sums_of_products.max())):
        # It would widen the tolerance until anything passes.
        return f"the original is {own:.1e} from its own closed form"
    outputs = run_candidate(partial(run_module, run), example.input, (example.original,), (exact,))
    if isinstance(outputs, str):
        return outputs
    (found,) = outputs
    columns = (distances(found, exact), distances(example.original, exact), exact.abs())
    errors, originals, scales = (column.flatten(2).amax((0, 2)).tolist() for column in columns)
    channels = zip(errors, originals, scales, example.sums_of_products.tolist(), strict=True)
    measures = [Measure(error, own, scale, found.dtype, sum_) for error, own, scale, sum_ in channels]
    return max(measures, key=lambda measure: measure.error_over_tolerance)
