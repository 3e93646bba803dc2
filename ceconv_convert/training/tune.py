"""Time the layers of a network in several forms, each on the shape of input that it gets."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES, InputShapeError, first_line
from ceconv_convert.surgery import copy_model
from ceconv_convert.training.fast_layer import FastForm, set_form

_ROUNDS, _DISCARDED = 9, 2


def fastest_forms(
    model: nn.Module, choices: Mapping[str, Sequence[FastForm]], example: Tensor | tuple[object, ...]
) -> dict[str, FastForm | None]:
    """For each layer, by name, its fastest form of ``choices``; None: that of its own class.

    ``model`` is not changed. Layers of the same shape are timed once; one that is used on several inputs,
    on the first of them.

    Raises:
        InputShapeError: where ``model`` does not run on the example, or not through a layer.
        ConversionError: where it cannot be copied.
    """
    trial = copy_model(model).eval()
    layers = {name: trial.get_submodule(name) for name in choices}
    inputs: dict[nn.Module, Tensor] = {}
    hooks = [layer.register_forward_pre_hook(_note_input(inputs)) for layer in layers.values()]
    arguments = example if isinstance(example, tuple) else (example,)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            trial(*arguments)
    except FOREIGN_FAILURES as error:
        raise InputShapeError(f"the model does not run on the example: {first_line(error)}") from error
    for hook in hooks:
        hook.remove()
    times: dict[tuple[object, ...], FastForm | None] = {}
    found: dict[str, FastForm | None] = {}
    for name, layer in layers.items():
        x = inputs.get(layer)
        if x is None:  # the example does not reach it
            found[name] = choices[name][-1]
            continue
        parameters = [(key, p.shape, p.dtype, p.requires_grad) for key, p in layer.named_parameters()]
        key = (layer.__class__, x.shape, x.dtype, *parameters, layer.extra_repr())
        if key not in times:
            times[key] = _fastest(layer, x, (None, *choices[name]))
        found[name] = times[key]
    return found


def _note_input(inputs: dict[nn.Module, Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.setdefault(layer, arguments[0].detach())

    return hook


def _fastest(layer: nn.Module, x: Tensor, forms: Sequence[FastForm | None]) -> FastForm | None:
    """The form whose median time of forward and backward pass is the shortest; a draw is the first one's."""
    layer.train()
    x = x.clone().requires_grad_(x.is_floating_point())
    seconds: dict[FastForm | None, list[float]] = {form: [] for form in forms}
    for _ in range(_ROUNDS):
        for form in forms:
            set_form(layer, form)
            seconds[form].append(_seconds_of_a_step(layer, x))
    medians = {form: statistics.median(found[_DISCARDED:]) for form, found in seconds.items()}
    return min(forms, key=medians.__getitem__)


def _seconds_of_a_step(layer: nn.Module, x: Tensor) -> float:
    _synchronize(x)
    start = time.perf_counter()
    with torch.enable_grad():
        y = layer.forward(x)  # without the user's hooks
        wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
        torch.autograd.grad(y, wanted, torch.ones_like(y))
    _synchronize(x)
    return time.perf_counter() - start


def _synchronize(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
