"""Time candidates against each other: interleaved, so that the machine's drift meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

_DISCARDED = 2
_LEAST, _MOST = 5, 40
_SECONDS = 20.0
"""For all candidates together; slow ones get fewer runs, never fewer than five."""


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float = _SECONDS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every run of every candidate, all of them once a round; two rounds are discarded."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    started = time.perf_counter()
    rounds = _LEAST + _DISCARDED
    done = 0
    while done < rounds:
        for name, run in candidates.items():
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
        done += 1
        each = (time.perf_counter() - started) / done
        rounds = min(_MOST, max(_LEAST, int(seconds / max(each, 1e-9)))) + _DISCARDED
        if progress is not None:
            progress(done, rounds)
    return {name: found[_DISCARDED:] for name, found in times.items()}
