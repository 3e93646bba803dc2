"""Copy modules, replace them inside a model, and find the network inside its wrappers."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES, ConversionError, first_line


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy of ``model``; raises ConversionError where a part of it cannot be copied."""
    # Pruning and legacy weight norm leave computed tensors on a module, and some layers keep them as buffers,
    # which torch refuses to copy. The copy gets their numbers; its next call computes them anew.
    modules = list(model.modules())
    attributes = [value for m in modules for value in (*vars(m).values(), *m._buffers.values())]
    computed = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    memo: dict[int, object] = {id(tensor): tensor.detach().clone() for tensor in computed}
    try:
        return copy.deepcopy(model, memo)
    except FOREIGN_FAILURES as error:
        raise ConversionError(
            f"the model cannot be copied ({first_line(error)}): convert(model, inplace=True) needs no copy"
        ) from error


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """``model``, or its replacement, with modules replaced in place wherever they are registered."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
    return replacements.get(model, model)


def wrapper_prefix(module: nn.Module) -> str:
    """The path of the network inside the wrappers of data parallelism and compilation, with a dot; or "".

    >>> wrapper_prefix(nn.DataParallel(nn.ReLU())), wrapper_prefix(nn.Sequential(nn.ReLU()))
    ('module.', '')
    """
    parallel = isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    name = "module" if parallel else "_orig_mod"
    inner = module._modules.get(name)
    return "" if inner is None else f"{name}.{wrapper_prefix(inner)}"


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside the wrappers of data parallelism and compilation, if there are any.

    >>> unwrapped(nn.DataParallel(nn.ReLU()))
    ReLU()
    """
    return module.get_submodule(wrapper_prefix(module).removesuffix("."))
