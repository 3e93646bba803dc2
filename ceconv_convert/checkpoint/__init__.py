"""Containers in and out: safe loading, atomic writing."""

from ceconv_convert.checkpoint.load import load
from ceconv_convert.checkpoint.migrate import migrate_state_dict
from ceconv_convert.checkpoint.save import save_module, save_tensors
from ceconv_convert.checkpoint.write import Staging, check_output, real_path

__all__ = [
    "Staging",
    "check_output",
    "load",
    "migrate_state_dict",
    "real_path",
    "save_module",
    "save_tensors",
]
