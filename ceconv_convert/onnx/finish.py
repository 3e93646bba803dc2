"""The last touch to a graph before it is a file: names by modules, sizes of values, and who made it."""

from collections import Counter

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import optimize

from ceconv_convert import __version__
from ceconv_convert.onnx.boundaries import module_of

_LARGEST_FOLDED = 2**18
"""Numbers in the largest constant that is computed while the file is written."""
_DESCRIPTION = (
    "A color-equivariant network in standard operators; what it was made from is under the key ceconv_convert"
)


def finish(model: ir.Model, *, name: str, static: bool) -> dict[str, int]:
    """Name nodes and values by modules, and note what is known of their sizes, in place.

    A ``static`` graph loses its arithmetic on sizes: all of them are numbers. ``name`` is the network's.
    Returned are the bytes of the weights that the nodes of each module take, by its path.
    """
    graph = model.graph
    if static:
        optimize(model, input_size_limit=_LARGEST_FOLDED)
    else:
        common.ShapeInferencePass()(model)
    bytes_of = _bytes_by_module(graph)
    _name_by_modules(graph)
    common.ClearMetadataAndDocStringPass()(model)  # stack traces, as large as the graph itself
    inner = [value for node in graph for value in node.outputs]
    for value in (*graph.inputs, *graph.initializers.values(), *inner):
        value.metadata_props.clear()
        if value in inner and value.shape is not None and not value.is_graph_output():
            # Readers that fix the input's sizes cannot unify a number with a name.
            value.shape = ir.Shape([size if isinstance(size, int) else None for size in value.shape])
    graph.name = name
    model.producer_name, model.producer_version = "ceconv-convert", __version__
    model.doc_string = _DESCRIPTION
    return bytes_of


def _name_by_modules(graph: ir.Graph) -> None:
    """``layers.0.conv1/Conv``, and so its first output; a second one of a module has a number."""
    graph.inputs[0].name = "input"
    for index, value in enumerate(graph.outputs):
        value.name = "output" if len(graph.outputs) == 1 else f"output_{index}"
    seen: Counter[str] = Counter()
    for node in graph:
        path = _path(node)
        name = f"{path}/{node.op_type}" if path else node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        for index, value in enumerate(node.outputs):
            if not value.is_graph_output() and value.name:
                value.name = f"{node.name}:{index}" if index else node.name


def _path(node: ir.Node) -> str:
    """Of the module that a node's weight is of, or else that it was traced in; empty outside of modules."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is not None and (weight.name or "").endswith(".weight"):
        return (weight.name or "").removesuffix(".weight")
    path = module_of(node) or ""
    return "" if path.startswith("_") else path  # the exporter's own, as for sizes


def _bytes_by_module(graph: ir.Graph) -> dict[str, int]:
    """What two modules share counts for the first."""
    found: Counter[str] = Counter()
    counted = set()
    for node in graph:
        for value in node.inputs:
            if value is not None and value.const_value is not None and value not in counted:
                counted.add(value)
                found[_path(node)] += value.const_value.nbytes
    return dict(found)
