"""The verdict on a candidate: what each check found, as data, as one line, and as plain data for files."""

from dataclasses import dataclass, fields, is_dataclass

from ceconv_convert.verification.counts import Accuracy, Agreement
from ceconv_convert.verification.rounded import Rounded
from ceconv_convert.verification.tolerance import Measure


@dataclass(frozen=True)
class Case:
    """One output on one input, which has ``shape``."""

    shape: tuple[int, ...]
    output: int
    measure: Measure


@dataclass(frozen=True)
class Check:
    """What was found of one part of a network, by its path; ``problem`` is why it fails, or None."""

    name: str
    problem: str | None


@dataclass(frozen=True)
class LayerCheck(Check):
    """One converted layer by itself, on ``random`` signs and on ``real`` features of the network.

    Measures are of the channel that comes closest to its tolerance; None where nothing was compared.
    """

    random: Measure | None
    real: Measure | None = None


@dataclass(frozen=True)
class StepCheck(Check):
    """The features after one step of the network, with all that came before it."""

    is_layer: bool
    features: Measure | None


@dataclass(frozen=True)
class Symmetry(Check):
    """Distances from equivariance, relative to the largest feature, when the hue rotates by one rotation.

    A layer's features roll by one, and ``output`` stays; ``reason`` is why that is not expected by design, or
    None. ``candidate`` is None where it cannot be seen.
    """

    reason: str | None
    original: float
    candidate: float | None


@dataclass(frozen=True)
class Verdict:
    """Whether a converted network is the original, and how closely.

    Attributes:
        candidate: what was judged, in words.
        cases: one an input and output.
        layers: one a converted layer; empty where the candidate has no layers to look at.
        worst: of the output that comes closest to its tolerance, over all inputs.
        problem: why it failed, or None.
        steps: the features after each step of the network, on the first input.
        agreement: of the largest scores, where an output looks like class scores.
        accuracy: on the user's inputs, where their classes are known.
        symmetries: hue equivariance, one a layer and one for the output.
        rounded: of a file of less than float32, what it loses; all else is of the exact file that it was made
            from. None where the candidate is exact.
    """

    candidate: str
    cases: tuple[Case, ...]
    layers: tuple[LayerCheck, ...]
    worst: Measure
    problem: str | None
    steps: tuple[StepCheck, ...] = ()
    agreement: Agreement | None = None
    accuracy: Accuracy | None = None
    symmetries: tuple[Symmetry, ...] = ()
    rounded: Rounded | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return ", ".join(verdict_as_lines(self))


def verdict_as_lines(*verdicts: Verdict) -> list[str]:
    """What was judged, and how it came out, then details; of several, the first failure."""
    for verdict in verdicts:
        if not verdict.passed:
            return [f"FAIL: {verdict.candidate}: {verdict.problem}"]
    passed = f"PASS: {' and '.join(verdict.candidate for verdict in verdicts)}"
    rounded = [detail for v in verdicts if v.rounded is not None for detail in v.rounded.details()]
    if rounded:
        return [f"{passed}: {rounded[0]}", *rounded[1:]]
    inputs = max(len({case.shape for case in verdict.cases}) for verdict in verdicts)
    layers = max(len(verdict.layers) for verdict in verdicts)
    worst = max((verdict.worst for verdict in verdicts), key=lambda worst: worst.error_over_tolerance)
    details = [
        f"{worst.relative_error:.1e} of the largest output",
        f"the original's own error {worst.original_error:.1e}",
        f"on {inputs} inputs" + (f" and {layers} layers" if layers else ""),
    ]
    agreements = [verdict.agreement for verdict in verdicts if verdict.agreement is not None]
    details += map(str, sorted(agreements, key=lambda found: found.same / found.of)[:1])
    details += [str(verdict.accuracy) for verdict in verdicts if verdict.accuracy is not None][-1:]
    return [f"{passed}: worst error {worst.error:.1e}, tolerance {worst.tolerance:.1e}", *details]


def verdict_summary(verdict: Verdict) -> dict[str, object]:
    """The verdict as plain data, for a written file."""
    return {
        "candidate": verdict.candidate,
        "passed": verdict.passed,
        "problem": verdict.problem,
        **_measure_as_data(verdict.worst),
        "inputs": len({case.shape for case in verdict.cases}),
        "layers": len(verdict.layers),
    }


def verdict_in_full(verdict: Verdict) -> dict[str, object]:
    """The verdict as plain data, for a report."""
    names = ("cases", "layers", "steps", "symmetries", "agreement", "accuracy", "rounded")
    return verdict_summary(verdict) | {name: _as_data(getattr(verdict, name)) for name in names}


def _as_data(value: object) -> object:
    if isinstance(value, tuple):
        return [_as_data(item) for item in value]
    if isinstance(value, Case):
        return {"shape": list(value.shape), "output": value.output, **_measure_as_data(value.measure)}
    if isinstance(value, Measure):
        return _measure_as_data(value)
    if is_dataclass(value):
        return {field.name: _as_data(getattr(value, field.name)) for field in fields(value)}
    return value


def _measure_as_data(measure: Measure) -> dict[str, object]:
    names = ("error", "relative_error", "original_error", "scale", "tolerance")
    dtype = str(measure.dtype).removeprefix("torch.")
    return {"dtype": dtype, **{name: getattr(measure, name) for name in names}}
