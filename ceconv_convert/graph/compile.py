"""An exported graph with symbolic layers → standard operators, by the passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from ceconv_convert.graph.dialect import DOMAIN, Layer, attach
from ceconv_convert.graph.passes import Choice, choose, fold_norms, form_regions, lower
from ceconv_convert.graph.passes.costs import block_of


@dataclass(frozen=True)
class Compiled:
    """What the passes did.

    Attributes:
        choices: the form of every layer.
        fired: how often each pass did something.
    """

    choices: tuple[Choice, ...] = ()
    fired: Mapping[str, int] | None = None


def compile_graph(
    model: ir.Model, layers: Mapping[str, Layer], *, form: str, processor: str | None = None
) -> Compiled:
    """Rewrite ``model`` in place.

    Args:
        model: as exported, with ``Layer`` nodes.
        layers: their meaning, by name.
        form: ``auto`` (by the cost model) or ``fourier`` (wherever it applies).
        processor: that the file is for, ``avx2`` or ``avx512``; None is this machine's.
    """
    graph = model.graph
    attach(graph, layers)
    fired = {"fold_norms": fold_norms(graph), "form_regions": form_regions(graph)}
    choices = choose(graph, form=form, block=block_of(processor))
    fired["lower"] = lower(graph)
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    model.opset_imports.pop(DOMAIN, None)
    common.NameFixPass()(model)
    return Compiled(tuple(choices), fired)
