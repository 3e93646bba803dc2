"""Convert Color Equivariant CNNs (CEConv) to circular Conv3d and ONNX, verified.

Importing this package imports neither torch nor onnx: the public names load when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ceconv_convert.errors import BenchError as BenchError
from ceconv_convert.errors import ConversionError as ConversionError
from ceconv_convert.errors import ExportError as ExportError
from ceconv_convert.errors import InputShapeError as InputShapeError
from ceconv_convert.errors import NothingToConvertError as NothingToConvertError
from ceconv_convert.errors import OutputError as OutputError
from ceconv_convert.errors import RefusedLayerError as RefusedLayerError
from ceconv_convert.errors import SpecError as SpecError
from ceconv_convert.errors import StateDictError as StateDictError
from ceconv_convert.errors import UnreadableInputError as UnreadableInputError
from ceconv_convert.errors import VerificationError as VerificationError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ceconv_convert.api import export_onnx as export_onnx
    from ceconv_convert.api import verify as verify
    from ceconv_convert.checkpoint.load import load as load
    from ceconv_convert.checkpoint.migrate import migrate_checkpoint as migrate_checkpoint
    from ceconv_convert.checkpoint.migrate import migrate_state_dict as migrate_state_dict
    from ceconv_convert.conversion.convert import convert as convert
    from ceconv_convert.conversion.plan import Plan as Plan
    from ceconv_convert.conversion.plan import plan as plan
    from ceconv_convert.layers.ceconv2d import CEConv2D as CEConv2D
    from ceconv_convert.layers.ceconv2d import CEConv2d as CEConv2d
    from ceconv_convert.layers.pooling import GroupCosetAvgPool as GroupCosetAvgPool
    from ceconv_convert.layers.pooling import GroupCosetMaxPool as GroupCosetMaxPool
    from ceconv_convert.layers.pooling import GroupMaxPool2d as GroupMaxPool2d
    from ceconv_convert.training.accelerate import accelerate as accelerate
    from ceconv_convert.verification.verdict import Verdict as Verdict
else:
    _NAMES = {
        "api": ("export_onnx", "verify"),
        "checkpoint.load": ("load",),
        "checkpoint.migrate": ("migrate_checkpoint", "migrate_state_dict"),
        "conversion.convert": ("convert",),
        "conversion.plan": ("Plan", "plan"),
        "layers.ceconv2d": ("CEConv2D", "CEConv2d"),
        "layers.pooling": ("GroupCosetAvgPool", "GroupCosetMaxPool", "GroupMaxPool2d"),
        "training.accelerate": ("accelerate",),
        "verification.verdict": ("Verdict",),
    }
    _FILES = {name: file for file, names in _NAMES.items() for name in names}
    __all__ = [*(name for name in globals() if name.endswith("Error")), *_FILES]

    def __getattr__(name):
        if name not in _FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
        return globals()[name]

    def __dir__():
        return sorted({*globals(), *__all__})
