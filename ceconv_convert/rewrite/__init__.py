"""Plan a model, then replace its layers."""

from ceconv_convert.rewrite.convert import check_plan, convert
from ceconv_convert.rewrite.plan import Plan, PlanRow, plan

__all__ = ["Plan", "PlanRow", "check_plan", "convert", "plan"]
