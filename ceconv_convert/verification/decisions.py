"""The classes that a network's outputs decide for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.verification.counts import Accuracy, Agreement
from ceconv_convert.verification.outputs import Outputs


def decide(batches: Sequence[Outputs], labels: Tensor) -> Tensor | str:
    """The class of each labelled input, or why the outputs decide for none.

    The first output counts that has class scores, ``[B, classes]``; or decisions, integers or bools ``[B]``;
    or a single score, which decides between two: above 0 is class 1.

    Raises:
        UnreadableInputError: where a label is no class of the network's.
    """
    largest, count = int(labels.max()), len(labels)
    single_score = False
    for outputs in zip(*batches, strict=False):
        if not all(output.dim() for output in outputs) or sum(map(len, outputs)) != count:
            continue
        if any(output.shape[1:] != outputs[0].shape[1:] for output in outputs):
            continue
        scores = torch.cat(outputs).cpu()
        if _are_scores(scores):
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
        single_score = True
    if single_score:
        return f"the network gives a single score, which decides between the labels 0 and 1; found {largest}"
    shapes = ", ".join(str(list(output.shape[1:])) for output in batches[0])
    return f"for each input the network gives numbers of shape {shapes}, and no class scores or decisions"


def accuracy(original: Sequence[Outputs], found: Sequence[Outputs], labels: Tensor) -> Accuracy | None:
    """How many labelled inputs are classified right; None where outputs decide for no class."""
    right = []
    for batches in (original, found):
        classes = decide(batches, labels)
        if isinstance(classes, str):
            return None
        right.append(int((classes == labels).sum()))
    return Accuracy(right[0], right[1], len(labels))


def agreement(original: Sequence[Outputs], found: Sequence[Outputs]) -> Agreement | None:
    """How often the largest score is the same, in the first output of each batch that looks like scores."""
    same = of = 0
    for batch in zip(original, found, strict=False):
        scores = next((pair for pair in zip(*batch, strict=True) if _are_scores(pair[0])), None)
        if scores is not None:
            same += int((scores[0].argmax(1).cpu() == scores[1].argmax(1).cpu()).sum())
            of += len(scores[0])
    return Agreement(same, of) if of else None


def _are_scores(output: Tensor) -> bool:
    return output.dim() == 2 and output.shape[1] > 1 and output.dtype.is_floating_point
