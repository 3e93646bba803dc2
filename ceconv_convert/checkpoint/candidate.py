"""A converted file → the module that it holds, for a verdict on files that exist."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ceconv_convert.checkpoint.container import Weights, find_weights, published_keys, without_prefix
from ceconv_convert.checkpoint.load import build_network
from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.files.sanity import check_tensors
from ceconv_convert.files.source import Source


def build_candidate(source: Source, converted: Mapping[str, nn.Module]) -> nn.Module:
    """The module in a file, or the converted network that its weights fit.

    Args:
        source: the file.
        converted: the original in each form; one of them gets the weights.

    Raises:
        UnreadableInputError: where the weights fit none of them.
    """
    found = find_weights(source.content)
    if not isinstance(found, Weights):
        return build_network(source)
    check_tensors(found.tensors, source.path)
    for names in (published_keys, without_prefix):
        state: dict[str, Tensor] = names(found.tensors)
        for network in converted.values():
            expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
            if expected == {name: tensor.shape for name, tensor in state.items()}:
                network.load_state_dict(state, assign=True)
                return network
    raise UnreadableInputError(
        f"{source.path}: its weights fit the converted network in none of the forms {', '.join(converted)}"
    )
