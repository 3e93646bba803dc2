"""Where each color-equivariant layer begins and ends in an ONNX file: a text beside the graph.

A graph has no modules. With the names of the values that a layer takes and gives, it can be run by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

LAYERS = "ceconv_convert.layers"
"""The key of the text in a file's ``metadata_props``."""


@dataclass(frozen=True)
class Folded:
    """A batch norm that a layer took up.

    Attributes:
        module: its path; None where that is not known.
        shifts: whether the layer took up its shift too; of several summands only one does.
    """

    module: str | None
    shifts: bool


@dataclass(frozen=True)
class Boundary:
    """A layer in a file.

    Attributes:
        layer: its module's path.
        input: name of the value that it takes; empty where the graph has lost it.
        output: name of the value that it gives; likewise.
        major_in: whether the input is in rotation-major layout, ``[B, N, C', H, W]`` or ``[B, N·C', H, W]``
            with C' ≥ C; else it is as in PyTorch, ``[B, C, N, H, W]``.
        major_out: likewise of the output.
        norms: what it took up, in order.
    """

    layer: str
    input: str
    output: str
    major_in: bool = False
    major_out: bool = False
    norms: tuple[Folded, ...] = ()


def boundaries_as_text(boundaries: Iterable[Boundary]) -> str:
    """The text in the file."""
    return json.dumps([asdict(boundary) for boundary in boundaries])


def boundaries_of(texts: Mapping[str, str]) -> list[Boundary]:
    """The layers of a file by its texts; none where it does not say, or says something else.

    >>> boundaries_of({LAYERS: boundaries_as_text([Boundary("conv1", "input", "y", True)])})
    [Boundary(layer='conv1', input='input', output='y', major_in=True, major_out=False, norms=())]
    """
    try:
        return [_boundary(entry) for entry in json.loads(texts.get(LAYERS, "[]"))]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return []


def _boundary(entry: Mapping[str, object]) -> Boundary:
    norms = entry["norms"]
    if not isinstance(norms, list):
        raise TypeError("norms are a list")
    found = Boundary(**{**entry, "norms": tuple(Folded(**norm) for norm in norms)})  # type: ignore[arg-type]
    texts = (found.layer, found.input, found.output)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("names are texts")
    return found
