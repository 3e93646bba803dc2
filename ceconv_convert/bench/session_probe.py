"""Load a session and run it once, in a process of its own: what it takes in time and in memory.

``python probe.py FILE PROVIDER THREADS SHAPE`` prints one line of JSON. Run as a script, this file imports
nothing of the package: torch would lie in the memory that is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_KILO = 1024
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class Probe:
    """What a session takes.

    Attributes:
        load: seconds to load the file, and optimize and compile what it has.
        memory: bytes that the process grew by at its peak, from before the load to after a run; None where
            the system does not tell.
    """

    load: float
    memory: int | None


def probe(path: Path, provider: str, threads: int, shape: Sequence[int]) -> Probe:
    """Run this file as a process; none of its memory is shared with candidates that ran before.

    Raises:
        RuntimeError: where it fails.
    """
    command = [sys.executable, __file__, str(path), provider, str(threads), json.dumps(list(shape))]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (ourselves)
    if finished.returncode:
        said = [line for line in finished.stderr.splitlines() if not line.startswith((" ", "Traceback"))]
        raise RuntimeError(said[0] if said else f"a process ended with {finished.returncode}")
    found = json.loads(finished.stdout.splitlines()[-1])
    return Probe(found["load"], found["memory"])


def _main() -> None:
    import numpy as np
    import onnxruntime

    path, provider, threads, shape = sys.argv[1:]
    x = np.zeros(json.loads(shape), dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = int(threads)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as all other sessions
    before = _status("VmRSS:")
    begun = time.perf_counter()
    session = onnxruntime.InferenceSession(path, sess_options=options, providers=[provider])
    load = time.perf_counter() - begun
    entry = session.get_inputs()[0]
    session.run(None, {entry.name: x.astype(np.float16 if "16" in entry.type else np.float32)})
    peak = _status("VmHWM:")
    memory = None if before is None or peak is None else peak - before
    sys.stdout.write(json.dumps({"load": load, "memory": memory}) + "\n")


def _status(key: str) -> int | None:
    """A number of ``/proc/self/status``, in bytes; None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * _KILO for line in lines if line.startswith(key)), None)


if __name__ == "__main__":
    _main()
