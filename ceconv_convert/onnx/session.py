"""How sessions are opened."""

from __future__ import annotations

import onnxruntime

_ERRORS_ONLY = 3


def session_options(threads: int = 0) -> onnxruntime.SessionOptions:
    """Quiet, and asleep while it waits: idle sessions would spin on the cores of the others.

    Args:
        threads: within an operator; 0 is one a core.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
