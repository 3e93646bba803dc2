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


class Note:
    """Plain data of the user's own."""

    def __init__(self, text):
        self.text = text


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


class CallsConstructor:
    """A pickle that calls an allowed class's constructor, here for 40 GB."""

    def __reduce__(self):
        return nn.Linear, (100_000, 100_000)


def _forget(name):
    return lambda model: vars(model[0]).pop(name)


def _set(name, value):
    return lambda model: vars(model[0]).update({name: value})


def _cycle(model):
    model[0]._modules["inside"] = model


def _deep(model):
    for _ in range(150):
        inner = nn.Sequential()
        model.add_module("inner", inner)
        model = inner


def _bush(model):
    for _ in range(40):  # 2^40 paths to the last one
        inner = nn.Sequential()
        model.add_module("left", inner)
        model.add_module("right", inner)
        model = inner


DAMAGED_STATES = {
    "no parameters": (
        _forget("_parameters"),
        "module 0 is damaged: its _parameters is NoneType: expected dict",
    ),
    "no modules": (_set("_modules", None), "module 0 is damaged: its _modules is NoneType: expected dict"),
    "no mode": (_forget("training"), "its training is NoneType: expected bool"),
    "no hooks": (_forget("_forward_hooks"), "its _forward_hooks is NoneType: expected dict"),
    "a hook on the state": (_set("_state_dict_hooks", {0: None}), "its _state_dict_hooks are not empty"),
    "a number of parameters": (
        _set("_parameters", 3),
        "module 0 is damaged: its _parameters is int: expected dict",
    ),
    "no stride": (_set("stride", None), "expected an int or two ints, found None"),
    "half a padding": (_set("padding", 1.5), "expected an int or two ints, found 1.5"),
    "a hook": (_set("_forward_hooks", {0: 1}), "its _forward_hooks are not empty"),
    "a number for a module": (_set("_modules", {"x": 3}), "its _modules hold the int 'x': expected Module"),
    "a text for a buffer": (_set("_buffers", {"x": "y"}), "its _buffers hold the str 'x': expected Tensor"),
    "a dot in a name": (_set("_modules", {"x.y": None}), "'x.y': expected Module, under a name without dots"),
    "a method hidden": (_set("forward", 3), "its attribute 'forward' is no name, or hides a method"),
    "a cycle": (_cycle, "module 0.inside contains itself"),
    "a deep nest": (_deep, "nested more than 100 deep"),
    "a bush": (_bush, "too many paths to its 53 modules"),
    "a set of names": (
        _set("_non_persistent_buffers_set", 5),
        "its _non_persistent_buffers_set is int: expected set",
    ),
    "a set of numbers": (
        _set("_non_persistent_buffers_set", {5}),
        "_non_persistent_buffers_set holds more than names",
    ),
    "a hook with keywords": (
        _set("_forward_hooks_with_kwargs", 5),
        "_forward_hooks_with_kwargs is int: expected dict",
    ),
    "a backward hook": (_set("_backward_pre_hooks", [1]), "its _backward_pre_hooks is list: expected dict"),
    "a hook on loading": (
        _set("_load_state_dict_post_hooks", None),
        "_load_state_dict_post_hooks is NoneType: expected dict",
    ),
    "a hook that is always called": (
        _set("_forward_hooks_always_called", 1),
        "_always_called is int: expected dict",
    ),
    "a kind of hook": (_set("_is_full_backward_hook", "x"), "_is_full_backward_hook is str: expected bool"),
    "a version": (_set("_version", "x"), "its _version is str: expected int"),
    "a copier": (
        _set("__deepcopy__", nn.Identity()),
        "its attribute '__deepcopy__' is no name, or hides a method",
    ),
    "a number for a name": (lambda model: vars(model[0]).update({5: 1}), "its attribute 5 is no name"),
    "a bias of text": (_set("bias", "x"), "the published layer has no bias"),
    "rotations beyond reason": (_set("out_rotations", 10**7), "rotations in and out are 1 to 360"),
    "rotations beyond integers": (_set("out_rotations", 10**30), "rotations in and out are 1 to 360"),
    "a negative padding": (_set("padding", -1), "padding is 0 to 32"),
    "a padding beyond reason": (_set("padding", 10**30), "padding is 0 to 32, found"),
    "a padding to compute for hours": (
        _set("padding", 5000),
        "padding is 0 to 32, found .5000, 5000, 5000, 5000.",
    ),
    "a stride beyond reason": (
        _set("stride", 10**9),
        "stride is 1 to 1024, found .1000000000, 1000000000.",
    ),
    "a stride beyond integers": (_set("stride", 10**30), "stride is 1 to 1024"),
    "a stride beyond printing": (_set("stride", 10**600), "expected an int or two ints, found 1000"),
    "rotations beyond printing": (_set("out_rotations", 10**600), "'out_rotations' is not a whole number"),
    "a negative stride": (_set("stride", (-2, 1)), "stride is 1 to 1024"),
    "a bool for a stride": (_set("stride", True), "expected an int or two ints, found True"),
    "a tensor for a stride": (_set("stride", torch.ones(2)), "expected an int or two ints, found tensor"),
    "a module for a stride": (_set("stride", nn.ReLU()), "expected an int or two ints, found ReLU"),
    "a list in a list": (_set("padding", [[1], [1]]), "expected an int or two ints, found ..1., .1.."),
}
