"""What training wraps around a network and deployment has no use for."""

from __future__ import annotations

from torch import nn

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def names_inside(name: str) -> tuple[str, str]:
    """A path as it is, and as it would be inside a wrapper.

    >>> names_inside("module.conv1.weight")
    ('module.conv1.weight', 'conv1.weight')
    """
    return (name, name.partition(".")[2])


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside the wrappers of data parallelism and compilation, if there are any.

    >>> unwrapped(nn.DataParallel(nn.ReLU()))
    ReLU()
    """
    while True:
        name = "module" if isinstance(module, _PARALLEL) else "_orig_mod"
        inner = module._modules.get(name)
        if inner is None:
            return module
        module = inner
