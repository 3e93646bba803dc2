"""Layers that are others than their class names say.

Derivatives of the published layer often keep its class name. They are told apart by the parameters, buffers,
sub-modules and attributes that the published layer does not have.
"""

from torch import nn
from torch.nn.utils import parametrize

from ceconv_convert.conversion.hue_saturation import TENSORS, is_hue_saturation
from ceconv_convert.layers.ceconv2d import PICKLED_AS, CEConv2d

CLASS_NAMES = frozenset({"CEConv2d", "CEConv2D"})
"""The published layer's spellings."""

REFUSED_CLASSES = {
    "LEConv2d": "a luminance-equivariant layer scales brightness; its group is not cyclic",
}

_HSV = "it shifts its filter in HSV space, which no 3×3 color matrix expresses"
_REASONS = {
    "weight_g": "legacy weight_norm is attached; call torch.nn.utils.remove_weight_norm(layer) first",
    "weight_u": "legacy spectral_norm is attached; call torch.nn.utils.remove_spectral_norm(layer) first",
    "weight_mask": "pruning is attached; call torch.nn.utils.prune.remove(layer, 'weight') first",
    "filter_conv": "its output is gated by the input (partially equivariant derivative)",
    "gumbel": "its output is gated by random samples (partially equivariant derivative)",
    "spatial_rotations": "its group has spatial rotations beside hue (another group)",
    "img_shift": (
        "it shifts saturation or value of the image, which is not linear in the input: "
        "shift images in front of the network instead"
    ),
    "hsv_space": _HSV,
    "sat_shift": _HSV,
    "axis": "it rotates colors about an axis of its own (another group)",
}
"""By the beginning of a name that a derivative has beside the published layer's; the first one counts."""

_ATTRIBUTES = frozenset(
    ("training", "transposed", "in_rotations", "out_rotations", "separable", "learnable")
).union(nn.Conv2d.__constants__)


def is_ours(module: nn.Module) -> bool:
    """Whether a module is of our class, or of the class that torch generates over it for parametrizations."""
    cls = module.__class__  # the class that an accelerated layer had
    return (cls.__bases__[0] if parametrize.is_parametrized(module) else cls) is CEConv2d


def derivative_reason(module: nn.Module) -> str | None:
    """Why a module is another layer than the published one; None where it has nothing that says so.

    >>> layer = CEConv2d(3, 3, 4, 4, 3)
    >>> layer.register_buffer("spatial_rotations", layer.weight)
    >>> derivative_reason(layer)
    'its group has spatial rotations beside hue (another group) (found spatial_rotations)'
    """
    for cls in type(module).__mro__:
        if cls.__name__ in REFUSED_CLASSES:
            return REFUSED_CLASSES[cls.__name__]
    lifting = getattr(module, "in_rotations", None) == 1
    expected = {"weight", "bias", "transformation_matrix" if lifting else "pointwise_weight"}
    expected = TENSORS if is_hue_saturation(module) else expected
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    unknown = {key for key in tensors if key.removeprefix("parametrizations.").split(".")[0] not in expected}
    unknown |= {name for name, _ in module.named_children()} - {"parametrizations"}
    if is_ours(module):
        unknown |= {name for name, value in vars(module).items() if _is_foreign(module, name, value)}
    if not unknown:
        return None
    names = ", ".join(sorted(unknown))
    for beginning, reason in _REASONS.items():
        if any(name.startswith(beginning) for name in unknown):
            return f"{reason} (found {names})"
    return f"the published layer has no {names}: not the same layer"


def _is_foreign(module: nn.Module, name: str, value: object) -> bool:
    """Whether an attribute of a layer of our own class says that it is another layer.

    One that hides a method or a parameter does. Other attributes change nothing that our class computes,
    unless the layer was pickled under another class name: then they are all that is left of that class. A
    derivative's switch that is off changes nothing there either.
    """
    if callable(getattr(type(module), name, None)) or name in module._parameters:
        return True
    if PICKLED_AS not in vars(module) or name.startswith("_") or name in _ATTRIBUTES:
        return False
    return value is not False and value is not None
