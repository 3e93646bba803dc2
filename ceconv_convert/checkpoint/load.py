"""File → module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ceconv_convert.architectures.registry import recognize
from ceconv_convert.checkpoint.container import (
    Weights,
    describe,
    find_weights,
    published_keys,
    without_prefix,
)
from ceconv_convert.checkpoint.state_dict import is_migrated
from ceconv_convert.errors import (
    FOREIGN_FAILURES,
    NothingToConvertError,
    SpecError,
    UnreadableInputError,
    first_line,
)
from ceconv_convert.files.class_names import import_from
from ceconv_convert.files.sanity import check_skeleton, check_tensors
from ceconv_convert.files.source import Source, read_source
from ceconv_convert.surgery import unwrapped


def load(
    path: str | Path,
    *,
    allow: Iterable[str] = (),
    model: str | Callable[..., nn.Module] | None = None,
    arguments: Mapping[str, Any] | None = None,
    unsafe: bool = False,
) -> nn.Module:
    """The network in a file, on the CPU.

    Whole modules that ``torch.save(model, path)`` wrote; state dicts, by themselves or in what training left
    (Lightning and ImageNet checkpoints, ``model``, ``state_dict``, … nests, data-parallel and compiled
    prefixes, torchvision's names); safetensors, also in shards with their index. A state dict is recognized
    as one of the published networks from its keys and shapes; the network comes in eval mode and in the dtype
    of its weights.

    Nothing of the file's is executed, unless ``unsafe``. Classes of ``torch.nn`` and of this package are
    allowed; names of the published code become this package's classes.

    Args:
        path: the file.
        allow: further classes, ``package.module.Class``; they are imported.
        model: what builds the network of a state dict that is none of the published ones: a callable, or its
            name, ``package.module:factory``.
        unsafe: run whatever the file's pickle says: only for a file whose author you trust.
        arguments: of ``model``; without one, ``rotations`` of a lifting layer whose tensors do not tell.

    Raises:
        UnreadableInputError: for a file that is missing, damaged, no network that is known, or names other
            classes, all of which the message lists.
        NothingToConvertError: for weights that are migrated already.
    """
    return build_network(read_source(Path(path), allow, unsafe=unsafe), model=model, arguments=arguments)


def build_network(
    source: Source,
    *,
    model: str | Callable[..., nn.Module] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network that a file held; see ``load``."""
    found = find_weights(source.content)
    try:
        if isinstance(found, nn.Module):
            check_skeleton(found)
            check_tensors(found.state_dict(), source.path)
            return unwrapped(found)
        if isinstance(found, Weights):
            check_tensors(found.tensors, source.path)
            if model is None and is_migrated(found.tensors):
                raise NothingToConvertError(
                    "its weights are in the form conv3d already: load them into a converted network, or take "
                    'them back with migrate_checkpoint(…, to="ceconv")'
                )
            return _assemble(found.tensors, _factory(model), arguments or {})
    except NothingToConvertError as error:
        raise NothingToConvertError(f"{source.path}: {error}") from error
    except (UnreadableInputError, SpecError) as error:
        raise UnreadableInputError(f"{source.path}: {error}") from error
    raise UnreadableInputError(
        f"{source.path} holds {describe(source.content)}: neither a module nor weights"
    )


def _factory(model: str | Callable[..., nn.Module] | None) -> Callable[..., nn.Module] | None:
    if not isinstance(model, str):
        return model
    module_name, _, attribute = model.partition(":")
    if not attribute:
        raise UnreadableInputError(f"--model takes package.module:factory, found {model!r}")
    factory = import_from(module_name, attribute, f"--model {model}")
    if not callable(factory):
        raise UnreadableInputError(f"--model {model} is a {type(factory).__name__}, which builds nothing")
    return factory


def _assemble(
    tensors: Mapping[str, Tensor],
    factory: Callable[..., nn.Module] | None,
    arguments: Mapping[str, Any],
) -> nn.Module:
    if factory is None:
        unknown = sorted(arguments.keys() - {"rotations"})
        if unknown:
            raise UnreadableInputError(
                f"without --model only rotations can be said, found {', '.join(unknown)}"
            )
        state = published_keys(tensors)
        # Shapes may ask for any amount of memory, and the numbers come from the file.
        model = recognize(state, device="meta", **arguments)
    else:
        state = without_prefix(tensors)
        model = _build(factory, arguments).eval()
    try:
        # Assigned, not copied: the tensors keep their dtype.
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        lines = " ".join(line.strip() for line in str(error).splitlines())
        raise UnreadableInputError(f"the weights do not fit a {type(model).__name__}: {lines}") from error
    return model


def _build(factory: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        model: object = factory(**arguments)
    except FOREIGN_FAILURES as error:
        message = f"the model cannot be built from {dict(arguments)}: {first_line(error)}"
        raise UnreadableInputError(message) from error
    if not isinstance(model, nn.Module):
        raise UnreadableInputError(f"the factory gives a {type(model).__name__}, not a module")
    return model
