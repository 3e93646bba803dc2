"""Convert Color Equivariant CNNs (CEConv) to circular Conv3d and ONNX, verified.

Importing this package imports neither torch nor onnx: the public names load when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ceconv_convert.errors import (
    BenchError,
    ConversionError,
    ExportError,
    InputShapeError,
    NothingToConvertError,
    OutputError,
    RefusedLayerError,
    SpecError,
    StateDictError,
    UnreadableInputError,
    VerificationError,
)

if TYPE_CHECKING:
    from ceconv_convert.api import export_onnx, verify
    from ceconv_convert.checkpoint.load import load
    from ceconv_convert.checkpoint.migrate import migrate_checkpoint
    from ceconv_convert.checkpoint.state_dict import migrate_state_dict
    from ceconv_convert.conversion.convert import convert
    from ceconv_convert.conversion.plan import plan
    from ceconv_convert.conversion.plan_table import Plan
    from ceconv_convert.layers.ceconv2d import CEConv2D, CEConv2d
    from ceconv_convert.layers.pooling import GroupCosetAvgPool, GroupCosetMaxPool, GroupMaxPool2d
    from ceconv_convert.verification.verdict import Verdict

__version__ = "0.1.0"

_FILES = {
    "api": ("export_onnx", "verify"),
    "checkpoint.load": ("load",),
    "checkpoint.migrate": ("migrate_checkpoint",),
    "checkpoint.state_dict": ("migrate_state_dict",),
    "conversion.convert": ("convert",),
    "conversion.plan": ("plan",),
    "conversion.plan_table": ("Plan",),
    "layers.ceconv2d": ("CEConv2D", "CEConv2d"),
    "layers.pooling": ("GroupCosetAvgPool", "GroupCosetMaxPool", "GroupMaxPool2d"),
    "verification.verdict": ("Verdict",),
}
"""The public names that load when they are first used, by the file that has them."""
_FILE_OF = {name: file for file, names in _FILES.items() for name in names}

__all__ = [
    "BenchError",
    "CEConv2D",
    "CEConv2d",
    "ConversionError",
    "ExportError",
    "GroupCosetAvgPool",
    "GroupCosetMaxPool",
    "GroupMaxPool2d",
    "InputShapeError",
    "NothingToConvertError",
    "OutputError",
    "Plan",
    "RefusedLayerError",
    "SpecError",
    "StateDictError",
    "UnreadableInputError",
    "Verdict",
    "VerificationError",
    "convert",
    "export_onnx",
    "load",
    "migrate_checkpoint",
    "migrate_state_dict",
    "plan",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ceconv_convert.{_FILE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
