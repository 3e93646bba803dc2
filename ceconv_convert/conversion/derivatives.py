"""What marks a layer that is another one than its class name says.

Derivatives of the published layer often keep its class name. They are told apart by what they carry besides:
each mark is the beginning of a name (of an attribute, parameter, buffer or sub-module) and the reason.
"""

from __future__ import annotations

from collections.abc import Iterable

CLASS_NAMES = frozenset({"CEConv2d", "CEConv2D"})
"""The published layer's spellings."""

REFUSED_CLASSES = {
    "GroupConvHS": "a group-major hue-saturation layer orders rotations before channels",
    "LEConv2d": "a luminance-equivariant layer scales brightness; its group is not cyclic",
}

_MARKS = (
    ("weight_g", "legacy weight_norm is attached; call torch.nn.utils.remove_weight_norm(layer) first"),
    ("weight_u", "legacy spectral_norm is attached; call torch.nn.utils.remove_spectral_norm(layer) first"),
    ("weight_mask", "pruning is attached; call torch.nn.utils.prune.remove(layer, 'weight') first"),
    ("filter_conv", "its output is gated by the input (partially equivariant derivative)"),
    ("gumbel", "its output is gated by random samples (partially equivariant derivative)"),
    ("spatial_rotations", "its group has spatial rotations beside hue (another group)"),
    ("img_shift", "it shifts saturation or value of the image, which is not linear in the input"),
    ("hsv_space", "it shifts its filter in HSV space, which no 3×3 color matrix expresses"),
    ("sat_shift", "it shifts its filter in HSV space, which no 3×3 color matrix expresses"),
    ("axis", "it turns colors about an axis of its own (another group)"),
)


def known_reason(names: Iterable[str]) -> str | None:
    """The reason behind the first of ``names`` that marks a known derivative.

    >>> known_reason(["weight", "spatial_rotations"])
    'its group has spatial rotations beside hue (another group)'
    """
    found = tuple(names)
    for mark, reason in _MARKS:
        if any(name.startswith(mark) for name in found):
            return reason
    return None
