"""Where the color-equivariant layers of a model are, and what each computes: found once, then known by name.

A module's spec follows what its forward pass computes: ``stride`` and ``padding`` count; ``dilation``,
``groups`` and ``padding_mode`` are declared by the published layer and ignored by its forward pass. A layer
of another class than ours is run on a small random input, and has to agree with its spec.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ceconv_convert.conversion.derivatives import CLASS_NAMES, REFUSED_CLASSES, derivative_reason, is_ours
from ceconv_convert.conversion.hue_saturation import hue_saturation_spec, is_hue_saturation
from ceconv_convert.errors import FOREIGN_FAILURES, SpecError, first_line, shown
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.kernel import spec as specs
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.spec import CyclicSpec, KernelSpec, LiftingSpec, SeparableSpec
from ceconv_convert.surgery import copy_model

_TOLERANCE = 1e-4
"""Relative to the largest output. float32 errors are a hundred times smaller, another layer's larger."""


@dataclass(frozen=True)
class Refusal:
    """Why a layer that looks color-equivariant is not converted."""

    reason: str


@dataclass(frozen=True, eq=False)
class FoundLayer:
    """A layer of a model: the module, its paths, and its spec or why it has none."""

    module: nn.Module
    names: tuple[str, ...]
    reading: KernelSpec | Refusal

    def in_copy(self, copy: nn.Module) -> tuple[nn.Module, KernelSpec]:
        """The same layer, which was not refused, in a copy of the model; it is not probed again."""
        module = dict(copy.named_modules(remove_duplicate=False))[self.names[0]]
        return module, read_again(module)


def find_layers(model: nn.Module) -> tuple[FoundLayer, ...]:
    """Every candidate of ``model``, each module once, with all its names.

    Modules inside a candidate are part of it, and no layers of their own.
    """
    names: dict[nn.Module, list[str]] = {}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if not name.startswith(inside) and is_candidate(module):
            names.setdefault(module, []).append(name)
            inside += (f"{name}." if name else "",)
    return tuple(FoundLayer(module, tuple(paths), _read(module, paths)) for module, paths in names.items())


def _read(module: nn.Module, names: list[str]) -> KernelSpec | Refusal:
    if any(name.split(".")[-1] == "_orig_mod" for name in names):
        # The wrapper keeps the forward pass that it compiled: a replacement inside it would never run.
        return Refusal("torch.compile is wrapped around this layer: convert first, and compile afterwards")
    return read_layer(module)


def is_candidate(module: nn.Module) -> bool:
    """Whether ``module`` looks like a color-equivariant convolution that is not converted yet.

    A block may keep the numbers of rotations that it passes to the layers inside it, and is none itself.
    """
    if isinstance(module, TargetLayer):
        return False
    if any(cls.__name__ in CLASS_NAMES | REFUSED_CLASSES.keys() for cls in type(module).__mro__):
        return True
    if is_hue_saturation(module):
        return True
    if not {"in_rotations", "out_rotations"} <= vars(module).keys():
        return False
    _, *inside = module.modules()
    return not any(isinstance(each, TargetLayer) or is_candidate(each) for each in inside)


def read_layer(module: nn.Module) -> KernelSpec | Refusal:
    """What a candidate computes, or why that cannot be said.

    The module is not changed. Tensors of the spec are the module's own parameters where these act as they
    are, and ``requires_grad`` follows through products of them.
    """
    try:
        if getattr(module, "in_rotations", None) is not None:
            _integer(module, "in_rotations")  # which tensors are expected depends on it
        problem = derivative_reason(module)
        if problem is not None:
            return Refusal(problem)
        spec = read_again(module)
    except SpecError as error:
        return Refusal(str(error))
    ours = is_ours(module)
    if spec.weight.is_meta and (isinstance(spec, LiftingSpec) or not ours):
        return Refusal("its tensors are on the meta device and have no numbers: load the weights first")
    problem = None if ours else _disagreement(module)
    return spec if problem is None else Refusal(problem)


def read_again(module: nn.Module) -> KernelSpec:
    """What a layer computes that ``read_layer`` took, or a copy of it; nothing is checked by running it.

    Raises SpecError where its attributes and parameters do not fit together.
    """
    if parametrize.is_parametrized(module):
        # In training mode some parametrizations update their buffers whenever they are read.
        module = copy_model(module).eval()
    with torch.enable_grad():
        return _spec_of(module)


def _disagreement(module: nn.Module) -> str | None:
    """How the forward pass on a small random input differs from what the parameters say, if it does."""
    # The published layer runs in the default dtype alone, whatever its parameters' dtype.
    trial = copy_model(module).to("cpu", torch.get_default_dtype()).eval()
    spec = _spec_of(trial)
    rows, columns = spec.kernel_size
    shape = list(spec.input_shape(2, (rows + 3, columns + 4)))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=spec.dtype)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        expected = evaluate(spec.map(Tensor.double), x.double())
        try:
            found = trial.forward(x)
        except FOREIGN_FAILURES as error:
            return f"its forward pass fails on an input of shape {shape}: {first_line(error)}"
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        outcome = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        return f"its forward pass gives {outcome} where its parameters say {list(expected.shape)}"
    difference = ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()
    if not difference <= _TOLERANCE:  # NaN disagrees too
        return f"its forward pass differs from what its parameters say: by {difference:.1e} of the output"
    return None


def _spec_of(module: nn.Module) -> KernelSpec:
    if is_hue_saturation(module):
        names = ("out_channels", "in_channels", "n_groups_hue", "n_groups_saturation")
        counts = (_integer(module, name) for name in names)
        return hue_saturation_spec(module, _tensor(module, "conv_weight"), *counts)
    weight = _tensor(module, "weight")
    kernel_size = specs.normalize_pair(getattr(module, "kernel_size", ()))
    out_channels, in_channels, in_rotations, out_rotations = (
        _integer(module, name) for name in ("out_channels", "in_channels", "in_rotations", "out_rotations")
    )
    separable = in_rotations != 1 and getattr(module, "pointwise_weight", None) is not None
    if separable:
        pointwise, says = _tensor(module, "pointwise_weight"), getattr(module, "separable", True)
        if not isinstance(says, int) or not says:
            raise SpecError(f"it has a pointwise_weight and says separable={shown(says)}")
        problem = specs.factors_problem(weight.shape, pointwise.shape)
        if problem is not None:
            raise SpecError(f"its weight and pointwise_weight do not fit: {problem}")
        weight = pointwise * weight
    declared = [out_channels, in_channels, in_rotations, *kernel_size]
    if list(weight.shape) != declared:
        raise SpecError(f"its weight has shape {list(weight.shape)}, its attributes say {declared}")
    stride = specs.normalize_pair(getattr(module, "stride", ()))
    padding = specs.normalize_padding(getattr(module, "padding", ()), kernel_size, stride)
    bias = None if getattr(module, "bias", None) is None else _tensor(module, "bias")
    if in_rotations == 1:
        matrix = _tensor(module, "transformation_matrix")
        return LiftingSpec(weight, bias, out_rotations, stride, padding, matrix)
    kind = SeparableSpec if separable else CyclicSpec
    return kind(weight, bias, out_rotations, stride, padding)


def _tensor(module: nn.Module, name: str) -> Tensor:
    value = getattr(module, name, None)
    if not isinstance(value, Tensor):
        raise SpecError(f"it has no tensor {name!r}, found {type(value).__name__}")
    return value


def _integer(module: nn.Module, name: str) -> int:
    value = getattr(module, name, None)
    if not specs.is_number(value):
        raise SpecError(f"its {name!r} is not a whole number, found {shown(value)}")
    return value
