"""File → module."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ceconv_convert import errors
from ceconv_convert.architectures.registry import recognize
from ceconv_convert.checkpoint.container import Weights, describe, find_weights
from ceconv_convert.checkpoint.migrate import is_migrated
from ceconv_convert.errors import NothingToConvertError, UnreadableInputError
from ceconv_convert.files.class_names import import_from
from ceconv_convert.files.sanity import check_skeleton, check_tensors
from ceconv_convert.files.source import Source, read_source
from ceconv_convert.surgery import unwrapped

_MIGRATED = (
    "its weights are in the form conv3d already: load them into a converted network, or take them back with "
    'migrate_checkpoint(…, to="ceconv")'
)

Factory = str | Callable[..., nn.Module]


def load(
    path: str | Path,
    *,
    allow: Iterable[str] = (),
    model: Factory | None = None,
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
    return build_network(read_source(Path(path), allow, unsafe=unsafe), model, arguments)


def build_network(
    source: Source, model: Factory | None = None, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """The network that a file held; see ``load``."""
    found = find_weights(source.content)
    try:
        if isinstance(found, nn.Module):
            check_skeleton(found)
            check_tensors(found.state_dict(), source.path)
            return unwrapped(found)
        if found is None:
            raise UnreadableInputError(f"it holds {describe(source.content)}: neither a module nor weights")
        check_tensors(found.tensors, source.path)
        if model is not None:
            return _with_weights(_built(model, arguments or {}), found.without_prefix())
        return _recognized(found, arguments or {})
    except (NothingToConvertError, UnreadableInputError, errors.SpecError) as error:
        family = UnreadableInputError if isinstance(error, errors.SpecError) else type(error)
        raise family(f"{source.path}: {error}") from error


def build_candidate(source: Source, converted: Mapping[str, nn.Module]) -> nn.Module:
    """The module in a file, or the network that its weights fit, of those ``converted`` to each form."""
    found = find_weights(source.content)
    if not isinstance(found, Weights):
        return build_network(source)
    check_tensors(found.tensors, source.path)
    for state in (found.as_published(), found.without_prefix()):
        for network in converted.values():
            if _shapes(network.state_dict()) == _shapes(state):
                return _with_weights(network, state)
    raise UnreadableInputError(
        f"{source.path}: its weights fit the converted network in none of the forms {', '.join(converted)}"
    )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _recognized(found: Weights, arguments: Mapping[str, Any]) -> nn.Module:
    if is_migrated(found.tensors):
        raise NothingToConvertError(_MIGRATED)
    unknown = ", ".join(sorted(arguments.keys() - {"rotations"}))
    if unknown:
        raise UnreadableInputError(f"without --model the only argument is rotations, found {unknown}")
    state = found.as_published()
    # On the meta device: the shapes come from the file, and may claim any amount of memory.
    return _with_weights(recognize(state, device="meta", **arguments), state)


def _built(model: Factory, arguments: Mapping[str, Any]) -> nn.Module:
    factory: Any = model
    if isinstance(model, str):
        module_name, _, attribute = model.partition(":")
        if not attribute:
            raise UnreadableInputError(f"--model takes package.module:factory, found {model!r}")
        factory = import_from(module_name, attribute, f"--model {model}")
    try:
        network: object = factory(**arguments)
    except errors.FOREIGN_FAILURES as error:
        message = f"the model cannot be built from {dict(arguments)}: {errors.first_line(error)}"
        raise UnreadableInputError(message) from error
    if not isinstance(network, nn.Module):
        raise UnreadableInputError(f"the factory returns a {type(network).__name__}, not a module")
    return network.eval()


def _with_weights(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """The network with tensors assigned, not copied: they keep their dtype."""
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        if is_migrated(state):
            raise NothingToConvertError(_MIGRATED) from error
        _, first, *more = [line.strip().rstrip(".") for line in str(error).splitlines()] + [""]
        count = len([line for line in more if line])
        first = " ".join(first.replace("torch.Size(", "").replace(")", "").split())
        advice = f", and {count} more; the network's arguments may be others (--model-arg)" if count else ""
        problem = f"the weights do not fit a {type(network).__name__}: {first}{advice}"
        raise UnreadableInputError(problem) from error
    return network
