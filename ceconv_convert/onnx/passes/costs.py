"""What a layer costs in ONNX Runtime on a CPU, in multiplications: an estimate, to choose forms by.

The runtime convolves in a blocked layout, 8 channels (AVX2) or 16 (AVX-512) abreast, where it can: rank
4 always; grouped, where every group has a multiple of the block in and out; else, where the channels in are a
multiple of 4 or fewer than a block, and then it fills them up. Otherwise it lays out columns and multiplies
matrices, which is worse the fewer channels there are. Constants: fitted to convolutions of 17 to 224 channels
at batch 8 on two AVX-512 cores, 220 of 10⁹ multiplications a second at best; those of AVX2 are scaled by its
lower speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.cyclic_fourier import products_of
from ceconv_convert.kernel.hue_rotation import PARTS

_PER_BYTE = 3 / 8
"""Multiplications in the time that a byte takes to be read or written, in passes over features, and per
channel of the block: wider units compute faster, and do not read faster."""
PER_NODE = 1.5e6
"""And in the time that an operator takes to start, at batch 1."""
_COLUMNS = 0.75
"""The speed of multiplying matrices, of the blocked one's, with many channels out."""
_PRODUCT = 0.9
"""And the speed of multiplying matrices where no columns have to be laid out: 1×1, without a stride."""
_HALF_SPEED = {8: 20, 16: 30}
"""The channels out at which it reaches half of that, by block."""
_WORD = 4


FOURIER = {"fourier": 1, "fourier pairs": 2}
"""The forms by Fourier transform, and how many channels of a layer each of their products takes at once."""

BLOCKS = {"avx2": 8, "avx512": 16}
"""The channels that ONNX Runtime takes abreast, by processor."""


def block_of(processor: str | None) -> int:
    """The channels abreast on a processor; None is this machine's.

    Raises:
        SpecError: for a processor that is not known.

    >>> block_of("avx512")
    16
    """
    if processor is None:
        processor = "avx512" if "AVX512" in torch.backends.cpu.get_cpu_capability() else "avx2"
    if processor not in BLOCKS:
        raise SpecError(f"processor is one of {', '.join(BLOCKS)}; found {processor!r}")
    return BLOCKS[processor]


@dataclass(frozen=True)
class Shape:
    """What the cost of a layer depends on.

    Attributes:
        channels_in: I', as aligned.
        channels_out: O', as aligned.
        rotations_in: N_in; 1 for lifting.
        rotations_out: N_out.
        taps: kh · kw.
        pixels_in: H · W.
        pixels_out: H' · W'.
        sharing: how many layers take the same input, and share its transform.
    """

    channels_in: int
    channels_out: int
    rotations_in: int
    rotations_out: int
    taps: int
    pixels_in: int
    pixels_out: int
    sharing: int = 1


def up_to(count: int, multiple: int) -> int:
    """The next multiple.

    >>> up_to(55, 8)
    56
    """
    return -(-count // multiple) * multiple


def convolution(groups: int, channels_in: int, channels_out: int, shape: Shape, block: int) -> float:
    """One convolution, ``channels_in`` → ``channels_out`` in each group."""
    taps, pixels = shape.taps, shape.pixels_out
    if _is_blocked(groups, channels_in, channels_out, block):
        if channels_in >= block:
            channels_in = up_to(channels_in, block)
        return float(groups * channels_in * up_to(channels_out, block) * taps * pixels)
    if taps == 1 and shape.pixels_in == pixels:  # a matrix product as it lies there
        return groups * channels_in * channels_out * pixels / _PRODUCT
    speed = _COLUMNS / (1 + (_HALF_SPEED[block] / channels_out) ** 2)
    return groups * channels_in * channels_out * taps * pixels / speed


def _is_blocked(groups: int, channels_in: int, channels_out: int, block: int) -> bool:
    if groups == 1:
        return channels_in % 4 == 0 or channels_in < block
    return channels_in % block == 0 and channels_out % block == 0


def direct(shape: Shape, block: int) -> float:
    """As one convolution over all rotations."""
    channels_in = shape.rotations_in * shape.channels_in
    channels_out = shape.rotations_out * shape.channels_out
    blocked = _is_blocked(1, channels_in, channels_out, block)
    # Half: where two of these follow each other, what lies between stays in the blocked layout.
    moved = _reorders(blocked, channels_in * shape.pixels_in, channels_out * shape.pixels_out, block) / 2
    return convolution(1, channels_in, channels_out, shape, block) + moved + PER_NODE


def fourier(shape: Shape, block: int, width: int) -> float:
    """As m(N) products between two transforms; or as N/2, each of pairs."""
    rotations = shape.rotations_in
    groups = products_of(rotations) if width == 1 else rotations // width
    channels_in, channels_out = width * shape.channels_in, width * shape.channels_out
    products = groups * width
    values_in = shape.channels_in * shape.pixels_in / shape.sharing
    values_out = shape.channels_out * shape.pixels_out
    blocked = _is_blocked(groups, channels_in, channels_out, block)
    moved = _moved((rotations + products) * (values_in + values_out), block)
    moved += _reorders(blocked, products * values_in, products * values_out, block)
    transforms = rotations * products * (values_in + values_out)
    multiplied = convolution(groups, channels_in, channels_out, shape, block)
    return multiplied + transforms + moved + 3 * PER_NODE


def hue(shape: Shape, block: int) -> float:
    """A lifting layer as three kernels a channel and a transform."""
    values = shape.channels_out * shape.pixels_out
    multiplied = convolution(1, shape.channels_in, PARTS * shape.channels_out, shape, block)
    moved = _moved((3 * PARTS + shape.rotations_out) * values, block)
    return multiplied + PARTS * shape.rotations_out * values + moved + 2 * PER_NODE


def _moved(values: float, block: int) -> float:
    """Reading or writing so many numbers."""
    return _PER_BYTE * block * _WORD * values


def _reorders(blocked: bool, values_in: float, values_out: float, block: int) -> float:
    """Into the blocked layout, and out of it: each reads and writes."""
    return _moved(2 * (values_in + values_out), block) if blocked else 0.0
