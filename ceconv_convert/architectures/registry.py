"""Which published network a state dict belongs to, and with what arguments, from its keys and shapes alone.

Widths are read off the tensors: the published formula for them rounds, and cannot be inverted. What the
tensors cannot tell is asked for by name, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ceconv_convert.architectures.blocks import BasicBlock, Bottleneck
from ceconv_convert.architectures.cecnn import CECNN
from ceconv_convert.architectures.resnet import Block, HybridResNet, ResNet
from ceconv_convert.errors import UnreadableInputError, shown
from ceconv_convert.kernel.color import rotations_of
from ceconv_convert.kernel.spec import MOST_ROTATIONS, is_number

State = Mapping[str, Tensor]


def recognize(state: State, rotations: int | None = None, *, device: str = "cpu") -> nn.Module:
    """The network that ``state`` belongs to, with random weights, in eval mode.

    Args:
        state: keys as the published networks name them, without prefixes.
        rotations: of the lifting layer, where the tensors do not tell.
        device: of the weights.

    Raises:
        UnreadableInputError: where no published network has these keys, or the rotations have to be given.
    """
    if rotations is not None and not (is_number(rotations) and 1 <= rotations <= MOST_ROTATIONS):
        raise UnreadableInputError(f"rotations are 1 to {MOST_ROTATIONS}, found {shown(rotations)}")
    if "conv1.weight" in state and "layers.0.0.conv1.weight" in state and "linear.weight" in state:
        build: Callable[[], nn.Module] = _resnet(state, rotations)
    elif "ceconv_list.0.0.weight" in state and "fc.weight" in state:
        build = _cecnn(state, rotations)
    else:
        raise UnreadableInputError(
            f"no published network has these keys: {', '.join(list(state)[:4])}, …; "
            "say which it is with --model package.module:factory"
        )
    with torch.device(device):
        return build().eval()


def _resnet(state: State, given: int | None) -> Callable[[], ResNet]:
    num_blocks = _counts(state, "layers")
    block: Block = Bottleneck if "layers.0.0.conv3.weight" in state else BasicBlock
    stages = range(len(num_blocks))
    channels = [_tensor(state, f"layers.{stage}.0.bn1.weight", 1).shape[0] for stage in stages]
    equivariant = [_tensor(state, f"layers.{stage}.0.conv1.weight", 4, 5).dim() == 5 for stage in stages]
    ce_stages = sum(equivariant)
    if equivariant != [stage < ce_stages for stage in stages]:
        raise UnreadableInputError(
            "a color-equivariant stage follows a plain one, which no published ResNet has"
        )
    classes, features = _tensor(state, "linear.weight", 2).shape
    if ce_stages == 0:
        return partial(ResNet, block, num_blocks, channels, classes)
    rotations = _hidden_rotations(state, "layers.0.0.conv1")
    _check_given(rotations, given)
    separable = "layers.0.0.conv1.pointwise_weight" in state
    learnable = rotations_of(_matrix(state, "conv1")) is None
    if ce_stages < len(num_blocks):
        return partial(
            HybridResNet,
            block,
            num_blocks,
            channels,
            ce_stages,
            classes,
            rotations,
            True,
            learnable,
            separable,
        )
    pooled = features == channels[-1] * block.expansion
    return partial(ResNet, block, num_blocks, channels, classes, rotations, pooled, learnable, separable)


def _cecnn(state: State, given: int | None) -> Callable[[], CECNN]:
    ce_layers = _count(state, "ceconv_list")
    planes = _tensor(state, "ceconv_list.0.0.weight", 5).shape[0]
    classes, features = _tensor(state, "fc.weight", 2).shape
    flat = features if ce_layers == 7 else _tensor(state, "conv2d_list.0.0.weight", 4).shape[1]
    matrix = _matrix(state, "ceconv_list.0.0")
    rotations = given
    if ce_layers > 1:
        rotations = _hidden_rotations(state, "ceconv_list.1.0")
    elif flat != planes:
        rotations = flat // planes
    elif rotations_of(matrix) is not None:
        rotations = rotations_of(matrix)
    if rotations is None:
        raise UnreadableInputError(
            "the rotations of ceconv_list.0.0 cannot be told from its matrix: say --model-arg rotations=N"
        )
    _check_given(rotations, given)
    return partial(
        CECNN,
        planes,
        rotations,
        ce_layers,
        groupcosetmaxpool=flat == planes,
        num_classes=classes,
        separable="ceconv_list.1.0.pointwise_weight" in state,
        learnable=rotations_of(matrix) is None,
    )


def _hidden_rotations(state: State, layer: str) -> int:
    pointwise = f"{layer}.pointwise_weight"
    return _tensor(state, pointwise if pointwise in state else f"{layer}.weight", 5).shape[2]


def _check_given(rotations: int, given: int | None) -> None:
    if given is not None and given != rotations:
        raise UnreadableInputError(f"rotations={given} was given, the tensors say {rotations}")


def _counts(state: State, name: str) -> list[int]:
    """Members of each member of a list: ``layers.0.0`` … ``layers.3.1`` are [2, 2, 2, 2]."""
    return [_count(state, f"{name}.{index}") for index in range(_count(state, name))]


def _count(state: State, name: str) -> int:
    indices = {key[len(name) + 1 :].split(".")[0] for key in state if key.startswith(f"{name}.")}
    return len(indices & {str(index) for index in range(len(indices))})


def _tensor(state: State, key: str, *dimensions: int) -> Tensor:
    """A tensor that is there, with numbers in it and one of the given numbers of axes."""
    if key not in state:
        raise UnreadableInputError(f"{key} is missing from the state dict")
    tensor = state[key]
    if tensor.dim() not in dimensions or tensor.numel() == 0:
        axes = " or ".join(map(str, dimensions))
        raise UnreadableInputError(
            f"{key} has {axes} axes and is not empty: found shape {list(tensor.shape)}"
        )
    return tensor


def _matrix(state: State, layer: str) -> Tensor:
    key = f"{layer}.transformation_matrix"
    matrix = state.get(key)
    if matrix is None:
        raise UnreadableInputError(f"{key} is missing from the state dict")
    if matrix.shape != (3, 3) or not matrix.is_floating_point():
        raise UnreadableInputError(
            f"{key} is no color matrix: found {matrix.dtype} of shape {list(matrix.shape)}"
        )
    return matrix
