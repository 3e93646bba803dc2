"""The one family of errors that this package raises on purpose."""


class ConversionError(Exception):
    """Base of every error raised on purpose.

    The message is one sentence that says what was found, where, and what to do.
    """

    exit_code = 2
    """Of the command line."""


class SpecError(ConversionError, ValueError):
    """Arguments that describe no color-equivariant layer."""


class UnreadableInputError(ConversionError):
    """A file that cannot be read as a network, or not safely."""


class NothingToConvertError(ConversionError):
    """A model without a color-equivariant layer left to convert."""

    exit_code = 3


class RefusedLayerError(ConversionError):
    """A layer that looks color-equivariant and cannot be converted exactly."""

    exit_code = 3


class StateDictError(ConversionError):
    """A state dict whose keys do not say, or do not agree on, which layers its tensors belong to."""


class InputShapeError(ConversionError):
    """An input shape on which the network does not run, or none found on which it does."""


class VerificationError(ConversionError):
    """A conversion that could not be checked, or failed its check."""

    exit_code = 1


class ExportError(ConversionError):
    """A network that cannot be expressed in ONNX, or not in the requested opset."""


class OutputError(ConversionError):
    """An output that cannot be written, or must not be overwritten."""


class BenchError(ConversionError):
    """A measurement that cannot be made here."""


FOREIGN_FAILURES = (Exception, SystemExit)
"""What code that is not ours may raise: anything.

Caught only around calls into such code: a network's constructor, forward pass, ``__deepcopy__`` and import.
"""
_LONGEST = 72


def first_line(error: BaseException) -> str:
    r"""The first line of an error's message, or its class where the message is empty.

    >>> first_line(ValueError("no such thing\nat line 5")), first_line(KeyError())
    ('no such thing', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def shown(value: object) -> str:
    """A value from a file, shortened for an error message.

    >>> shown(1.5), shown(10**5000), len(shown(list(range(99))))
    ('1.5', 'of type int', 72)
    """
    try:
        text = repr(value)
    except FOREIGN_FAILURES:  # a class of the user's, or a number of too many digits
        return f"of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
