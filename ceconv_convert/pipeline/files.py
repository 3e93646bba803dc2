"""Which files a run reads: none of them may be an output."""

from __future__ import annotations

import os
from pathlib import Path

from ceconv_convert.api import onnx_files
from ceconv_convert.checkpoint import files_of
from ceconv_convert.pipeline.job import Job


def files_read(job: Job) -> tuple[Path, ...]:
    """Every file that a run reads: shards, an ONNX file's weights and the images in a folder among them.

    Raises:
        UnreadableInputError: where one that is named is missing, or no regular file.
    """
    files = files_of(job.model)
    if job.converted is not None:
        files += onnx_files(job.converted) if job.converted.suffix == ".onnx" else files_of(job.converted)
    if job.inputs is not None:
        files += _files_below(job.inputs) if job.inputs.is_dir() else files_of(job.inputs)
    return files


def _files_below(folder: Path) -> tuple[Path, ...]:
    return tuple(Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)
