"""A layer with a faster forward pass, and the parameters, attributes and name that it had.

Its class becomes a subclass of its own class. ``__class__`` goes on naming the latter: so a pickle has the
layer as it was, and whoever exchanges a module's class (parametrizations do) begins with that one.
"""

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.kernel.expand import expand_cyclic, expand_lifting, fold
from ceconv_convert.kernel.rotation_major import flatten_rotations, unflatten_rotations
from ceconv_convert.kernel.spec import normalize_padding, normalize_pair, split_padding
from ceconv_convert.training.fourier_convolution import (
    Transforms,
    fourier_convolution,
    transformed_weight,
    transforms_of,
)

FastForm = Literal["direct", "fourier"]

_set_class = vars(object)["__class__"].__set__
_classes: dict[tuple[type, FastForm, int], type[nn.Module]] = {}
_kept: WeakKeyDictionary[nn.Module, tuple[list[object], list[Tensor], Tensor]] = WeakKeyDictionary()
"""By layer: what tells whether its parameters have changed, and the weight that was computed from them."""


class FastLayer(nn.Module):
    """What the class of an accelerated layer has beside those of the layer's own class."""

    own_class: ClassVar[type[nn.Module]]
    fast_form: ClassVar[FastForm]
    transforms: ClassVar[Transforms]

    weight: Tensor
    transformation_matrix: Tensor
    bias: Tensor | None
    in_channels: int
    in_rotations: int
    out_rotations: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:
        """``[B, I, N_in, H, W]``, or flat, ``[B, I·N_in, H, W]``, → ``[B, O, N_out, H', W']``, contiguous."""
        device = input.device.type
        if input.is_meta or input.dtype == torch.float64 or not torch.is_autocast_enabled(device):
            return self._convolve(input, self._effective_weight())
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            # The weight is computed in its own dtype, and rounded once.
            return self._convolve(input.to(dtype), self._effective_weight().to(dtype))

    def _convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        kernel, stride = normalize_pair(self.kernel_size), normalize_pair(self.stride)
        padding, excess = split_padding(normalize_padding(self.padding, kernel, stride))
        if any(excess):
            features = F.pad(features, excess)
        bias = None if self.bias is None else self.bias.to(features.dtype)
        if self.fast_form == "fourier":
            x = unflatten_rotations(features, self.in_channels, self.in_rotations)
            y = fourier_convolution(x, weight, self.transforms, stride, padding)
            return y if bias is None else y + bias.view(-1, 1, 1, 1)
        if bias is not None:
            bias = bias.repeat_interleave(self.out_rotations, 0)
        y = F.conv2d(flatten_rotations(features), weight, bias, stride, padding).contiguous()
        return torch.unflatten(y, 1, (-1, self.out_rotations))

    def _effective_weight(self) -> Tensor:
        """As ``_convolve`` takes it; in eval mode it is kept until a parameter changes."""
        if self.training or torch.compiler.is_compiling():
            return self._compute_weight()
        named = [
            self._parameters.get(name) for name in ("weight", "pointwise_weight", "transformation_matrix")
        ]
        sources = [source for source in named if source is not None]
        if not sources or not all(_can_be_watched(source) for source in sources):
            return self._compute_weight()
        with torch.no_grad(), torch.inference_mode(False):
            versions: list[object] = [(s.data_ptr(), s._version, s.shape, s.dtype) for s in sources]
            # Through p.data numbers change and the version stays.
            sums = [source.detach().flatten(1).sum(1) for source in sources]
            kept = _kept.get(self)
            if kept is None or kept[0] != versions or not all(map(torch.equal, kept[1], sums)):
                kept = _kept[self] = (versions, sums, self._compute_weight())
        return kept[2]

    def _compute_weight(self) -> Tensor:
        pointwise: Tensor | None = getattr(self, "pointwise_weight", None) if self.in_rotations > 1 else None
        if self.fast_form == "fourier":
            return transformed_weight(self.weight, pointwise, self.transforms)
        if self.in_rotations == 1:
            return fold(expand_lifting(self.weight, self.transformation_matrix, self.out_rotations))
        weight = self.weight if pointwise is None else pointwise * self.weight
        return fold(expand_cyclic(weight, self.out_rotations))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, computed by {describe(self.fast_form, self.in_rotations)}"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reduced: Any = super().__reduce_ex__(protocol)
        function, arguments, *state = reduced
        own = self.own_class
        return (function, tuple(own if each is type(self) else each for each in arguments), *state)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        copied: nn.Module
        own: Callable[[dict[int, Any]], nn.Module] | None = getattr(super(), "__deepcopy__", None)
        if own is not None:
            copied = own(memo)
        else:
            copied = memo[id(self)] = self.own_class.__new__(self.own_class)
            copied.__setstate__(copy.deepcopy(vars(self), memo))
        _set_class(copied, type(self))
        return copied


def describe(form: FastForm, rotations: object) -> str:
    """A form in a word or two, with what it saves."""
    if form == "direct" or not isinstance(rotations, int):
        return form
    return f"{form}, {len(transforms_of(rotations)[0])} convolutions for {rotations**2}"


def set_form(module: nn.Module, form: FastForm | None) -> None:
    """Let a layer compute in a form; None: as its own class does."""
    own: type[nn.Module] = module.__class__
    rotations: Any = module.in_rotations
    _set_class(module, own if form is None else _class_of(own, form, rotations))
    _kept.pop(module, None)


def form_of(module: nn.Module) -> FastForm | None:
    """The form that a layer computes in; None: as its own class does."""
    return module.fast_form if isinstance(module, FastLayer) else None


def _class_of(own: type[nn.Module], form: FastForm, rotations: int) -> type[nn.Module]:
    key = (own, form, rotations)
    if key not in _classes:
        members = {
            "__module__": own.__module__,
            "__qualname__": own.__qualname__,
            "__doc__": own.__doc__,
            "__class__": property(lambda self: own, _set_class),
            "own_class": own,
            "fast_form": form,
            "transforms": transforms_of(rotations) if form == "fourier" else (),
        }
        metaclass: Any = type(own)
        _classes[key] = metaclass(own.__name__, (FastLayer, own), members)
    return _classes[key]


def _can_be_watched(parameter: Tensor) -> bool:
    """Whether every change of a parameter can be seen, at little cost, and nobody asks for its gradient."""
    plain = (
        type(parameter) is nn.Parameter and parameter.device.type == "cpu" and not parameter.is_inference()
    )
    return plain and not (parameter.requires_grad and torch.is_grad_enabled())
