"""What a layer costs in ONNX Runtime on a CPU, in multiplications: an estimate, to choose forms by.

The runtime convolves in the layout NCHWc, by channel blocks of its SIMD width, 8 channels (AVX2) or 16
(AVX-512), where it can: rank 4 always; grouped, where every group has a multiple of the block in and out;
else, where the channels in are a multiple of 4 or fewer than a block, and then it pads them. Otherwise it
lays out columns and multiplies matrices, which is slower the fewer channels there are. Constants: fitted to
convolutions of 17 to 224 channels at batch 8 on two AVX-512 cores, 220 of 10⁹ multiplications a second at
best; those of AVX2 are scaled by its lower speed.
"""

import torch

from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.factored import Factored
from ceconv_convert.kernel.spec import Pair

_PER_BYTE = 3 / 8
"""Cost of moving one byte, for each channel of the block: wider units compute faster, and read as fast."""
_PER_NODE = 1.5e6
"""Cost of starting an operator, at batch 1."""
_COLUMNS = 0.75
"""Speed of multiplying matrices with many channels out, as a part of the blocked convolution's."""
_PRODUCT = 0.9
"""The same where no columns have to be laid out: 1×1, without a stride."""
_HALF_SPEED = {8: 20, 16: 30}
"""The channels out at which multiplying matrices reaches half of that, by block."""
_WORD = 4

BLOCKS = {"avx2": 8, "avx512": 16, "avx512_vnni": 16}
"""The channel block of ONNX Runtime, by processor."""


def block_of(processor: str | None) -> int:
    """The channel block on a processor; None is this machine's. SpecError for one that is not known.

    >>> block_of("avx512")
    16
    """
    processor = processor or processor_here()
    if processor not in BLOCKS:
        raise SpecError(f"processor is one of {', '.join(BLOCKS)}; found {processor!r}")
    return BLOCKS[processor]


def processor_here() -> str:
    """The name of this machine's, or of the nearest that is known."""
    return "avx512" if "AVX512" in torch.backends.cpu.get_cpu_capability() else "avx2"


def up_to(count: int, multiple: int) -> int:
    """The next multiple.

    >>> up_to(55, 8)
    56
    """
    return -(-count // multiple) * multiple


def layer_cost(factors: Factored, channels: Pair, pixels: Pair, *, sharing: int, block: int) -> float:
    """The cost of a layer in one form, of whose weight only the groups and the kernel size are read.

    ``channels`` are I' and O', with their padding; ``pixels`` H·W in and out; ``sharing`` is how many layers
    take the same input, and share the mixed one.
    """
    groups, rows, _, columns, _, *kernel = factors.weight.shape
    values_in, values_out = channels[0] * pixels[0], channels[1] * pixels[1]
    mixes = [(factors.forward, values_in / sharing), (factors.inverse, values_out)]
    per_group = (columns * channels[0], rows * channels[1])
    cost = convolution_cost(groups, per_group, kernel[0] * kernel[1], pixels, block) + _PER_NODE
    for matrix, values in mixes:
        if matrix is not None:
            cost += matrix.numel() * values + _moved(sum(matrix.shape) * values, block) + _PER_NODE
    if _is_blocked(groups, *per_group, block):  # into NCHWc and out of it: each reads and writes
        plain = factors.forward is factors.inverse is None
        shared = 1 if factors.forward is None else sharing
        reorders = _moved(2 * groups * (columns * values_in / shared + rows * values_out), block)
        # Half: from one plain convolution to the next, features stay in NCHWc.
        cost += reorders / 2 if plain else reorders
    return cost


def convolution_cost(groups: int, channels: Pair, taps: int, pixels: Pair, block: int) -> float:
    """One convolution, ``channels`` in and out of each group, and kernels of kh·kw ``taps``."""
    channels_in, channels_out = channels
    if _is_blocked(groups, channels_in, channels_out, block):
        if channels_in >= block:
            channels_in = up_to(channels_in, block)
        return float(groups * channels_in * up_to(channels_out, block) * taps * pixels[1])
    multiplications = groups * channels_in * channels_out * taps * pixels[1]
    if taps == 1 and pixels[0] == pixels[1]:  # a matrix product as it lies there
        return multiplications / _PRODUCT
    return multiplications * (1 + (_HALF_SPEED[block] / channels_out) ** 2) / _COLUMNS


def _is_blocked(groups: int, channels_in: int, channels_out: int, block: int) -> bool:
    if groups == 1:
        return channels_in % 4 == 0 or channels_in < block
    return channels_in % block == 0 and channels_out % block == 0


def _moved(values: float, block: int) -> float:
    """Reading or writing so many numbers."""
    return _PER_BYTE * block * _WORD * values
