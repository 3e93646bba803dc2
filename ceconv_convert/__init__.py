"""Convert Color Equivariant CNNs (CEConv) to circular Conv3d and ONNX, verified.

Importing this package imports neither torch nor onnx: the public names load when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ceconv_convert.errors import ConversionError

if TYPE_CHECKING:
    from ceconv_convert.api import (
        convert,
        export_onnx,
        load,
        migrate_checkpoint,
        migrate_state_dict,
        plan,
        verify,
    )
    from ceconv_convert.layers import (
        CEConv2D,
        CEConv2d,
        GroupCosetAvgPool,
        GroupCosetMaxPool,
        GroupMaxPool2d,
    )

__version__ = "0.1.0"

__all__ = [
    "CEConv2D",
    "CEConv2d",
    "ConversionError",
    "GroupCosetAvgPool",
    "GroupCosetMaxPool",
    "GroupMaxPool2d",
    "convert",
    "export_onnx",
    "load",
    "migrate_checkpoint",
    "migrate_state_dict",
    "plan",
    "verify",
]

_LAYERS = frozenset(
    {"CEConv2D", "CEConv2d", "GroupCosetAvgPool", "GroupCosetMaxPool", "GroupMaxPool2d"},
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = "ceconv_convert.layers" if name in _LAYERS else "ceconv_convert.api"
    value = getattr(importlib.import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
