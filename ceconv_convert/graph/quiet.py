"""Keep the exporter's chatter off the user's terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_CHATTY = ("torch", "onnxscript", "onnx_ir", "onnx")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow prints, warnings and log records of torch's exporter while the block runs."""
    chatter = io.StringIO()
    loggers = [logging.getLogger(name) for name in _CHATTY]
    handlers = [handler for logger in loggers for handler in logger.handlers]
    for target in (*loggers, *handlers):
        target.addFilter(_drop)
    try:
        with (
            contextlib.redirect_stdout(chatter),
            contextlib.redirect_stderr(chatter),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for target in (*loggers, *handlers):
            target.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False
