"""``GroupConvHS``, the layer of "Learning Color Equivariant Representations" (Yang et al., ICLR 2025).

Its group has H hues and S saturations, and its features are flat, ``[B, H·S·C, rows, columns]``: hues first,
then saturations, then channels. With the stored weight as ``w[o, h, s, c]`` and d = j - S // 2:

    y[i, j, o] = Σ_{h, s, c} conv2d(x[h, s, c], w[o, (h - i) mod H, s - d, c]) · S / (S - |d|)

without the terms whose s - d is not one of 0 … S - 1. Over the hues that is a cyclic correlation of S·I → S·O
channels, whose kernel over the saturations is constant after training. The network's input are the image's
shifted copies, ``[B, H·S·3, rows, columns]``: they are made outside of it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.spec import GroupMajorSpec, normalize_padding, normalize_pair

HUE_SATURATION_CLASS = "GroupConvHS"
TENSORS = {"conv_weight", "group_conv_weight"}
"""The second is made from the first once, at construction, and never read."""


def is_hue_saturation(module: nn.Module) -> bool:
    """Whether a module's class is called so, or a parent's."""
    return any(cls.__name__ == HUE_SATURATION_CLASS for cls in type(module).__mro__)


def hue_saturation_spec(
    module: nn.Module, weight: Tensor, out_channels: int, in_channels: int, hues: int, saturations: int
) -> GroupMajorSpec:
    """What a ``GroupConvHS`` computes, of its weight ``[O, H·S·I, kh, kw]`` and its own numbers.

    Its ``bias`` is a flag that its forward pass does not read. Raises SpecError where they do not fit.
    """
    kernel_size = normalize_pair(getattr(module, "kernel_size", ()))
    declared = [out_channels, hues * saturations * in_channels, *kernel_size]
    if min(declared) < 1 or list(weight.shape) != declared:
        raise SpecError(f"its conv_weight has shape {list(weight.shape)}, its attributes say {declared}")
    below = saturations // 2
    parts = torch.unflatten(weight, 1, (hues, saturations, in_channels)).movedim(2, -1)  # S last
    padded = F.pad(parts, (saturations - 1 - below, below))
    kernels = []
    for saturation in range(saturations):
        kernel = padded.narrow(-1, saturations - 1 - saturation, saturations)
        kernels.append(kernel / ((saturations - abs(saturation - below)) / saturations))
    stacked = torch.stack(kernels).movedim(-1, 2)  # [S, O, S, H, I, kh, kw]
    mixed = stacked.movedim(3, 4).flatten(2, 3).flatten(0, 1)  # [S·O, S·I, H, kh, kw]
    stride = normalize_pair(getattr(module, "stride", ()))
    padding = normalize_padding(getattr(module, "padding", ()), kernel_size, stride)
    return GroupMajorSpec(mixed, None, hues, stride, padding)
