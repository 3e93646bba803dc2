"""Scores and features as the input's hue rotates through the full circle."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES
from ceconv_convert.kernel.color import rotation_about_grey
from ceconv_convert.kernel.spec import LiftingSpec
from ceconv_convert.verification.equivariance import OUTPUT, HueRotation
from ceconv_convert.verification.evidence import Evidence
from ceconv_convert.verification.outputs import record, run_module

_STEPS = 36
_SCORES = 3


def hue_circle(
    evidence: Evidence, candidates: Mapping[str, Callable[[Tensor], object]]
) -> dict[str, object] | None:
    """Curves by angle, of the original and each candidate; None where inputs do not have three colors.

    The image is the first of the user's inputs, or the first random one. Features are shown of modules alone.
    """
    x = (*evidence.user, *evidence.random)[0].input[:1]
    if x.dim() != 4 or x.shape[1] != 3:
        return None
    angles = [360 * step / _STEPS for step in range(_STEPS + 1)]
    images = [torch.einsum("ij,bjhw->bihw", rotation_about_grey(a), x.double()).to(x.dtype) for a in angles]
    candidates = {"original": evidence.networks.original, **candidates}
    runs = {name: partial(_first_output, run) for name, run in candidates.items()}
    scores = _figure(runs, images, "The outputs that are largest at 0°.", "output", most=_SCORES)
    rotation, turn, features = evidence.hue_rotation, None, None
    if isinstance(rotation, HueRotation):
        lifting = (spec for spec in evidence.networks.specs.values() if isinstance(spec, LiftingSpec))
        turn = next((360 / spec.out_rotations for spec in lifting), None)
        expected = rotation.expected.items()
        layers = [key[0] for key, (own, _) in expected if key != OUTPUT and own.reason is None]
        if layers:
            modules = {name: run for name, run in candidates.items() if isinstance(run, nn.Module)}
            means = {name: partial(_mean_activations, run, layers[-1]) for name, run in modules.items()}
            after = layers[-1] or "the layer"
            caption = f"Mean activation of each rotation of the features after {after}."
            features = _figure(means, images, caption, "rotation")
    return {"angles": angles, "turn": turn, "scores": scores, "features": features}


def _figure(
    runs: Mapping[str, Callable[[Tensor], Tensor]],
    images: list[Tensor],
    caption: str,
    what: str,
    most: int | None = None,
) -> dict[str, object] | None:
    """The curves of the numbers of each run, or of the ``most`` that are largest for the image as it is."""
    rows: dict[str, Tensor] = {}
    for name, run in runs.items():
        with suppress(*FOREIGN_FAILURES):  # its verdict says so
            found = torch.stack([run(image) for image in images])  # [images, numbers]
            if all(found.shape == row.shape for row in rows.values()):
                rows[name] = found
    first = next((row[0] for row in rows.values()), torch.empty(0))
    columns = first.argsort(descending=True)[:most].sort().values
    if not len(columns):
        return None
    curves = {name: row[:, columns].T.tolist() for name, row in rows.items()}
    return {"names": [f"{what} {index}" for index in columns.tolist()], "curves": curves, "caption": caption}


def _first_output(run: Callable[[Tensor], object], image: Tensor) -> Tensor:
    return run_module(run, image)[0].flatten().double().cpu()


def _mean_activations(network: nn.Module, layer: str, image: Tensor) -> Tensor:
    return record(network, image, [layer]).steps[0].output.double().relu().mean((0, 1, 3, 4)).cpu()
