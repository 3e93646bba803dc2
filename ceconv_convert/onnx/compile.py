"""An exported graph with symbolic layers → standard operators, by the passes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes import Sequential, common

from ceconv_convert.onnx.boundaries import Boundary
from ceconv_convert.onnx.dialect import DOMAIN, LAYER, Layer, is_dialect, notes
from ceconv_convert.onnx.passes.choose import Choice, choose
from ceconv_convert.onnx.passes.cost_models import CostModel
from ceconv_convert.onnx.passes.fold_norms import fold_norms
from ceconv_convert.onnx.passes.form_regions import form_regions
from ceconv_convert.onnx.passes.lower import lower

_LARGEST_MATRIX = 2**18
"""Numbers in the largest constant that may be shared: a transform of 360 rotations has fewer."""


@dataclass(frozen=True)
class Compiled:
    """What the passes did."""

    choices: tuple[Choice, ...] = ()  # the form of every layer, each time that it is called
    fired: Mapping[str, int] = field(default_factory=dict)  # how often each pass did something
    boundaries: Sequence[Boundary[ir.Value]] = ()  # where each layer begins and ends


def compile_graph(model: ir.Model, layers: Mapping[str, Layer], *, form: str, costs: CostModel) -> Compiled:
    """Rewrite a model with ``Layer`` nodes, which compute ``layers``, in place.

    ``form`` is ``auto`` (by the cost model) or ``fourier`` (wherever it applies), ``block`` the channel block
    of the runtime.
    """
    graph = model.graph
    outputs = [(value.shape, value.type) for value in graph.outputs]
    for node in graph:
        if is_dialect(node, LAYER):
            notes(node).layer = layers[node.attributes["name"].as_string()]
    fired = {"fold_norms": fold_norms(graph), "form_regions": form_regions(graph)}
    common.RemoveUnusedNodesPass()(model)
    choices = choose(graph, form=form, model=costs)
    boundaries = lower(graph, elementwise=costs.elementwise)
    Sequential(
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(_LARGEST_MATRIX),
        common.CommonSubexpressionEliminationPass(),
    )(model)
    for value, (shape, kind) in zip(graph.outputs, outputs, strict=True):  # an equal value may stand for one
        value.shape, value.type = shape, kind
    model.opset_imports.pop(DOMAIN, None)
    common.NameFixPass()(model)
    return Compiled(tuple(choices), fired, boundaries)
