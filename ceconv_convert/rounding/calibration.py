"""Which images the ranges of an int8 file are taken from, and which it is judged on: never the same."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ceconv_convert.errors import UnreadableInputError

LEAST_EACH = 8
"""Images to calibrate on, and as many to judge on, without which int8 is refused."""
_MOST = 256
"""Images to calibrate on: more change the ranges little."""


@dataclass(frozen=True, eq=False)
class Split:
    """The user's images in two parts; ``labels`` are of those to judge on."""

    calibration: Tensor
    judging: Tensor
    labels: Tensor | None


def split_images(images: Tensor, labels: Tensor | None, *, seed: int, source: str) -> Split:
    """A third of the images, or 256, to calibrate on, drawn by the seed; the others to judge on.

    Raises:
        UnreadableInputError: where there are too few, or they are constant; ``source`` names them.
    """
    least = 2 * LEAST_EACH
    if len(images) < least:
        raise UnreadableInputError(
            f"{source} has {len(images)} image{'' if len(images) == 1 else 's'}: int8 needs at least "
            f"{least}, {LEAST_EACH} to calibrate on and {LEAST_EACH} others to judge on"
        )
    distinct = torch.unique(images.flatten(1), dim=0)
    if len(distinct) < least:
        raise UnreadableInputError(
            f"{source} has {len(distinct)} different images among {len(images)}: int8 needs at least {least}"
        )
    colors = images.flatten(2)
    constant = (colors.amax(2) == colors.amin(2)).all(1)
    if bool(constant.all()):
        raise UnreadableInputError(
            f"all {len(images)} images of {source} are of one color each: int8 takes the range of every "
            "layer from them, so give images as the network will see them"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    count = max(LEAST_EACH, min(_MOST, len(images) // 3))
    chosen, others = order[:count].sort().values, order[count:].sort().values
    return Split(images[chosen], images[others], None if labels is None else labels[others])
