"""What a network computes on its way: the output of every leaf module, in the order of execution."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

StepKey = tuple[str, int]
"""The path of a module, and which of its calls."""
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class Step:
    """One call of a leaf module.

    Attributes:
        name: the module's path.
        call: 0 for its first call, 1 for its second, …
        input: what it was called with.
        output: what it gave; a copy, since later modules may work in place.
        sources: positions of the steps whose outputs are its inputs.
        is_norm: whether it scales and shifts, which exporters fold into what comes before.
    """

    name: str
    call: int
    input: Tensor
    output: Tensor
    sources: tuple[int, ...]
    is_norm: bool = False

    @property
    def key(self) -> StepKey:
        """The same in every copy of the network."""
        return (self.name, self.call)

    def __str__(self) -> str:
        name = self.name or "(root)"
        return f"{name} (call {self.call + 1})" if self.call else name


def leaf_names(network: nn.Module, layers: Collection[str]) -> list[str]:
    """The modules that hold no others; a color-equivariant layer is one, whatever it holds."""
    inside = tuple(f"{name}." if name else "" for name in layers)
    return [
        name
        for name, module in network.named_modules()
        if name in layers or not (any(module.children()) or (inside and name.startswith(inside)))
    ]


def record(network: nn.Module, x: Tensor, names: Collection[str]) -> list[Step]:
    """Run ``network`` on ``x`` and keep what the modules ``names`` give. Hooks are removed afterwards."""
    steps: list[Step] = []
    producers: dict[int, int] = {}
    alive: list[Tensor] = []  # the ids of tensors that are gone are given to others
    calls: dict[str, int] = {}
    handles = []

    def keep(name: str, module: nn.Module, inputs: list[object], output: object) -> None:
        tensors = [item for item in inputs if isinstance(item, Tensor)]
        if not isinstance(output, Tensor) or not tensors:
            return
        call = calls.get(name, 0)
        calls[name] = call + 1
        sources = tuple(producers[id(item)] for item in tensors if id(item) in producers)
        producers[id(output)] = len(steps)
        alive.extend((*tensors, output))
        before, after = seen.pop(name, tensors[0]), output.detach().clone()
        steps.append(Step(name, call, before, after, sources, isinstance(module, _NORMS)))

    seen: dict[str, Tensor] = {}

    def see(name: str, inputs: list[object]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            seen[name] = inputs[0].detach().clone()

    modules = dict(network.named_modules(remove_duplicate=False))  # an attribute may hide a registered module
    for name in names:
        module = modules[name]
        handles.append(
            module.register_forward_pre_hook(
                lambda _, inputs, named, name=name: see(name, [*inputs, *named.values()]), with_kwargs=True
            )
        )
        handles.append(
            module.register_forward_hook(
                lambda module, inputs, named, output, name=name: keep(
                    name, module, [*inputs, *named.values()], output
                ),
                with_kwargs=True,
            )
        )
    try:
        with torch.no_grad():
            network(x.clone())
    finally:
        for handle in handles:
            handle.remove()
    return steps
