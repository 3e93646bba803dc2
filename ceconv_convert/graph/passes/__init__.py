"""Passes over a graph with symbolic layers: each exact, each its own file, each says how often it fired."""

from ceconv_convert.graph.passes.choose import Choice, choose
from ceconv_convert.graph.passes.fold_norms import fold_norms
from ceconv_convert.graph.passes.form_regions import form_regions
from ceconv_convert.graph.passes.lower import lower

__all__ = ["Choice", "choose", "fold_norms", "form_regions", "lower"]
