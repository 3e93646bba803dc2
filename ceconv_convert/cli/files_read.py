"""Which files a run reads: none of them may be an output."""

from __future__ import annotations

from pathlib import Path

from ceconv_convert.cli.job import Job
from ceconv_convert.files.source import files_of
from ceconv_convert.onnx.onnx_files import onnx_files


def files_read(job: Job) -> tuple[Path, ...]:
    """Every file that a run reads: shards, an ONNX file's weights and the images in a folder among them.

    Raises:
        UnreadableInputError: where one that is named is missing, or no regular file.
    """
    files = files_of(job.model)
    if job.converted is not None:
        files += onnx_files(job.converted) if job.converted.suffix == ".onnx" else files_of(job.converted)
    if job.inputs is not None and job.inputs.exists():  # its reader says what is missing
        files += _files_in(job.inputs) if job.inputs.is_dir() else files_of(job.inputs)
    return files


def _files_in(folder: Path) -> tuple[Path, ...]:
    """As deep as images are read, and no deeper: links may lead in a circle."""
    return (*folder.glob("*"), *folder.glob("*/*"))
