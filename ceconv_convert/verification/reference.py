"""The float64 reference of a network, whether the original is close to it, and how far rounding may move it.

An output may be far smaller than the features behind it: in the mean of a normalized image nearly everything
cancels. Rounding is relative to the features, and another order of summation rounds otherwise. In the float64
reference, every operator's result y is moved as rounding that does not average out would move it:

    y + eps · max |y| · s, with random signs s, one for each image and channel

A normalization γ (x - μ) / σ is one operator, and rounds μ within: it is moved by eps · max |γ x / σ| too.

What the outputs move by is an error that the original could have had.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ceconv_convert.conversion.derivatives import is_ours
from ceconv_convert.conversion.find import FoundLayer, Refusal
from ceconv_convert.errors import FOREIGN_FAILURES, VerificationError, first_line
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.surgery import copy_model
from ceconv_convert.verification.memory import TooLargeError
from ceconv_convert.verification.outputs import Recording, record, run_module
from ceconv_convert.verification.shapes import as_text, bounded_memory, device_of, dtype_of
from ceconv_convert.verification.tolerance import MULTIPLE, distance, largest, relative_tolerance

_STORED_EPS = 2**8
"""Largest original-to-reference error that is judged, in eps of the storage dtype, …"""
_ARITHMETIC_EPS = 2**16
"""… plus so many eps of the arithmetic, …"""
_MOST = 0.5
"""… and never more than this; all relative to the largest output."""
_NORMALIZATIONS = {
    torch.ops.aten.native_batch_norm.default: 1,
    torch.ops.aten.native_group_norm.default: 1,
    torch.ops.aten.native_layer_norm.default: 2,
}
"""Operators that may take statistics from their input, with the position of γ; else 1/σ is empty."""


class NotRunningError(VerificationError):
    """The original does not run on an input, for a ``reason``."""

    def __init__(self, shape: str, reason: str) -> None:
        super().__init__(f"the original does not run on {shape}: {reason}")
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Networks:
    """The original and its float64 reference, both copies in eval mode.

    ``specs`` are what the color-equivariant layers compute, in float64, by name.
    """

    original: nn.Module
    reference: nn.Module
    specs: Mapping[str, KernelSpec]

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype that the original computes in."""
        return dtype_of(self.original)

    def run_read(self, read: Callable[[], Tensor]) -> Example:
        """Both on what ``read`` gives, which is read again where the example's input is needed."""
        return replace(self.run(read()), read=read)

    def run(self, x: Tensor, names: Collection[str] = (), *, bounded: bool = False) -> Example:
        """Both on an input in the original's dtype, with the steps ``names``.

        Raises:
            NotRunningError: where the original does not run.
            TooLargeError: where it would take too much memory, if ``bounded``.
            VerificationError: where the reference does not run.
        """
        try:
            with bounded_memory(self.original, x) if bounded else nullcontext():
                original = record(self.original, x, names, self.specs)
        except (TooLargeError, VerificationError):  # the latter: outputs that cannot be compared
            raise
        except FOREIGN_FAILURES as error:
            raise NotRunningError(as_text(x.shape), first_line(error)) from error
        try:
            return Example(lambda: x, original, record(self.reference, x.double(), names), self)
        except FOREIGN_FAILURES as error:
            failure = "the network does not run in float64, as the reference needs"
            raise VerificationError(f"{failure}: {first_line(error)}") from error


@dataclass(frozen=True, eq=False)
class Example:
    """An input with what the original and, in float64, the reference give."""

    read: Callable[[], Tensor]
    original: Recording
    reference: Recording
    networks: Networks

    @property
    def input(self) -> Tensor:
        """The input: the same tensor every time, or the user's, which is read again."""
        return self.read()

    @cached_property
    def sensitivity(self) -> list[float]:
        """How far rounding inside the network may move each output; takes another pass of the reference."""
        with Rounding(torch.finfo(self.networks.dtype).eps):
            moved = run_module(self.networks.reference, self.input.double())
        return [distance(found, exact) for found, exact in zip(moved, self.reference.outputs, strict=False)]

    def check_original(self) -> None:
        """Raise VerificationError where the original is further from the reference than rounding explains."""
        pairs = zip(self.original.outputs, self.reference.outputs, strict=True)
        for index, (output, exact) in enumerate(pairs):
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
        for output, repeated in zip(self.original.outputs, again, strict=True):
            if output.shape != repeated.shape or distance(output, repeated) > self._bound(output):
                raise VerificationError(
                    "the original gives another output when it runs again on the same input: it is random in "
                    "eval mode, or keeps state, and nothing can be compared with it"
                )

    def _bound(self, output: Tensor) -> float:
        relative = relative_tolerance(self.networks.dtype, _ARITHMETIC_EPS, stored=_STORED_EPS)
        return min(relative, _MOST) * largest(output)


def make_networks(model: nn.Module, found: Sequence[FoundLayer]) -> Networks:
    """Copies of ``model``, whose layers are ``found``; VerificationError where it has no numbers."""
    lazy = [name for name, tensor in model.state_dict(keep_vars=True).items() if is_lazy(tensor)]
    if lazy:
        raise VerificationError(
            f"{', '.join(lazy)} has no numbers yet: run the model once, so that its lazy modules get them"
        )
    original = copy_model(model).eval()
    if device_of(original).type == "meta":
        raise VerificationError("the model is on the meta device and has no numbers: load its weights first")
    reference = copy_model(model).to(torch.float64).eval()
    specs: dict[str, KernelSpec] = {}
    for layer in found:
        if isinstance(layer.reading, Refusal):
            continue  # it is left as it is in the converted model too
        # Read after the cast, so that products of parameters are formed in float64.
        specs[layer.names[0]] = _use_closed_form(*layer.in_copy(reference))
        if not is_ours(layer.module) and layer.reading.dtype != torch.get_default_dtype():
            # The published forward pass runs in the default dtype alone; that it computes this was probed.
            _use_closed_form(*layer.in_copy(original))
    return Networks(original, reference, specs)


def _use_closed_form(layer: nn.Module, spec: KernelSpec) -> KernelSpec:
    """Replace a layer's forward pass; its attributes and hooks stay, since the network may read them."""
    detached = spec.map(lambda tensor: tensor.detach())

    def forward(input: Tensor) -> Tensor:  # by the layer's own name for it: it may be called by keyword
        return evaluate(detached, input)

    layer.forward = forward
    return detached


class Rounding(TorchDispatchMode):
    """While active, every new floating-point result with a batch is moved by ``eps`` of its largest value.

    Views and changes in place are not.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self._eps = eps
        self._generator = torch.Generator().manual_seed(0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(returned.alias_info is not None for returned in func._schema.returns):
            return result
        if func in _NORMALIZATIONS:
            y, mean, reciprocal = result
            weight = args[_NORMALIZATIONS[func]]
            within = largest(args[0]) * largest(reciprocal) * (1.0 if weight is None else largest(weight))
            return self._moved(y, within), mean, reciprocal
        return tree_map_only(Tensor, self._moved, result)

    def _moved(self, y: Tensor, within: float = 0.0) -> Tensor:
        if not y.is_floating_point() or y.dim() < 2 or not y.numel():
            return y
        signs = torch.randint(0, 2, (*y.shape[:2], *[1] * (y.dim() - 2)), generator=self._generator) * 2 - 1
        return y + self._eps * (largest(y) + within) * signs.to(y.device, y.dtype)
