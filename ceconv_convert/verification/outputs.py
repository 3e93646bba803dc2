"""What a network gives: its outputs as a flat tuple of tensors, and the features after each of its steps."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES, VerificationError, first_line
from ceconv_convert.verification.shapes import as_text

Outputs = tuple[Tensor, ...]
StepKey = tuple[str, int]
"""The path of a module, and which of its calls: 0 for the first. The same in every copy of the network."""
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class Step:
    """One call of the module ``name``, which holds no others, with a copy of its output.

    ``sources`` are the positions of the steps whose outputs it takes. Exporters fold a norm into one of them.
    """

    name: str
    call: int
    output: Tensor
    sources: tuple[int, ...]
    is_norm: bool = False

    @property
    def key(self) -> StepKey:
        return (self.name, self.call)

    def __str__(self) -> str:
        name = self.name or "(root)"
        return f"{name} (call {self.call + 1})" if self.call else name


@dataclass(frozen=True, eq=False)
class Recording:
    """One forward pass: its outputs, its steps in order of execution, and the first input of some."""

    outputs: Outputs = ()
    steps: Sequence[Step] = ()
    inputs: dict[StepKey, Tensor] = field(default_factory=dict)

    @cached_property
    def features(self) -> dict[StepKey, Tensor]:
        """The output of each step."""
        return {step.key: step.output for step in self.steps}


def record(
    network: nn.Module, x: Tensor, names: Collection[str] = (), inputs_of: Collection[str] = ()
) -> Recording:
    """Run ``network`` on ``x``, without gradients, and record the calls of the modules ``names``.

    The inputs of ``inputs_of``, which are among them, are kept too.
    """
    steps: list[Step] = []
    inputs: dict[StepKey, Tensor] = {}
    calls: Counter[str] = Counter()
    producers: dict[int, int] = {}
    alive: list[Tensor] = []  # else the ids of tensors that are gone are reused

    def before(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next(iter((*args, *kwargs.values())), None)
        if isinstance(first, Tensor):
            inputs[name, calls[name]] = first.detach().clone()

    def after(
        name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        taken = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if isinstance(output, Tensor) and taken:
            sources = tuple(producers[id(value)] for value in taken if id(value) in producers)
            producers[id(output)] = len(steps)
            alive.extend((*taken, output))
            copy = output.detach().clone()
            steps.append(Step(name, calls[name], copy, sources, isinstance(module, _NORMS)))
            calls[name] += 1

    modules = dict(network.named_modules(remove_duplicate=False))  # an attribute may hide a registered module
    with ExitStack() as hooks:
        for name in names:
            module = modules[name]
            if name in inputs_of:
                hooks.enter_context(module.register_forward_pre_hook(partial(before, name), with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(partial(after, name), with_kwargs=True))
        return Recording(run_module(network, x), steps, inputs)


def run_module(module: Callable[[Tensor], object], x: Tensor) -> Outputs:
    """The outputs of ``module``, or of its forward pass, without gradients."""
    with torch.no_grad():
        return flatten(module(x.clone()))  # a forward pass may work in place


def flatten(outputs: object) -> Outputs:
    """A tensor, or nested tuples, lists and dicts of them, as a flat tuple; complex numbers as pairs.

    Raises:
        VerificationError: for anything else.
    """
    if isinstance(outputs, Tensor):
        return (torch.view_as_real(outputs.resolve_conj()) if outputs.is_complex() else outputs,)
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, (tuple, list)):
        return tuple(tensor for item in outputs if item is not None for tensor in flatten(item))
    raise VerificationError(
        f"the network gives {type(outputs).__name__}, which cannot be compared: expected tensors"
    )


def run_candidate(
    run: Callable[[Tensor], Outputs], x: Tensor, original: Outputs, exact: Outputs
) -> Outputs | str:
    """A candidate's outputs on ``x``, or why they cannot be compared with the original's by number."""
    try:
        outputs = run(x)
    except FOREIGN_FAILURES as failure:
        return f"it does not run on {as_text(x.shape)}: {first_line(failure)}"
    if len(outputs) != len(original):
        return f"it gives {len(outputs)} outputs, the original {len(original)}"
    for found, own, truth in zip(outputs, original, exact, strict=True):
        if found.shape != own.shape:
            return f"it gives shape {as_text(found.shape)}, the original {as_text(own.shape)}"
        if found.dtype != own.dtype:
            return f"it gives {found.dtype}, the original {own.dtype}"
        for tensor, whose in ((truth, "the reference"), (own, "the original"), (found, "it")):
            if not bool(torch.isfinite(tensor).all()):
                return f"{whose} gives NaN or Inf"
    return outputs


def leaf_names(network: nn.Module, layers: Collection[str]) -> list[str]:
    """The modules that hold no others; a color-equivariant layer is one, whatever it holds."""
    inside = tuple(f"{name}." if name else "" for name in layers)
    return [
        name
        for name, module in network.named_modules()
        if name in layers or not (any(module.children()) or (inside and name.startswith(inside)))
    ]
