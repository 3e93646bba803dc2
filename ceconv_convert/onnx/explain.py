"""What the compiler chose, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ceconv_convert.onnx.passes.choose import Choice

_NAMED = 4


def choices_as_lines(choices: Sequence[Choice]) -> list[str]:
    """A line on how many layers have which form, and one on each form that is an exception, with the reason.

    >>> choices_as_lines([Choice("conv1", "direct", (3, 8), {"direct": 2e6})])
    ['1 × direct']
    """
    if not choices:
        return []
    counts = Counter(choice.form for choice in choices)
    usual, _ = counts.most_common(1)[0]
    line = ", ".join(f"{count} × {form}" for form, count in counts.most_common())
    line += _compared([choice for choice in choices if choice.form == usual])
    return [line, *(_exceptions(choices, form) for form in counts if form != usual)]


def _compared(choices: Sequence[Choice]) -> str:
    """By how much the form that most layers have is better than the next best one, by estimate."""
    form = choices[0].form
    factors = [
        min(cost for name, cost in choice.costs.items() if name != form) / choice.costs[form]
        for choice in choices
        if len(choice.costs) > 1
    ]
    if not factors:
        return ""
    others = {name for choice in choices for name in choice.costs if name != form}
    low, high = f"{min(factors):.2f}", f"{max(factors):.2f}"
    return f"; {' or '.join(sorted(others))} would cost {low if low == high else f'{low} to {high}'}×"


def _exceptions(choices: Sequence[Choice], form: str) -> str:
    found = [choice for choice in choices if choice.form == form]
    shown = [f"{choice.layer or '(root)'} ({_reason(choice)})" for choice in found[:_NAMED]]
    rest = len(found) - len(shown)
    return f"{form}: {', '.join(shown)}{f' and {rest} more' if rest else ''}"


def _reason(choice: Choice) -> str:
    others = {name: cost for name, cost in choice.costs.items() if name != choice.form}
    if choice.forced:
        return "as asked"
    if not others:
        return "no other form is exact"
    name = min(others, key=lambda other: others[other])
    return f"{name} would cost {others[name] / choice.costs[choice.form]:.2f}×"
