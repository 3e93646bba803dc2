"""Passes over an exported graph: each exact, each its own file, each says how often it fired."""

from __future__ import annotations

from pathlib import Path

import onnx

from ceconv_convert.graph.passes.fold_norms import fold_norms
from ceconv_convert.graph.passes.index import GraphIndex
from ceconv_convert.graph.passes.sink_transposes import sink_transposes

__all__ = ["GraphIndex", "fold_norms", "run_passes", "sink_transposes"]

PASSES = (fold_norms, sink_transposes)


def run_passes(path: Path) -> dict[str, int]:
    """Run every pass over a file; how often each fired. A file in which none does is left as it is."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    index = GraphIndex(model.graph)
    fired = {run.__name__: run(index) for run in PASSES}
    if any(fired.values()):
        index.commit()
        path.write_bytes(model.SerializeToString(deterministic=True))
    return fired
