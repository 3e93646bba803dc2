"""The published networks, one row each: their names in pickles, and how a state dict becomes one of them.

Widths are read off the tensors: the published formula for them rounds, and cannot be inverted. What the
tensors cannot tell has to be an argument; it is never guessed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ceconv_convert.architectures.cecnn import CECNN
from ceconv_convert.architectures.resnet import BasicBlock, Block, Bottleneck, HybridResNet, ResNet
from ceconv_convert.errors import UnreadableInputError, shown
from ceconv_convert.kernel.color import rotations_of
from ceconv_convert.kernel.spec import MOST_ROTATIONS, is_number

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """A published network."""

    pickled_in: tuple[str, ...]  # the modules that its pickles name
    classes: tuple[type[nn.Module], ...]  # ours, for those in them
    keys: frozenset[str]  # of tensors that all of its state dicts have, and no other network's
    read: Callable[[State, int | None], Callable[[], nn.Module]]
    """Takes a state dict, and the rotations that the user says or None; returns what builds the network."""


def recognize(state: State, rotations: int | None = None, *, device: str = "cpu") -> nn.Module:
    """The network that ``state`` belongs to, with random weights on ``device``, in eval mode.

    Keys are as the published networks name them, without prefixes; ``rotations`` are those of the lifting
    layer, where the tensors do not tell.

    Raises:
        UnreadableInputError: where no published network has these keys, or the rotations have to be given.
    """
    if rotations is not None and not (is_number(rotations) and 1 <= rotations <= MOST_ROTATIONS):
        raise UnreadableInputError(f"rotations are 1 to {MOST_ROTATIONS}, found {shown(rotations)}")
    for network in NETWORKS:
        if network.keys <= state.keys():
            build = network.read(state, rotations)
            with torch.device(device):
                return build().eval()
    raise UnreadableInputError(
        f"no published network has these keys: {', '.join(list(state)[:4])}, …; "
        "say which it is with --model package.module:factory"
    )


def _resnet(state: State, stated: int | None) -> Callable[[], ResNet]:
    num_blocks = [_count(state, f"layers.{stage}") for stage in range(_count(state, "layers"))]
    stages = range(len(num_blocks))
    block: Block = Bottleneck if "layers.0.0.conv3.weight" in state else BasicBlock
    channels = [_tensor(state, f"layers.{stage}.0.bn1.weight", 1).shape[0] for stage in stages]
    equivariant = [_tensor(state, f"layers.{stage}.0.conv1.weight", 4, 5).dim() == 5 for stage in stages]
    ce_stages = sum(equivariant)
    if equivariant != [stage < ce_stages for stage in stages]:
        raise UnreadableInputError("a color-equivariant stage follows a plain one: no published ResNet")
    classes, features = _tensor(state, "linear.weight", 2).shape
    if ce_stages == 0:
        return partial(ResNet, block, num_blocks, channels, classes)
    arguments: dict[str, Any] = {
        "num_classes": classes,
        "rotations": _checked(_hidden_rotations(state, "layers.0.0.conv1"), stated),
        "groupcosetmaxpool": ce_stages < len(num_blocks) or features == channels[-1] * block.expansion,
        "learnable": rotations_of(_matrix(state, "conv1")) is None,
        "separable": "layers.0.0.conv1.pointwise_weight" in state,
    }
    if ce_stages < len(num_blocks):
        return partial(HybridResNet, block, num_blocks, channels, ce_stages, **arguments)
    return partial(ResNet, block, num_blocks, channels, **arguments)


def _cecnn(state: State, stated: int | None) -> Callable[[], CECNN]:
    ce_layers = _count(state, "ceconv_list")
    planes = _tensor(state, "ceconv_list.0.0.weight", 5).shape[0]
    classes, features = _tensor(state, "fc.weight", 2).shape
    flat = features if ce_layers == 7 else _tensor(state, "conv2d_list.0.0.weight", 4).shape[1]
    of_matrix = rotations_of(_matrix(state, "ceconv_list.0.0"))
    if ce_layers > 1:
        rotations: int | None = _hidden_rotations(state, "ceconv_list.1.0")
    else:
        rotations = flat // planes if flat != planes else of_matrix or stated
    if rotations is None:
        raise UnreadableInputError(
            "the rotations of ceconv_list.0.0 cannot be told from its matrix: say --model-arg rotations=N"
        )
    return partial(
        CECNN,
        planes,
        _checked(rotations, stated),
        ce_layers,
        groupcosetmaxpool=flat == planes,
        num_classes=classes,
        separable="ceconv_list.1.0.pointwise_weight" in state,
        learnable=of_matrix is None,
    )


NETWORKS = (
    Network(
        ("models.resnet", "models.resnet_hybrid"),
        (ResNet, HybridResNet, BasicBlock, Bottleneck),
        frozenset({"conv1.weight", "layers.0.0.conv1.weight", "linear.weight"}),
        _resnet,
    ),
    Network(("models.cnn",), (CECNN,), frozenset({"ceconv_list.0.0.weight", "fc.weight"}), _cecnn),
)
"""A new published network is one row here, and the function that reads it."""


def _hidden_rotations(state: State, layer: str) -> int:
    pointwise = f"{layer}.pointwise_weight"
    return _tensor(state, pointwise if pointwise in state else f"{layer}.weight", 5).shape[2]


def _checked(rotations: int, stated: int | None) -> int:
    if stated not in (None, rotations):
        raise UnreadableInputError(f"rotations={stated} was given, the tensors say {rotations}")
    return rotations


def _count(state: State, name: str) -> int:
    """The number of members of a list: 2 of ``layers.0`` with ``layers.0.0.…`` and ``layers.0.1.…``."""
    prefix = f"{name}."
    indices = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    return len(indices & {str(index) for index in range(len(indices))})


def _tensor(state: State, key: str, *dimensions: int) -> Tensor:
    """A tensor that is not empty and has one of these numbers of axes, or any number."""
    if key not in state:
        raise UnreadableInputError(f"{key} is missing from the state dict")
    tensor = state[key]
    if dimensions and (tensor.dim() not in dimensions or tensor.numel() == 0):
        axes = " or ".join(map(str, dimensions))
        raise UnreadableInputError(f"{key} has {axes} axes, none of them 0: found {list(tensor.shape)}")
    return tensor


def _matrix(state: State, layer: str) -> Tensor:
    key = f"{layer}.transformation_matrix"
    matrix = _tensor(state, key)
    if matrix.shape != (3, 3) or not matrix.is_floating_point():
        found = f"{matrix.dtype} of shape {list(matrix.shape)}"
        raise UnreadableInputError(f"{key} is no color matrix: found {found}")
    return matrix
