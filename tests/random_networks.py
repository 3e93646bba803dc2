"""Random networks of layers, pools, activations, norms and residual additions."""

import random

import torch
from torch import nn

from ceconv_convert import CEConv2d, GroupCosetAvgPool, GroupCosetMaxPool, GroupMaxPool2d
from tests.support import shake

ACTIVATIONS = (
    *(nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.ReLU6),
    *(nn.Softplus, nn.Mish, nn.PReLU, nn.Identity),
)


class Residual(nn.Module):
    """y = f(body(x) + shortcut(x))"""

    def __init__(self, body, shortcut, after):
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut, after

    def forward(self, x):
        return self.after(self.body(x) + self.shortcut(x))


class Gate(nn.Module):
    """x times the sigmoid of its spatial mean: squeeze and excite."""

    def forward(self, x):
        return x * torch.sigmoid(x.mean((-2, -1), keepdim=True))


class Scale(nn.Module):
    """A number for each channel, as LayerScale has."""

    def __init__(self, channels):
        super().__init__()
        self.factor = nn.Parameter(torch.randn(channels, 1, 1, 1))

    def forward(self, x):
        return x * self.factor + 0.25


class Flat(nn.Module):
    """A spatial module on planes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.flatten(1, 2)).unflatten(1, (-1, x.shape[2]))


class Roll(nn.Module):
    """Something that no pass knows."""

    def forward(self, x):
        return torch.roll(x, 1, dims=2)


def random_network(seed):
    """A network in eval mode that takes ``[B, 3, H, W]`` with H, W ≥ 24; every number moved."""
    torch.manual_seed(seed)
    choose = random.Random(seed)
    rotations = choose.choice((2, 3, 3, 3, 4, 5, 6, 8))
    channels = choose.choice((3, 5, 7, 8, 12, 17))
    layers = [
        CEConv2d(
            1,
            rotations,
            3,
            channels,
            choose.choice((3, 5)),
            padding=choose.choice((0, 1, 2)),
            stride=choose.choice((1, 2)),
            bias=choose.random() < 0.5,
        )
    ]
    for _ in range(choose.randint(1, 5)):
        made, channels, rotations = _step(choose, channels, rotations)
        layers.append(made)
    layers.append(_end(choose, channels, rotations))
    return shake(nn.Sequential(*layers)).eval()


def _step(choose, channels, rotations):
    kind = choose.choice(("layer", "layer", "layer", "residual", "residual", "pool", "other", "turn"))
    if kind == "layer":
        out = choose.choice((channels, channels, 4, 9, 16, 33))
        return _layer(choose, channels, out, rotations), out, rotations
    if kind == "residual":
        out = choose.choice((channels, channels, 10))
        body = nn.Sequential(
            _layer(choose, channels, out, rotations, keeps=True),
            CEConv2d(rotations, rotations, out, out, 3, padding=1, separable=choose.random() < 0.5),
            choose.choice((nn.Identity, lambda: nn.BatchNorm3d(out)))(),
        )
        shortcut = nn.Identity()
        if out != channels or choose.random() < 0.4:
            shortcut = CEConv2d(rotations, rotations, channels, out, 1, bias=False)
            if choose.random() < 0.5:
                shortcut = nn.Sequential(shortcut, nn.BatchNorm3d(out))
        after = nn.Sequential(
            choose.choice((nn.Identity, lambda: nn.BatchNorm3d(out)))(), _activation(choose)
        )
        return Residual(body, shortcut, after), out, rotations
    if kind == "turn":  # other rotations out than in
        out = choose.choice((2, 3, 4))
        return CEConv2d(rotations, out, channels, channels, 3, padding=1), channels, out
    if kind == "pool":
        pools = (
            lambda: GroupMaxPool2d(2, 1),
            lambda: nn.MaxPool3d((1, 2, 2), (1, 1, 1)),
            lambda: nn.AvgPool3d((1, 3, 3), (1, 1, 1), (0, 1, 1)),
            lambda: Flat(nn.AvgPool2d(2, 1)),
            lambda: nn.MaxPool3d((2, 1, 1), (1, 1, 1), (1, 0, 0)),
        )
        pool = choose.choice(pools)()
        more = isinstance(pool, nn.MaxPool3d) and pool.kernel_size[0] == 2
        return pool, channels, rotations + 1 if more else rotations
    others = (
        Gate,
        Roll,
        lambda: Scale(channels),
        lambda: nn.BatchNorm3d(channels),
        lambda: nn.Dropout3d(0.3),
    )
    return nn.Sequential(choose.choice(others)(), _activation(choose)), channels, rotations


def _layer(choose, channels, out, rotations, *, keeps=False):
    size = 3 if keeps else choose.choice((1, 3, 3, (3, 1), 2))
    padding = 1 if keeps else choose.choice((0, 1))
    layer = CEConv2d(
        rotations,
        rotations,
        channels,
        out,
        size,
        padding=padding,
        separable=choose.random() < 0.5,
        bias=choose.random() < 0.5,
    )
    norm = nn.BatchNorm3d(out) if choose.random() < 0.6 else nn.Identity()
    return nn.Sequential(layer, norm, _activation(choose))


def _activation(choose):
    return choose.choice(ACTIVATIONS)()


def _end(choose, channels, rotations):
    plain = nn.Sequential(nn.Conv2d(channels, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    ends = (
        lambda: GroupCosetMaxPool(),
        lambda: GroupCosetAvgPool(),
        lambda: nn.Sequential(
            GroupCosetMaxPool(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)
        ),
        lambda: nn.Sequential(GroupCosetMaxPool(), plain),
        lambda: nn.Sequential(nn.Flatten(1, 2), nn.Conv2d(channels * rotations, 5, 1)),
        lambda: nn.Sequential(nn.Flatten(1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: nn.Identity(),
    )
    return choose.choice(ends)()
