"""Stand-ins for module classes, whose constructors a pickle cannot call.

pickle makes a module empty and then sets its state. A file that calls a constructor instead, with arguments
of its own, can claim any amount of memory: no honest file does.
"""

from __future__ import annotations

import types
from typing import Any

from torch import nn

from ceconv_convert.layers.ceconv2d import PICKLED_AS


class StandIns:
    """Makes stand-ins; ``restore`` turns their instances into those of the real classes."""

    def __init__(self) -> None:
        self._made: list[tuple[nn.Module, type[nn.Module], str]] = []

    def of(self, cls: type, name: str) -> type:
        """The stand-in for a module class that a file calls ``name``; any other class is its own."""
        if not issubclass(cls, nn.Module):
            return cls

        def make(stand_in: type[nn.Module], *arguments: Any, **options: Any) -> nn.Module:
            if arguments or options:
                refuse()
            module: nn.Module = object.__new__(stand_in)
            self._made.append((module, cls, name))
            return module

        def refuse(*arguments: Any, **options: Any) -> None:
            raise TypeError(f"it calls the constructor of {cls.__name__}, which no saved module does")

        members = {"__new__": make, "__init__": refuse, "__module__": cls.__module__}
        return types.new_class(cls.__name__, (cls,), exec_body=lambda namespace: namespace.update(members))

    def restore(self) -> None:
        """Set the real class of every instance, and remember a published class name beside it."""
        for module, cls, name in self._made:
            object.__setattr__(module, "__class__", cls)  # nn.Module's own setter reads its state
            if name.partition(".")[0] != cls.__module__.partition(".")[0]:
                vars(module)[PICKLED_AS] = name
        self._made.clear()
