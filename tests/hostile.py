"""Files that want to be trusted. Nothing here is dangerous: what runs leaves a mark that tests look for."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import torch
from torch import nn

from ceconv_convert import CEConv2d


class Marks:
    """Unpickled without care, it makes a folder."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self):
        import os

        return os.mkdir, (self.mark,)


class Evaluates:
    """Unpickled without care, it evaluates an expression."""

    def __init__(self, mark: Path):
        self.expression = f"__import__('os').mkdir({str(mark)!r})"

    def __reduce__(self):
        return eval, (self.expression,)


def in_torch_archive(path: Path, thing: object) -> Path:
    """``thing`` pickled as torch.save's zip format has it."""
    torch.save({"model": nn.Linear(1, 1).state_dict(), "extra": thing}, path)
    return path


def in_bare_pickle(path: Path, thing: object) -> Path:
    """``thing`` as a plain pickle file."""
    path.write_bytes(pickle.dumps(thing))
    return path


class HelperNetwork(nn.Module):
    """A class of the user's own, outside torch.nn."""

    def __init__(self):
        super().__init__()
        self.layer = CEConv2d(1, 3, 3, 2, 3)

    def forward(self, x):
        return self.layer(x)


def helper_function(x):
    """A function, which must never be allowed."""
    return x


def truncated(path: Path, source: Path, fraction: float) -> Path:
    """The beginning of a file."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def without_tensor(path: Path, source: Path) -> Path:
    """A torch archive with one tensor's bytes missing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            if not name.endswith("/data/0"):
                new.writestr(name, old.read(name))
    path.write_bytes(buffer.getvalue())
    return path
