"""The published networks: our own implementation, state-dict compatible with their checkpoints."""

from ceconv_convert.architectures.blocks import BasicBlock, Bottleneck
from ceconv_convert.architectures.cecnn import CECNN
from ceconv_convert.architectures.resnet import HybridResNet, ResNet

__all__ = ["CECNN", "BasicBlock", "Bottleneck", "HybridResNet", "ResNet"]
