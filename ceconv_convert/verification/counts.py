"""How many inputs are decided alike, or right."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """How often the largest of an output's scores is the same."""

    same: int
    of: int

    def __str__(self) -> str:
        return f"top-1 alike on {self.same} of {self.of}"


@dataclass(frozen=True)
class Accuracy:
    """How many of the user's labelled inputs are classified right."""

    original: int
    candidate: int
    of: int

    def __str__(self) -> str:
        return f"accuracy {self.candidate / self.of:.2%}, the original's {self.original / self.of:.2%}"
