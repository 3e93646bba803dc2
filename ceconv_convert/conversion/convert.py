"""Replace every color-equivariant layer of a model by its form."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from ceconv_convert.conversion.find import FoundLayer, Refusal, find_layers
from ceconv_convert.conversion.plan import Plan, plan_layers
from ceconv_convert.errors import NothingToConvertError, RefusedLayerError
from ceconv_convert.forms.table import form_named
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.surgery import copy_model, replace_modules

_HOOKS = {name for name in vars(nn.Module()) if "ward" in name and "hook" in name}
"""Of forward and backward passes."""


def convert(
    model: nn.Module,
    form: str = "conv3d",
    *,
    inplace: bool = False,
    strict: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """A model that computes the same without ``CEConv2d``.

    Every layer keeps its attribute name, dtype, device, ``requires_grad``, mode and hooks; a module in two
    places stays one, and tied parameters stay tied. The root itself may be a layer. A parametrized weight
    becomes the weight that it acts as, in eval mode.

    Args:
        model: any module.
        form: ``conv3d`` (circular), ``conv2d`` (expanded) or ``fourier`` (fewest multiplications).
        inplace: replace the layers inside ``model``; otherwise ``model`` is copied, and left as it was.
        strict: raise where a layer is refused; otherwise leave it, and ``plan`` says so.
        progress: called with layers done and layers in all.

    Returns:
        The converted model: ``model`` itself if ``inplace``, unless the root was a layer.

    Raises:
        NothingToConvertError: where there is no layer (left) to convert.
        RefusedLayerError: where a layer is refused and ``strict``.
        ConversionError: where ``model`` cannot be copied.
        SpecError: for a form that does not exist.

    >>> import torch
    >>> from ceconv_convert import CEConv2d
    >>> converted = convert(nn.Sequential(CEConv2d(1, 3, 3, 8, 3), CEConv2d(3, 3, 8, 4, 3)))
    >>> converted[1].weight.shape, converted(torch.zeros(1, 3, 9, 9)).shape
    (torch.Size([4, 8, 3, 3, 3]), torch.Size([1, 4, 3, 5, 5]))
    """
    build = form_named(form).build
    found = find_layers(model)
    check_plan(plan_layers(model, found, form), strict=strict)
    return replace_layers(model if inplace else copy_model(model), found, build, progress)


def replace_layers(
    model: nn.Module,
    found: Iterable[FoundLayer],
    build: Callable[[KernelSpec], nn.Module],
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """``model`` with what ``build`` makes of each spec, in place; refused layers stay.

    ``found`` are the layers of ``model``, or of the model that it is a copy of.
    """
    taken = [each for each in found if not isinstance(each.reading, Refusal)]
    replacements: dict[nn.Module, nn.Module] = {}
    tied: dict[tuple[object, ...], list[nn.Parameter]] = {}
    for done, each in enumerate(taken):
        with torch.inference_mode(False), torch.enable_grad():  # requires_grad follows through the algebra
            source, spec = each.in_copy(model)
            layer = build(spec)
        layer.train(source.training)
        vars(layer).update((name, value) for name, value in vars(source).items() if name in _HOOKS)
        _share_tied_parameters(layer, source, tied)
        replacements[source] = layer
        if progress is not None:
            progress(done + 1, len(taken))
    return replace_modules(model, replacements)


def check_plan(plan: Plan, *, strict: bool = True) -> None:
    """Raise where a plan has nothing to convert, or refuses a layer and ``strict``."""
    if not plan.rows:
        if plan.converted:
            layers = "its layer is" if plan.converted == 1 else f"all {plan.converted} layers are"
            raise NothingToConvertError(f"nothing is left to convert: {layers} converted already")
        raise NothingToConvertError("there is nothing to convert: the model has no CEConv2d layer")
    if strict and plan.refused:
        reasons = "; ".join(f"{row.name or 'the root module'}: {row.refusal}" for row in plan.refused)
        count = f"{len(plan.refused)} of {len(plan)} layers cannot be converted exactly"
        raise RefusedLayerError(f"{count}: {reasons}")


def _share_tied_parameters(
    layer: nn.Module, source: nn.Module, made: dict[tuple[object, ...], list[nn.Parameter]]
) -> None:
    """Use an earlier layer's parameters where they were computed from the same ones and have the same values.

    Equal values alone are no tie; nor are the same origins, since a frozen color matrix is none of them.
    """
    old, new = (dict(module.named_parameters(recurse=False)) for module in (source, layer))
    bias, matrix = old.pop("bias", None), old.get("transformation_matrix")
    if matrix is not None and ("transformation_matrix" in new or not matrix.requires_grad):
        del old["transformation_matrix"]  # else it is computed into the weight
    for name, parents in (("weight", old.values()), ("bias", () if bias is None else (bias,))):
        if not parents or name not in new:  # parametrized: computed anew for each layer
            continue
        candidates = made.setdefault((type(layer), name, *map(id, parents)), [])
        twin = next((other for other in candidates if torch.equal(other, new[name])), None)
        if twin is None:
            candidates.append(new[name])
        else:
            setattr(layer, name, twin)
