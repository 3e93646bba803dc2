"""ONNX: export, check, run."""

from ceconv_convert.graph.assumptions import Assumption, violations
from ceconv_convert.graph.boundaries import Boundary, boundaries_of
from ceconv_convert.graph.check import check_file
from ceconv_convert.graph.dialect import SymbolicLayer
from ceconv_convert.graph.explain import choices_as_lines
from ceconv_convert.graph.export import DEFAULT_OPSET, Exported, write_onnx
from ceconv_convert.graph.files import data_files
from ceconv_convert.graph.isolate import run_isolated
from ceconv_convert.graph.metadata import write_metadata
from ceconv_convert.graph.multiplications import multiplications
from ceconv_convert.graph.runtime import CONVOLVED, OnnxRunner, check_dtype
from ceconv_convert.graph.values import named_values

__all__ = [
    "CONVOLVED",
    "DEFAULT_OPSET",
    "Assumption",
    "Boundary",
    "Exported",
    "OnnxRunner",
    "SymbolicLayer",
    "boundaries_of",
    "check_dtype",
    "check_file",
    "choices_as_lines",
    "data_files",
    "multiplications",
    "named_values",
    "run_isolated",
    "violations",
    "write_metadata",
    "write_onnx",
]
