"""The equivariance oracle: turn the input's hue by one rotation; features roll by one, pooled logits stay.

For a lifting layer with a hue matrix M, M^N = 1: ``(M^r w) · (M x) = (M^(r-1) w) · x``, so that rotation r of
the features of ``M x`` is rotation r - 1 of those of ``x``. Lengyel et al., NeurIPS 2023, section 3.2.
Whether a layer is equivariant by design is not guessed: the float64 reference shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ceconv_convert.kernel.color import rotations_of
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec
from ceconv_convert.verification.distance import distance, largest
from ceconv_convert.verification.running import run_module
from ceconv_convert.verification.sensitivity import Sensitivity
from ceconv_convert.verification.steps import Step, StepKey, record
from ceconv_convert.verification.verdict import Measure, Symmetry

_BY_DESIGN = 256
"""Roundings of the model's dtype: a matrix in float32 turns by 120° up to some of them."""


@dataclass(frozen=True, eq=False)
class Expectation:
    """What features do when the input's hue turns.

    Attributes:
        reason: why nothing is expected; None where something is.
        original: how far the original is from it, absolute.
        scale: largest absolute value of the features.
    """

    reason: str | None
    original: float
    scale: float


@dataclass(frozen=True, eq=False)
class Turn:
    """An input, the same with its hue turned, and what is expected of each layer and of the output.

    Attributes:
        plain: the input.
        turned: with its hue turned by one rotation.
        layers: by step.
        output: of the network's first output.
        dtype: the network's.
        moved: how far roundings may move the first output, where somebody asks.
    """

    plain: Tensor
    turned: Tensor
    layers: Mapping[StepKey, Expectation]
    output: Expectation
    dtype: torch.dtype
    moved: Callable[[], float]

    def compare(
        self,
        run: Callable[[Tensor], tuple[Tensor, ...]],
        plain: Sequence[Step] = (),
        turned: Sequence[Step] = (),
    ) -> list[Symmetry]:
        """Measure a candidate: its output, and its layers where its steps are given."""
        before, after = ({step.key: step.output for step in steps} for steps in (plain, turned))
        found = []
        for key, expected in self.layers.items():
            difference = None
            if key in before and key in after and before[key].shape == after[key].shape:
                difference = rolled_distance(before[key], after[key])
            found.append(self._symmetry(key[0] or "(root)", expected, difference))
        outputs = [run(x)[0] for x in (self.plain, self.turned)]
        result = self._symmetry("output", self.output, distance(outputs[0], outputs[1]))
        if result.problem is not None:
            result = self._symmetry("output", self.output, distance(outputs[0], outputs[1]), self.moved())
        return [*found, result]

    def _symmetry(
        self, name: str, expected: Expectation, difference: float | None, moved: float = 0.0
    ) -> Symmetry:
        scale = expected.scale or 1.0
        problem = None
        if expected.reason is None and difference is not None:
            problem = Measure(
                difference, expected.original, 2 * expected.scale, self.dtype, moved=2 * moved
            ).problem
        relative = None if difference is None else difference / scale
        return Symmetry(name, expected.reason, expected.original / scale, relative, problem)


def rotate_hue(x: Tensor, specs: Mapping[str, KernelSpec]) -> Tensor | str:
    """The input with its hue turned by one rotation, or why it has none."""
    lifting = [spec for spec in specs.values() if isinstance(spec, LiftingSpec) and spec.out_rotations > 1]
    if not lifting:
        if x.dim() == 5 and x.shape[2] > 1:
            return x.roll(1, 2)  # features: their rotations are the hue
        return "the network has no lifting layer"
    matrices = [spec.matrix for spec in lifting]
    if any(not torch.equal(matrix, matrices[0]) for matrix in matrices):
        return "its lifting layers have matrices of their own"
    if {rotations_of(matrices[0].to(x.dtype))} != {spec.out_rotations for spec in lifting}:
        return "the lifting layer's matrix is learned: no rotation of the hue by a part of the circle"
    if x.dim() < 4 or x.shape[1] != 3:
        return "the input has no three colors"
    return torch.einsum("ij,bj...->bi...", matrices[0], x.double()).to(x.dtype)


def expect(
    plain: Tensor, turned: Tensor, exact: Tensor, exact_turned: Tensor, spec: KernelSpec
) -> Expectation:
    """What is expected of a layer's features, by what the reference's do."""
    scale = largest(exact)
    own = rolled_distance(plain, turned)
    if rolled_distance(exact, exact_turned) <= _BY_DESIGN * torch.finfo(plain.dtype).eps * scale:
        return Expectation(None, own, scale)
    if not isinstance(spec, LiftingSpec) and spec.out_rotations % spec.in_rotations:
        reason = f"{spec.in_rotations} rotations in are no part of {spec.out_rotations} out"
    else:
        reason = "what comes before it is not equivariant"
    return Expectation(reason, own, scale)


def expect_output(plain: Tensor, turned: Tensor, exact: Tensor, exact_turned: Tensor) -> Expectation:
    """What is expected of the network's output, by what the reference's does."""
    scale = largest(exact)
    rounding = torch.finfo(plain.dtype).eps if plain.dtype.is_floating_point else 0.0  # decisions are exact
    stays = distance(exact, exact_turned) <= _BY_DESIGN * rounding * scale
    reason = None if stays else "it is not invariant by design: rotations are not pooled, or not only pooled"
    return Expectation(reason, distance(plain, turned), scale)


def rolled_distance(plain: Tensor, turned: Tensor) -> float:
    """How far ``turned`` is from ``plain`` rolled by one rotation."""
    return distance(plain.roll(1, 2), turned)


def turn_through(
    original: nn.Module,
    reference: nn.Module,
    specs: Mapping[str, KernelSpec],
    x: Tensor,
    sensitivity: Sensitivity,
) -> Turn | str:
    """What becomes of the original's features and output when the hue of ``x`` turns; or why it has none."""
    turned = rotate_hue(x, specs)
    if isinstance(turned, str):
        return turned
    found = [record(original, image, specs) for image in (x, turned)]
    truth = [record(reference, image.double(), specs) for image in (x, turned)]
    plain, after, exact, exact_after = (
        {step.key: step.output for step in steps} for steps in (*found, *truth)
    )
    layers = {
        key: expect(plain[key], after[key], exact[key], exact_after[key], specs[key[0]])
        for key in plain
        if key in after and key in exact and key in exact_after and plain[key].shape == after[key].shape
    }
    outputs = [
        *(run_module(original, image)[0] for image in (x, turned)),
        *(run_module(reference, image.double())[0] for image in (x, turned)),
    ]
    expected = expect_output(outputs[0], outputs[1], outputs[2], outputs[3])
    return Turn(x, turned, layers, expected, x.dtype, lambda: sensitivity.outputs(x, outputs[2:3])[0])
