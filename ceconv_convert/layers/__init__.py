"""The published layers: our own implementation, same parameter names and shapes."""

from ceconv_convert.layers.ceconv2d import PICKLED_AS, CEConv2D, CEConv2d
from ceconv_convert.layers.pooling import GroupCosetAvgPool, GroupCosetMaxPool, GroupMaxPool2d

__all__ = [
    "PICKLED_AS",
    "CEConv2D",
    "CEConv2d",
    "GroupCosetAvgPool",
    "GroupCosetMaxPool",
    "GroupMaxPool2d",
]
