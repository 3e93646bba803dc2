"""An exported graph with symbolic layers → standard operators, by the passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes import common

from ceconv_convert.onnx.boundaries import Boundary
from ceconv_convert.onnx.dialect import DOMAIN, Layer, attach
from ceconv_convert.onnx.passes.choose import Choice, choose
from ceconv_convert.onnx.passes.fold_norms import fold_norms
from ceconv_convert.onnx.passes.form_regions import form_regions
from ceconv_convert.onnx.passes.lower import lower


@dataclass(frozen=True)
class Compiled:
    """What the passes did.

    Attributes:
        choices: the form of every layer, each time that it is called.
        fired: how often each pass did something.
        boundaries: where each layer begins and ends.
    """

    choices: tuple[Choice, ...] = ()
    fired: Mapping[str, int] = field(default_factory=dict)
    boundaries: Sequence[Boundary[ir.Value]] = ()


def compile_graph(model: ir.Model, layers: Mapping[str, Layer], *, form: str, block: int) -> Compiled:
    """Rewrite ``model`` in place.

    Args:
        model: as exported, with ``Layer`` nodes.
        layers: their meaning, by name.
        form: ``auto`` (by the cost model) or ``fourier`` (wherever it applies).
        block: channels that the runtime takes abreast.
    """
    graph = model.graph
    ends = [(value.shape, value.type) for value in graph.outputs]
    attach(graph, layers)
    fired = {"fold_norms": fold_norms(graph), "form_regions": form_regions(graph)}
    choices = choose(graph, form=form, block=block)
    layer_ends = lower(graph)
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    for value, (shape, kind) in zip(graph.outputs, ends, strict=True):  # a twin may stand for it
        value.shape, value.type = shape, kind
    model.opset_imports.pop(DOMAIN, None)
    common.NameFixPass()(model)
    return Compiled(tuple(choices), fired, layer_ends)
