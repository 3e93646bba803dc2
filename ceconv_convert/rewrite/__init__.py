"""Plan a model, then replace its layers."""

from ceconv_convert.rewrite.convert import check_plan, convert, replace_layers
from ceconv_convert.rewrite.plan import plan
from ceconv_convert.rewrite.rows import Plan, PlanRow
from ceconv_convert.rewrite.table import row_as_data

__all__ = ["Plan", "PlanRow", "check_plan", "convert", "plan", "replace_layers", "row_as_data"]
