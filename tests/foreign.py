"""Layers that are not ours: the published one's mathematics under either spelling, and derivatives of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ceconv_convert.kernel.color import hue_rotation_matrix


class CEConv2D(nn.Conv2d):
    """A stranger's layer with the published attributes; like the published one it knows float32 alone."""

    def __init__(
        self, in_rotations, out_rotations, in_channels, out_channels, kernel_size, separable=True, **kwargs
    ):
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        self.in_rotations, self.out_rotations, self.separable = in_rotations, out_rotations, separable
        depth = 1 if in_rotations == 1 or separable else in_rotations
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, depth, *self.kernel_size) / 5)
        if in_rotations == 1:
            self.transformation_matrix = nn.Parameter(hue_rotation_matrix(out_rotations), requires_grad=False)
        elif separable:
            self.pointwise_weight = nn.Parameter(torch.randn(out_channels, in_channels, in_rotations, 1, 1))

    def kernels(self):
        if self.in_rotations == 1:
            w, m = self.weight[:, :, 0], self.transformation_matrix
            return [
                torch.einsum("ij,ojhw->oihw", torch.matrix_power(m, r), w) for r in range(self.out_rotations)
            ]
        w = self.weight * self.pointwise_weight if self.separable else self.weight
        return [w.roll(r, 2).flatten(1, 2) for r in range(self.out_rotations)]

    def forward(self, x):
        buffer = torch.zeros(1)  # float32, whatever the parameters are
        if self.weight.dtype != buffer.dtype:
            raise RuntimeError("expected scalar type Float")
        x = x.view(x.shape[0], -1, *x.shape[-2:])
        y = torch.stack([F.conv2d(x, k, None, self.stride, self.padding) for k in self.kernels()], 2)
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1, 1)


class Shuffled(CEConv2D):
    """Same attributes and parameters, another group: its rotations roll the other way."""

    def kernels(self):
        return list(reversed(super().kernels()))


class Gated(CEConv2D):
    """Partially equivariant: the output is gated by the input."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.filter_conv1 = nn.Conv2d(3, 1, 1)


class Crashing(CEConv2D):
    """Its forward pass cannot run."""

    def forward(self, x):
        raise KeyError("missing")


class Wide(CEConv2D):
    """Its forward pass gives another shape."""

    def forward(self, x):
        return super().forward(x).flatten(1, 2)


class GroupConvHS(nn.Module):
    """A group-major layer of hue and saturation: it moves its input, and convolves with one weight."""

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        n_groups_hue=1,
        n_groups_saturation=1,
        bias=False,
    ):
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.bias = stride, padding, bias
        self.n_groups_hue, self.n_groups_saturation = n_groups_hue, n_groups_saturation
        channels = n_groups_hue * n_groups_saturation * in_channels
        self.conv_weight = nn.Parameter(torch.randn(out_channels, channels, kernel_size, kernel_size) / 5)
        self.register_buffer("group_conv_weight", self.conv_weight * 2)  # computed once, never read

    def forward(self, x):
        hues, count = self.n_groups_hue, self.n_groups_saturation
        x = x.view(x.shape[0], hues, count, self.in_channels, *x.shape[-2:])
        outputs = []
        for hue in range(hues):
            for saturation in range(count):
                shift = saturation - count // 2
                seen = torch.zeros_like(x)
                for place in range(max(0, -shift), min(count, count - shift)):
                    seen[:, :, place] = x.roll(-hue, 1)[:, :, place + shift]
                y = F.conv2d(seen.flatten(1, 3), self.conv_weight, None, self.stride, self.padding)
                outputs.append(y / ((count - abs(shift)) / count))
        return torch.cat(outputs, 1)


class GroupBatchNorm2d(nn.Module):
    """A batch norm for group-major features."""

    def __init__(self, channels):
        super().__init__()
        self.batch_norm = nn.BatchNorm3d(channels)

    def forward(self, x):
        y = x.view(x.shape[0], -1, self.batch_norm.num_features, *x.shape[-2:]).transpose(1, 2)
        return self.batch_norm(y).transpose(1, 2).flatten(1, 2)


class HueSaturationNetwork(nn.Module):
    """The small network of that paper, by the names of its checkpoints; it takes shifted copies of images."""

    def __init__(self, num_classes, n_groups_hue, n_groups_saturation):
        super().__init__()
        groups = {"n_groups_hue": n_groups_hue, "n_groups_saturation": n_groups_saturation}
        self.groups = n_groups_hue * n_groups_saturation
        width, channels, layers = int(20 / self.groups**0.5), 3, []
        for index, kernel_size in enumerate((3, 3, 3, 3, 3, 3, 4)):
            out = width if index < 6 else num_classes
            layers += [GroupConvHS(channels, out, kernel_size, **groups), GroupBatchNorm2d(out)]
            layers += [nn.ReLU()] if index < 6 else []
            layers += [nn.MaxPool2d(2)] if index == 1 else []
            channels = out
        self.network = nn.Sequential(*layers)

    def forward(self, x):
        y = self.network(x)
        return y.view(y.shape[0], self.groups, -1, *y.shape[-2:]).amax(1).mean((2, 3)).softmax(1)


class Network(nn.Module):
    """A network of a stranger's layers, with an attribute access as downstream code does it."""

    def __init__(self):
        super().__init__()
        self.conv1 = CEConv2D(1, 3, 3, 4, 3, padding=1)
        self.conv2 = CEConv2D(3, 3, 4, 4, 3, separable=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        x = self.conv2(x)
        x = x.view(x.shape[0], 4, self.conv2.out_rotations, *x.shape[-2:])
        return self.head(x.amax(2).mean((2, 3)))


class InFloat32(nn.Module):
    """A function applied in float32 alone: its float64 copy leaves it out."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return x if x.dtype == torch.float64 else self.function(x)


class Raising(nn.Module):
    """A forward pass that fails in its own way."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


class Uncopyable(nn.Module):
    """It does not want to be copied, and says so in its own way."""

    def __deepcopy__(self, memo):
        raise ValueError("one of a kind")


class Block(nn.Module):
    """It keeps the rotations that it gives to its layers, as published blocks do."""

    def __init__(self, layer):
        super().__init__()
        self.in_rotations, self.out_rotations = layer.in_rotations, layer.out_rotations
        self.body = nn.Sequential(layer, nn.ReLU())

    def forward(self, x):
        return self.body(x)
