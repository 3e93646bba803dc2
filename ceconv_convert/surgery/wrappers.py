"""What training wraps around a network and deployment has no use for."""

from __future__ import annotations

from torch import nn

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def wrapper_prefix(module: nn.Module) -> str:
    """The path of the network inside the wrappers of data parallelism and compilation, with a dot; or "".

    >>> wrapper_prefix(nn.DataParallel(nn.ReLU())), wrapper_prefix(nn.Sequential(nn.ReLU()))
    ('module.', '')
    """
    prefix = ""
    while (found := _inside(module)) is not None:
        name, module = found
        prefix += f"{name}."
    return prefix


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside the wrappers of data parallelism and compilation, if there are any.

    >>> unwrapped(nn.DataParallel(nn.ReLU()))
    ReLU()
    """
    while (found := _inside(module)) is not None:
        _, module = found
    return module


def _inside(module: nn.Module) -> tuple[str, nn.Module] | None:
    """The name and the module that a wrapper is around; None where ``module`` is no wrapper."""
    name = "module" if isinstance(module, _PARALLEL) else "_orig_mod"
    inner = module._modules.get(name)
    return None if inner is None else (name, inner)
