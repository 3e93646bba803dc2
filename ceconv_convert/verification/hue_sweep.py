"""What becomes of scores and features as the input's hue turns through the full circle."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES
from ceconv_convert.kernel.color import rotation_about_grey
from ceconv_convert.verification.evidence import Evidence
from ceconv_convert.verification.running import Outputs
from ceconv_convert.verification.steps import record
from ceconv_convert.verification.symmetry import Turn

_STEPS = 36
_SCORES = 3
Curves = dict[str, list[list[float]]]


def hue_circle(
    evidence: Evidence,
    candidates: Mapping[str, Callable[[Tensor], Outputs]],
    networks: Mapping[str, nn.Module],
) -> dict[str, object] | None:
    """Curves by angle, of the original and each candidate; None where inputs have no three colors to turn.

    The image is the first of the user's inputs, or the first random one.

    Args:
        evidence: from the original.
        candidates: what gives outputs, by name.
        networks: those of them that are modules: their features are looked at too.
    """
    x = (evidence.data or evidence.inputs)[0][:1]
    if x.dim() != 4 or x.shape[1] != 3:
        return None
    angles = [360 * step / _STEPS for step in range(_STEPS + 1)]
    images = [torch.einsum("ij,bjhw->bihw", rotation_about_grey(a), x.double()).to(x.dtype) for a in angles]
    layer = _layer_to_show(evidence)
    return {
        "angles": angles,
        "turn": None if evidence.rotations is None else 360 / evidence.rotations,
        "scores": _scores({"original": evidence.run_original, **candidates}, images),
        "features": None
        if layer is None
        else _features({"original": evidence.network, **networks}, layer, images),
    }


def _scores(
    runs: Mapping[str, Callable[[Tensor], Outputs]], images: list[Tensor]
) -> dict[str, object] | None:
    """The outputs that are largest for the image as it is."""
    chosen: Tensor | None = None
    size = 0
    curves: Curves = {}
    for name, run in runs.items():
        try:
            rows = [run(image)[0].flatten().double().cpu() for image in images]
        except FOREIGN_FAILURES:
            continue  # its verdict says so
        if chosen is None:
            size = len(rows[0])
            chosen = rows[0].argsort(descending=True)[:_SCORES].sort().values
        if all(len(row) == size for row in rows):
            curves[name] = [[float(row[index]) for row in rows] for index in chosen]
    if chosen is None or not size:
        return None
    names = [f"output {index}" for index in chosen.tolist()]
    return {"names": names, "curves": curves, "caption": "The outputs that are largest at 0°."}


def _features(
    networks: Mapping[str, nn.Module], layer: str, images: list[Tensor]
) -> dict[str, object] | None:
    """The mean activation of each rotation of one layer."""
    curves: Curves = {}
    count = 0
    for name, network in networks.items():
        try:
            rows = [record(network, image, [layer])[0].output for image in images]
            means = [row.double().relu().mean((0, 1, 3, 4)) for row in rows]
        except FOREIGN_FAILURES:
            continue  # it has no such layer, or features of another shape: its verdict says so
        count = count or len(means[0])
        if len(means[0]) == count:
            curves[name] = [[float(mean[rotation]) for mean in means] for rotation in range(count)]
    if not curves:
        return None
    return {
        "names": [f"rotation {rotation}" for rotation in range(count)],
        "curves": curves,
        "caption": f"Mean activation of each rotation of the features after {layer or 'the layer'}.",
    }


def _layer_to_show(evidence: Evidence) -> str | None:
    """The last layer that is equivariant by design, and has rotations."""
    if not isinstance(evidence.turn, Turn):
        return None
    layers = [key[0] for key, expected in evidence.turn.layers.items() if expected.reason is None]
    return layers[-1] if layers else None
