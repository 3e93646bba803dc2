"""What the compiler chose, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ceconv_convert.onnx.passes.choose import Choice

_NAMED = 4


def choices_as_lines(choices: Sequence[Choice]) -> list[str]:
    """A line on how many layers have which form, and one on each form that is an exception, with the reason.

    >>> choices_as_lines([Choice("conv1", "conv2d", (3, 8), {"conv2d": 2e6})])
    ['1 × conv2d']
    """
    counts = Counter(choice.form for choice in choices).most_common()
    lines: list[str] = []
    for form, _ in counts:
        found = [choice for choice in choices if choice.form == form]
        if lines:
            shown = [f"{choice.layer or '(root)'} ({_reason(choice)})" for choice in found[:_NAMED]]
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            lines.append(f"{form}: {', '.join(shown)}{more}")
        else:
            lines.append(", ".join(f"{count} × {name}" for name, count in counts) + _compared(found))
    return lines


def _next_best(choice: Choice) -> tuple[float, str]:
    """The cost of the cheapest other form, in that of the chosen one, and its name."""
    others = ((cost / choice.costs[choice.form], name) for name, cost in choice.costs.items())
    return min((other for other in others if other[1] != choice.form), default=(0.0, ""))


def _compared(choices: Sequence[Choice]) -> str:
    """By how much the form that most layers have is better than the next best one, by estimate."""
    factors = [_next_best(choice)[0] for choice in choices if len(choice.costs) > 1]
    if not factors:
        return ""
    others = {name for choice in choices for name in choice.costs if name != choice.form}
    low, high = f"{min(factors):.2f}", f"{max(factors):.2f}"
    return f"; {' or '.join(sorted(others))} would cost {low if low == high else f'{low} to {high}'}×"


def _reason(choice: Choice) -> str:
    if choice.forced:
        return "as requested"
    factor, name = _next_best(choice)
    return f"{name} would cost {factor:.2f}×" if name else "no other form is exact"
