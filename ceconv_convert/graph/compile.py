"""An exported graph with symbolic layers → standard operators, by the passes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes import common

from ceconv_convert.graph.dialect import DOMAIN, Layer, attach
from ceconv_convert.graph.metadata import FOLDED
from ceconv_convert.graph.passes import Choice, choose, fold_norms, form_regions, lower


@dataclass(frozen=True)
class Compiled:
    """What the passes did.

    Attributes:
        choices: the form of every layer, each time that it is called.
        fired: how often each pass did something.
    """

    choices: tuple[Choice, ...] = ()
    fired: Mapping[str, int] = field(default_factory=dict)


def compile_graph(model: ir.Model, layers: Mapping[str, Layer], *, form: str, block: int) -> Compiled:
    """Rewrite ``model`` in place, and note in it which layers have no features of their own any more.

    Args:
        model: as exported, with ``Layer`` nodes.
        layers: their meaning, by name.
        form: ``auto`` (by the cost model) or ``fourier`` (wherever it applies).
        block: channels that the runtime takes abreast.
    """
    graph = model.graph
    ends = [(value.shape, value.type) for value in graph.outputs]
    attach(graph, layers)
    norms = fold_norms(graph)
    fired = {"fold_norms": len(norms), "form_regions": form_regions(graph)}
    choices = choose(graph, form=form, block=block)
    fired["lower"] = lower(graph)
    folded = {name for names in norms for name in names}
    if folded:
        model.metadata_props[FOLDED] = json.dumps(sorted(folded))
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    for value, (shape, kind) in zip(graph.outputs, ends, strict=True):  # a twin may stand for it
        value.shape, value.type = shape, kind
    model.opset_imports.pop(DOMAIN, None)
    common.NameFixPass()(model)
    return Compiled(tuple(choices), fired)
