"""The one family of errors that this package raises on purpose."""

from __future__ import annotations


class ConversionError(Exception):
    """Base of every error raised on purpose.

    The message is one sentence that says what was found, where, and what to do.
    """


class SpecError(ConversionError, ValueError):
    """Arguments that describe no color-equivariant layer."""


class UnreadableInputError(ConversionError):
    """A file that cannot be read as a network, or not safely."""


class NothingToConvertError(ConversionError):
    """A model without a color-equivariant layer left to convert."""


class RefusedLayerError(ConversionError):
    """A layer that looks color-equivariant and is not one that can be converted exactly."""


class StateDictError(ConversionError):
    """A state dict whose keys do not say what they belong to, or say two things."""


class InputShapeError(ConversionError):
    """An input shape on which the network does not run, or none found on which it does."""


class VerificationError(ConversionError):
    """A conversion that could not be checked, or one that failed its check."""


class ExportError(ConversionError):
    """A network that ONNX cannot express, or not with the opset asked for."""


class OutputError(ConversionError):
    """An output that cannot be written, or must not be overwritten."""


class BenchError(ConversionError):
    """A measurement that cannot be made here."""


FOREIGN_FAILURES = (Exception, SystemExit)
"""What somebody else's code may raise: anything.

For calls into such code alone: a network's constructor, forward pass and ``__deepcopy__``, a module's import.
"""


_LONGEST = 72


def first_line(error: BaseException) -> str:
    r"""The first line of what somebody else's error says, or its name where it says nothing.

    >>> first_line(ValueError("no such thing\nat line 5")), first_line(KeyError())
    ('no such thing', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def shown(value: object) -> str:
    """What a file says instead of what it should, in few words.

    >>> shown(1.5), shown(10**5000), len(shown(list(range(99))))
    ('1.5', 'of type int', 72)
    """
    try:
        text = repr(value)
    except FOREIGN_FAILURES:  # of a class of the user's, or a number of too many digits
        return f"of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
