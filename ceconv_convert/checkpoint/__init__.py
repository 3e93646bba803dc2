"""Containers in and out: safe loading, migration, atomic writing."""

from ceconv_convert.checkpoint import provenance
from ceconv_convert.checkpoint.candidate import build_candidate
from ceconv_convert.checkpoint.files import name_of, stat_of
from ceconv_convert.checkpoint.inputs import UserInputs, read_inputs
from ceconv_convert.checkpoint.load import build_network, load
from ceconv_convert.checkpoint.migrate import migrate_state_dict
from ceconv_convert.checkpoint.migrate_file import (
    Migrated,
    check_same,
    migrate_checkpoint,
    migrate_content,
    save_migrated,
)
from ceconv_convert.checkpoint.save import save_module, save_tensors
from ceconv_convert.checkpoint.signals import signals_held
from ceconv_convert.checkpoint.source import Source, files_of, is_checkpoint, read_source, sha256_of
from ceconv_convert.checkpoint.write import Staging, check_outputs

__all__ = [
    "Migrated",
    "Source",
    "Staging",
    "UserInputs",
    "build_candidate",
    "build_network",
    "check_outputs",
    "check_same",
    "files_of",
    "is_checkpoint",
    "load",
    "migrate_checkpoint",
    "migrate_content",
    "migrate_state_dict",
    "name_of",
    "provenance",
    "read_inputs",
    "read_source",
    "save_migrated",
    "save_module",
    "save_tensors",
    "sha256_of",
    "signals_held",
    "stat_of",
]
