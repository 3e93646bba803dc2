"""Load a session and run it once, in a process of its own: what it takes in time and in memory.

``python session_probe.py FILE PROVIDER THREADS SHAPE`` prints one line of JSON. Run as a script, this file
imports nothing of the package: torch would lie in the memory that is measured.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def probe(path: Path, provider: str, threads: int, shape: Sequence[int]) -> tuple[float, int | None]:
    """Seconds to load a session, and bytes that its process grew by until after a run, if they are known."""
    command = [sys.executable, __file__, str(path), provider, str(threads), json.dumps(list(shape))]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (ourselves)
    if finished.returncode:
        lines = [line for line in finished.stderr.splitlines() if not line.startswith((" ", "Traceback"))]
        raise RuntimeError(lines[0] if lines else f"a process ended with {finished.returncode}")
    load, before, peak = json.loads(finished.stdout.splitlines()[-1])
    return load, None if before is None or peak is None else peak - before


def _main() -> None:
    import numpy as np
    import onnxruntime

    path, provider, threads, shape = sys.argv[1:]
    options = onnxruntime.SessionOptions()  # as those of OnnxRunner
    options.log_severity_level = 3
    options.intra_op_num_threads = int(threads)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    before = _own_memory("VmRSS")
    begun = time.perf_counter()
    session = onnxruntime.InferenceSession(path, sess_options=options, providers=[provider])
    load = time.perf_counter() - begun
    entry = session.get_inputs()[0]
    dtype = "float16" if "16" in entry.type else "float32"
    session.run(None, {entry.name: np.zeros(json.loads(shape), dtype)})
    sys.stdout.write(json.dumps([load, before, _own_memory("VmHWM")]) + "\n")


def _own_memory(key: str) -> int | None:
    """In bytes, by a key of ``/proc/self/status``; None where there is no such file."""
    try:
        found = re.search(rf"^{key}:\s*(\d+) kB", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


if __name__ == "__main__":
    _main()
