"""What the compiler chose, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ceconv_convert.graph.passes import Choice

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
    saved = 1 - sum(c.costs[c.form] for c in choices) / sum(c.costs["direct"] for c in choices)
    line = ", ".join(f"{count} × {form}" for form, count in counts.most_common())
    if round(100 * saved):
        line += f"; by estimate {100 * saved:.0f} % less work in the layers than direct alone"
    return [line, *(_exceptions(choices, form) for form in counts if form != usual)]


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
