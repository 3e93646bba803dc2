"""The class that a network decides for, and how often labels agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.verification.verdict import Accuracy

Rows = Sequence[tuple[Tensor, ...]]
"""The outputs on each batch."""


def decide(rows: Rows, labels: Tensor) -> Tensor | str:
    """The class of each labelled input, or why outputs decide for none.

    The first output counts that has class scores, ``[B, classes]``; or decisions, integers or bools ``[B]``;
    or one score alone, which decides between two: above 0 is class 1.

    Raises:
        UnreadableInputError: where a label is no class of the network's.
    """
    largest, count = int(labels.max()), len(labels)
    alone = False
    for outputs in zip(*rows, strict=False):
        if not all(output.dim() for output in outputs) or sum(map(len, outputs)) != count:
            continue
        if any(output.shape[1:] != outputs[0].shape[1:] for output in outputs):
            continue
        scores = torch.cat(outputs).cpu()
        if scores.dim() == 2 and scores.shape[1] > 1 and scores.dtype.is_floating_point:
            if largest >= scores.shape[1]:
                raise UnreadableInputError(
                    f"an input has the label {largest}, and the network has scores of the classes 0 to "
                    f"{scores.shape[1] - 1}"
                )
            return scores.argmax(1)
        if scores.numel() != count:
            continue
        if not scores.dtype.is_floating_point:
            return scores.reshape(count)
        if largest <= 1:
            return scores.reshape(count) > 0
        alone = True
    if alone:
        return f"the network gives a single score, which decides between the labels 0 and 1; found {largest}"
    shapes = ", ".join(str(list(output.shape[1:])) for output in rows[0])
    return f"for each input the network gives numbers of shape {shapes}, and no class scores or decisions"


def accuracy(original: Rows, found: Rows, labels: Tensor) -> Accuracy | None:
    """How many labelled inputs are classified right; None where outputs decide for no class."""
    right = []
    for rows in (original, found):
        classes = decide(rows, labels)
        if isinstance(classes, str):
            return None
        right.append(int((classes == labels).sum()))
    return Accuracy(right[0], right[1], len(labels))
