"""What a file of less than float32 loses: numbers with limits, for accuracy, hue and the noise of each layer.

Such a file is not held to the rounding of float32: it is another network, which has to decide alike.
"""

from dataclasses import dataclass

from ceconv_convert.verification.counts import Accuracy, Agreement

HUE_FACTOR = 2
"""Times the limit, how often rounding may change what a hue rotation does: two images are rounded."""


@dataclass(frozen=True)
class LayerNoise:
    """Signal to noise in decibels of one layer; of the channel with most noise, against the mean signal.

    ``alone``, and by ``channel``: the layer on the inputs of the exact file. ``total``: with all that comes
    before it. ``why`` says why it has its ``precision``, where another was wanted; ``limits`` are of
    ``alone`` and ``channel``.
    """

    name: str
    precision: str
    alone: float
    channel: float
    total: float
    limits: tuple[float, float]
    why: str = ""

    @property
    def problem(self) -> str | None:
        for what, found, limit in zip(
            ("", " of its worst channel"), (self.alone, self.channel), self.limits, strict=True
        ):
            if not found >= limit:
                return f"the signal to noise ratio{what} is {found:.1f} dB, at least {limit:.0f} is expected"
        return None


@dataclass(frozen=True)
class HueDrop:
    """What the output does when the hue rotates by ``degrees``: relative change, and decisions that stay.

    ``limit`` is in points; None where the network is not expected to be invariant.
    """

    degrees: float
    exact: float
    rounded: float
    exact_same: Agreement | None
    rounded_same: Agreement | None
    limit: float | None

    @property
    def drop(self) -> float | None:
        """In points."""
        if self.exact_same is None or self.rounded_same is None:
            return None
        return 100 * (
            self.exact_same.same / self.exact_same.of - self.rounded_same.same / self.rounded_same.of
        )

    @property
    def problem(self) -> str | None:
        if self.drop is None or self.limit is None or self.drop <= self.limit:
            return None
        return (
            f"with the hue rotated by {self.degrees:.0f}° it decides alike on {self.drop:.2f} points fewer "
            f"images than the exact file, at most {self.limit:g} are allowed"
        )


@dataclass(frozen=True)
class Rounded:
    """A file of less than float32 beside the exact one, on ``images`` that it was not calibrated on.

    ``worst`` and ``mean`` are errors of the outputs, relative to the largest one.
    """

    precision: str
    made_for: str
    images: int
    max_drop: float
    worst: float
    mean: float
    agreement: Agreement | None
    accuracy: Accuracy | None
    hue: tuple[HueDrop, ...]
    layers: tuple[LayerNoise, ...]

    @property
    def drop(self) -> float:
        """In points: of accuracy, else of agreement; else the mean error in percent."""
        if self.accuracy is not None:
            return 100 * (self.accuracy.original - self.accuracy.candidate) / self.accuracy.of
        if self.agreement is not None:
            return 100 * (1 - self.agreement.same / self.agreement.of)
        return 100 * self.mean

    @property
    def problem(self) -> str | None:
        """The first layer that is bad by itself; else what is over its limit, with the noisiest layer."""
        for layer in self.layers:
            if layer.problem is not None:
                return f"layer {layer.name}: {layer.problem}"
        problems = [hue.problem for hue in self.hue if hue.problem is not None]
        if not self.drop <= self.max_drop:
            problems.insert(0, f"{self.lost()}, at most {self.max_drop:g} is allowed")
        if not problems:
            return None
        noisy = self.noisiest()
        return problems[0] + (f"; most noise comes from layer {noisy.name}" if noisy else "")

    def noisiest(self) -> LayerNoise | None:
        """Of those that are rounded, the layer with most noise of its own."""
        layers = [layer for layer in self.layers if layer.precision == self.precision]
        return min(layers, key=lambda layer: min(layer.alone, layer.channel), default=None)

    def lost(self) -> str:
        """What is lost, in words."""
        what = "accuracy" if self.accuracy else "top-1 agreement" if self.agreement else "the output's mean"
        return f"{what} loses {self.drop:.2f} {'points' if self.agreement else 'percent'}"

    def details(self) -> list[str]:
        """What the line of the verdict says, each number with its limit."""
        lines = [f"{self.lost()} of {self.max_drop:g} allowed on {self.images} images"]
        lines += [str(found) for found in (self.accuracy, self.agreement) if found is not None]
        lines.append(f"worst error {self.worst:.1e} and mean {self.mean:.1e} of the largest output")
        noisy = self.noisiest()
        if noisy is not None:
            lines.append(
                f"most noise in {noisy.name}: {noisy.alone:.1f} dB, at least {noisy.limits[0]:.0f} expected"
            )
        for hue in self.hue:
            lost = "" if hue.drop is None else f", {hue.drop:.2f} points"
            lost += "" if hue.limit is None or hue.drop is None else f" of {hue.limit:g} allowed"
            lines.append(
                f"hue by {hue.degrees:.0f}°: change {hue.exact:.1e} before, {hue.rounded:.1e} after{lost}"
            )
        return lines

    def rows(self) -> list[tuple[str, ...]]:
        """The table of layers: headings, then a row each."""
        table = [
            (
                layer.name,
                layer.precision,
                *map(_decibels, (layer.alone, layer.channel, layer.total)),
                layer.why,
            )
            for layer in self.layers
        ]
        return [("layer", "precision", "dB alone", "dB worst channel", "dB in all", "why"), *table]


def _decibels(number: float) -> str:
    return f"{number:.1f}"
