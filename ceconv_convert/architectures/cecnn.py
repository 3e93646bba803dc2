"""The seven-layer network of the color-MNIST experiments. Lengyel et al., NeurIPS 2023, section 4.1."""

from torch import Tensor, nn

from ceconv_convert.errors import SpecError
from ceconv_convert.layers.ceconv2d import CEConv2d
from ceconv_convert.layers.pooling import GroupCosetMaxPool, GroupMaxPool2d

_KERNELS = (3, 3, 3, 3, 3, 3, 4)


class CECNN(nn.Module):
    """``[B, 3, 28, 28]`` → ``[B, classes]``: seven layers without padding, of ``planes`` channels.

    The first ``ce_layers`` are color-equivariant, with N = ``rotations``. The rotations end in a maximum if
    ``groupcosetmaxpool``, else flattened into channels. The lifting layer's matrix is trained if
    ``learnable``. Raises SpecError where the arguments make no network.
    """

    def __init__(
        self,
        planes: int,
        rotations: int,
        ce_layers: int = 7,
        groupcosetmaxpool: bool = False,
        num_classes: int = 10,
        separable: bool = True,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= ce_layers <= len(_KERNELS) or rotations < 2:
            raise SpecError(
                f"a CECNN has 1 to {len(_KERNELS)} color-equivariant layers and at least 2 rotations, "
                f"found ce_layers={ce_layers}, rotations={rotations}"
            )
        flat = planes if groupcosetmaxpool else planes * rotations
        self.ceconv_list = nn.ModuleList()
        self.conv2d_list = nn.ModuleList()
        for index, size in enumerate(_KERNELS):
            if index < ce_layers:
                n, channels = (1, 3) if index == 0 else (rotations, planes)
                layer = CEConv2d(n, rotations, channels, planes, size, learnable, separable)
                stage = _stage(index, layer, nn.BatchNorm3d(planes), nn.Dropout3d(0.3), GroupMaxPool2d(2))
                self.ceconv_list.append(stage)
            else:
                plain = nn.Conv2d(flat, flat, size)
                stage = _stage(index, plain, nn.BatchNorm2d(flat), nn.Dropout2d(0.3), nn.MaxPool2d(2))
                self.conv2d_list.append(stage)
        self.gmp = GroupCosetMaxPool() if groupcosetmaxpool else None
        self.fc = nn.Linear(flat, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.ceconv_list:
            x = stage(x)
        x = x.flatten(1, 2) if self.gmp is None else self.gmp(x)
        for stage in self.conv2d_list:
            x = stage(x)
        logits: Tensor = self.fc(x.flatten(1))
        return logits


def _stage(index: int, layer: nn.Module, norm: nn.Module, dropout: nn.Module, pool: nn.Module) -> nn.Module:
    """Layer, norm and ReLU; dropout after the layers 1, 3, 4 and 5, and pooling after the second."""
    dropout = dropout if index in (0, 2, 3, 4) else nn.Identity()
    pool = pool if index == 1 else nn.Identity()
    return nn.Sequential(layer, norm, nn.ReLU(), dropout, pool)
