"""Which module of the network a node comes from, as torch's exporter notes it."""

from __future__ import annotations

import ast

import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"
_MODULE = "module"


def note_modules(graph: ir.Graph) -> None:
    """Keep the path of each node's module where the exporter's own notes are dropped."""
    for node in graph:
        try:
            # The modules from the outside, then the operator: ['', 'layers.0', 'layers.0.conv1', 'conv2d'].
            scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        except (ValueError, SyntaxError):
            continue
        if isinstance(scopes, list) and len(scopes) > 1:
            node.meta[_MODULE] = str(scopes[-2])


def module_of(node: ir.Node) -> str | None:
    """The path of a node's module; None where the exporter does not say."""
    found = node.meta.get(_MODULE)
    return found if isinstance(found, str) else None
