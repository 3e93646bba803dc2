"""Hue equivariance: rotate the input's hue by one rotation; features roll by one, pooled logits stay.

For a lifting layer with a hue matrix M, M^N = 1: ``(M^r w) · (M x) = (M^(r-1) w) · x``, so that rotation r of
the features of ``M x`` is rotation r - 1 of those of ``x``. Lengyel et al., NeurIPS 2023, section 3.2.
Whether a layer is equivariant by design is not guessed: the float64 reference shows it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ceconv_convert.errors import FOREIGN_FAILURES
from ceconv_convert.kernel.color import rotations_of
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec
from ceconv_convert.verification.outputs import Recording, StepKey
from ceconv_convert.verification.reference import Example
from ceconv_convert.verification.tolerance import Measure, distance, largest
from ceconv_convert.verification.verdict import Symmetry

OUTPUT: StepKey = ("output", -1)
"""The network's first output, beside the layers."""
_BY_DESIGN_EPS = 256
"""Largest distance from equivariance by design, in eps: a float32 matrix rotates by 120° up to a few."""


@dataclass(frozen=True, eq=False)
class HueRotation:
    """An example, its input with the hue rotated, and what is expected of each layer and of the output.

    That is how equivariant the original is, and the measure that candidates are held to.
    """

    example: Example
    rotated: Tensor
    expected: Mapping[StepKey, tuple[Symmetry, Measure]]

    def compare(self, run: Callable[[Tensor], Recording]) -> list[Symmetry]:
        """Check a candidate: its output, and its layers where ``run`` records them.

        Nothing where it does not run, which its outputs tell.
        """
        try:
            before, after = (_features(run(x)) for x in (self.example.input, self.rotated))
        except FOREIGN_FAILURES:
            return []
        return [self._check(key, before.get(key), after.get(key)) for key in self.expected]

    def _check(self, key: StepKey, before: Tensor | None, after: Tensor | None) -> Symmetry:
        symmetry, measure = self.expected[key]
        if before is None or after is None or before.shape != after.shape:
            return symmetry
        spec = self.example.networks.specs.get(key[0])
        measure = replace(measure, error=_difference(spec, key, before, after), dtype=self.rotated.dtype)
        symmetry = replace(symmetry, candidate=measure.error / (measure.scale / 2 or 1.0))
        if symmetry.reason is not None:
            return symmetry
        if measure.problem is not None and key == OUTPUT:
            measure = replace(measure, sensitivity=2 * self.example.sensitivity[0])
        return replace(symmetry, problem=measure.problem)


def rotate_hue(example: Example) -> HueRotation | str:
    """Rotate the hue of an example; a text where it has none."""
    specs = example.networks.specs
    x = with_rotated_hue(example.input, specs)
    if isinstance(x, str):
        return x
    rotated = example.networks.run(x, specs)
    runs = [_features(r) for r in (example.original, rotated.original, example.reference, rotated.reference)]
    expected = {
        key: _expect(key, specs.get(key[0]), *(features[key] for features in runs))
        for key in runs[0]
        if all(key in features for features in runs) and runs[0][key].shape == runs[1][key].shape
    }
    return HueRotation(example, x, expected)


def with_rotated_hue(x: Tensor, specs: Mapping[str, KernelSpec]) -> Tensor | str:
    """Inputs with their hue rotated by one rotation; a text where they have none."""
    lifting = [spec for spec in specs.values() if isinstance(spec, LiftingSpec) and spec.out_rotations > 1]
    if not lifting:
        first = next(iter(specs.values()), None)
        if first is not None and first.group_major and x.shape[1] == first.in_rotations * first.in_channels:
            return x.roll(first.in_channels, 1)  # copies of the image, the hues first
        if x.dim() == 5 and x.shape[2] > 1:
            return x.roll(1, 2)  # features: their rotations are the hue
        return "the network has no lifting layer"
    matrix = lifting[0].matrix
    if any(not torch.equal(spec.matrix, matrix) for spec in lifting):
        return "its lifting layers have matrices of their own"
    if {rotations_of(matrix.to(x.dtype))} != {spec.out_rotations for spec in lifting}:
        return "the lifting layer's matrix is learned: no rotation of the hue by a part of the circle"
    if x.dim() < 4 or x.shape[1] != 3:
        return "the input has no three colors"
    return torch.einsum("ij,bj...->bi...", matrix, x.double()).to(x.dtype)


def _features(recording: Recording) -> dict[StepKey, Tensor]:
    return {**recording.features, OUTPUT: recording.outputs[0]}


def _difference(spec: KernelSpec | None, key: StepKey, before: Tensor, after: Tensor) -> float:
    if key == OUTPUT:
        return distance(before, after)
    by, axis = (spec.out_channels, 1) if spec is not None and spec.group_major else (1, 2)
    return distance(before.roll(by, axis), after)


def _expect(
    key: StepKey, spec: KernelSpec | None, before: Tensor, after: Tensor, exact: Tensor, exact_after: Tensor
) -> tuple[Symmetry, Measure]:
    scale, reason = largest(exact), "what comes before it is not equivariant"
    eps = torch.finfo(before.dtype).eps if before.dtype.is_floating_point else 0.0  # decisions are exact
    by_design = _difference(spec, key, exact, exact_after) <= _BY_DESIGN_EPS * eps * scale
    if key == OUTPUT:
        reason = "it is not invariant by design: rotations are not pooled, or not only pooled"
    elif spec is not None and not isinstance(spec, LiftingSpec) and spec.out_rotations % spec.in_rotations:
        reason = f"{spec.in_rotations} rotations in are no part of {spec.out_rotations} out"
    own = _difference(spec, key, before, after)
    symmetry = Symmetry(key[0] or "(root)", None, None if by_design else reason, own / (scale or 1.0), None)
    return symmetry, Measure(0.0, own, 2 * scale, before.dtype)
