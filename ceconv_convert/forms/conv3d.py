"""``form="conv3d"``: rotations as depth, circular padding over them.

cyclic:   y = conv3d(wrap(x), roll(w, p)) with depth stride 1
lifting:  y = conv3d(stack of (M^r)ᵀ · x, w) with depth stride 3: since M^r · w meets x as w meets (M^r)ᵀ · x

The zeros around the image stay apart from the wrap: ``padding_mode="circular"`` of torch would wrap the
image too, so these layers wrap the rotations themselves and give torch the zeros alone.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.errors import SpecError
from ceconv_convert.forms.target import TargetLayer, without_numbers
from ceconv_convert.kernel import circular
from ceconv_convert.kernel.color import ColorOrder, color_order, matrix_powers
from ceconv_convert.kernel.rotation_major import flatten_rotations, take_features
from ceconv_convert.kernel.spec import CyclicSpec, GroupMajorSpec, KernelSpec, LiftingSpec, split_padding


class DepthConv3d(TargetLayer, nn.Conv3d):
    """What the two share: a ``nn.Conv3d`` whose parameters come from a spec."""

    form = "conv3d"
    order: ColorOrder  # of the colors in the weight of a lifting layer (``lifting_conv3d_weight``)

    def __init__(self, spec: KernelSpec, depth_stride: int) -> None:
        matrix = spec.matrix if isinstance(spec, LiftingSpec) else None
        order: ColorOrder = "same" if matrix is None else color_order(matrix)
        if matrix is None:
            weight = circular.to_circular(spec.weight)
        else:
            weight = circular.lifting_conv3d_weight(spec.weight, order)
        out_channels, in_channels, *kernel_size = weight.shape
        super().__init__(
            in_channels,
            out_channels,
            (kernel_size[0], kernel_size[1], kernel_size[2]),
            stride=(depth_stride, *spec.stride),
            padding=(0, *split_padding(spec.padding)[0]),
            **without_numbers(spec),
        )
        self.take_over(spec, weight=weight, bias=spec.bias, transformation_matrix=matrix)
        self.order = order

    def to_spec(self) -> KernelSpec:
        """What the layer computes, exactly: its weight is the spec's, laid out otherwise."""
        matrix = self._parameters["transformation_matrix"]
        left, right, top, bottom = self.padding_excess
        rows, columns = int(self.padding[1]), int(self.padding[2])
        stride = (self.stride[1], self.stride[2])
        padding = ((rows + top, rows + bottom), (columns + left, columns + right))
        if matrix is None:
            kind = GroupMajorSpec if self.group_major else CyclicSpec
            return kind(circular.from_circular(self.weight), self.bias, self.out_rotations, stride, padding)
        weight = circular.from_lifting_conv3d_weight(self.weight, self.order)
        return LiftingSpec(weight, self.bias, self.out_rotations, stride, padding, matrix)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **named: Any
    ) -> None:
        matrix = state_dict.get(f"{prefix}transformation_matrix")
        if matrix is not None and not matrix.is_meta and matrix.shape == (3, 3) and self.in_channels == 3:
            order = color_order(matrix)
            if order != self.order:
                *_, error_messages = rest
                error_messages += self._adapt(state_dict, prefix, order)
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)

    def _adapt(self, state_dict: dict[str, Any], prefix: str, order: ColorOrder) -> list[str]:
        """Lay out a state dict anew whose matrix has another order of colors; what keeps it from that."""
        raise NotImplementedError


class CircularConv3d(DepthConv3d):
    """A cyclic layer: ``[B, I, N, H, W]`` → ``[B, O, N_out, H', W']``.

    Weight ``[O, I, N, kh, kw]``, rolled by (N - 1) // 2: for odd N without spatial padding, that of
    ``nn.Conv3d(I, O, (N, kh, kw), padding=((N - 1) // 2, 0, 0), padding_mode="circular")``.
    A lifting layer with the hue matrix of 120° has a weight ``[O, 1, 3, kh, kw]``, its three colors as
    rotations, and takes ``[B, 3, H, W]``. It carries its ``transformation_matrix`` along, unused, so that
    nothing is lost; a state dict with another matrix is an error, as one with another shape is.
    """

    def __init__(self, spec: KernelSpec) -> None:
        if not circular.is_cyclic(spec):
            raise SpecError("the lifting layer is not cyclic over its colors: build a ColorStackConv3d")
        super().__init__(spec, depth_stride=1)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, I, N, H, W]``, or flat, ``[B, I·N, H, W]``, → ``[B, O, N_out, H', W']``."""
        channels, depth = self.weight.shape[1:3]  # of a lifting layer 1 and its colors
        x = take_features(input, channels, depth, self.group_major)
        x = self.pad_excess(circular.wrap(x, self.out_rotations))
        y = F.conv3d(x, self.weight, self.bias, self.stride, self.padding)
        return self.give(circular.unroll(y, self.out_rotations))

    def _adapt(self, state_dict: dict[str, Any], prefix: str, order: ColorOrder) -> list[str]:
        problem = "is not the color permutation that this layer was converted with"
        return [f"{prefix}transformation_matrix {problem}: load the weights first, and convert afterwards"]


class ColorStackConv3d(DepthConv3d):
    """A lifting layer with any color matrix: ``[B, 3, H, W]`` → ``[B, O, N_out, H', W']``.

    Weight ``[O, 1, 3, kh, kw]``, unpermuted, at depth stride 3 over the N_out recolored images. A learnable
    ``transformation_matrix`` goes on learning.

    In a state dict the matrix decides how the weight is laid out (``lifting_conv3d_weight``). With a matrix
    that permutes colors and learns, the weight is laid out so from the start. Where training has led the
    matrix away from its order, or a state dict comes with another, the state dict's weight is laid out anew.
    """

    transformation_matrix: nn.Parameter

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__(spec, depth_stride=3)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, 3, H, W]``, or with a rotation axis of 1, → ``[B, O, N_out, H', W']``."""
        powers = matrix_powers(self.transformation_matrix, self.out_rotations)  # [N_out, 3, 3]
        recolor = powers.transpose(1, 2).reshape(-1, 3, 1, 1)  # [N_out·3, 3, 1, 1]: (M^r)ᵀ as a 1×1 kernel
        stack = F.conv2d(flatten_rotations(input), recolor).unsqueeze(1)  # [B, 1, N_out·3, H, W]
        weight = _reorder(self.weight, self.order, "other")  # [O, 1, 3, kh, kw]
        y = F.conv3d(self.pad_excess(stack), weight, self.bias, self.stride, self.padding)
        return y.contiguous()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        order = self.order if self.transformation_matrix.is_meta else color_order(self.transformation_matrix)
        if order != self.order:
            key = f"{prefix}weight"
            destination[key] = _reorder(destination[key], self.order, order).contiguous()

    def _adapt(self, state_dict: dict[str, Any], prefix: str, order: ColorOrder) -> list[str]:
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None and weight.dim() == 5:
            # torch hands a shallow copy around
            state_dict[f"{prefix}weight"] = _reorder(weight, order, self.order)
        return []


def _reorder(weight: Tensor, order: ColorOrder, to: ColorOrder) -> Tensor:
    if order == to:
        return weight
    return circular.lifting_conv3d_weight(circular.from_lifting_conv3d_weight(weight, order), to)


def build(spec: KernelSpec) -> DepthConv3d:
    """The Conv3d layer of a spec: circular where the layer is cyclic and stays so, else the color stack."""
    learns = isinstance(spec, LiftingSpec) and spec.matrix.requires_grad and spec.in_channels == 3
    return CircularConv3d(spec) if circular.is_cyclic(spec) and not learns else ColorStackConv3d(spec)
