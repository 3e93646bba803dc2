"""A float32 ONNX file → one in float16 or int8, by ONNX Runtime's own tools."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QDQQuantizer, QuantType, create_calibrator
from onnxruntime.quantization.calibrate import TensorsData
from torch import Tensor

from ceconv_convert.errors import ExportError
from ceconv_convert.files.system import writing
from ceconv_convert.onnx.capture import quiet
from ceconv_convert.rounding.units import ACTIVATIONS, WEIGHTED, mixes

LEAST_OPSET = 13
"""The oldest in which weights have a scale for each channel."""
_OPERATORS = [*WEIGHTED, *ACTIVATIONS]
_OPTIONS = {"MatMulConstBOnly": True}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Batches of images as ONNX Runtime's calibrators take them."""

    def __init__(self, name: str, batches: Sequence[Tensor]) -> None:
        self._feeds: Iterator[dict[str, object]] = ({name: batch.cpu().numpy()} for batch in batches)

    def get_next(self) -> dict[str, object] | None:
        return next(self._feeds, None)


def ranges_of(exact: Path, batches: Sequence[Tensor]) -> TensorsData:
    """The least and the largest number of every value in a file on these images."""
    name = onnx.load(exact, load_external_data=False).graph.input[0].name
    with TemporaryDirectory() as folder, quiet():
        calibrator = create_calibrator(exact, _OPERATORS, str(Path(folder) / "augmented.onnx"))
        for batch in batches:  # the calibrator keeps every value of what it reads at once
            calibrator.collect_data(_Reader(name, [batch]))
        return calibrator.compute_data()


def write_int8(
    exact: Path, path: Path, ranges: TensorsData, *, kept: Collection[str] = (), reduce_range: bool = False
) -> None:
    """Quantize a file, weights by channel, as QuantizeLinear and DequantizeLinear around its operators.

    Activations are uint8, weights int8, of 7 bits with ``reduce_range``. The nodes ``kept`` stay float32, as
    do transforms over the rotations, and what is between the layers.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(exact))
    found = opset_of(model)
    if found < LEAST_OPSET:
        raise ExportError(f"int8 needs opset {LEAST_OPSET} or newer, found {found}: leave out --opset")
    excluded = [*kept, *mixes(model)]
    types = (QuantType.QInt8, QuantType.QUInt8)
    with quiet():
        quantizer = QDQQuantizer(
            model, True, reduce_range, *types, ranges, [], excluded, _OPERATORS, dict(_OPTIONS)
        )
        rounded = quantizer.quantize_model()
    with writing(path):
        onnx.save(rounded, path)


def write_float16(exact: Path, path: Path, *, kept: Collection[str] = (), keep_ends: bool = True) -> None:
    """Weights and activations in float16; inputs and outputs in float32 with ``keep_ends``."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # it changes sys.path

    with quiet():
        rounded = convert_float_to_float16(
            onnx.load(exact), keep_io_types=keep_ends, node_block_list=list(kept) or None
        )
    with writing(path):
        onnx.save(rounded, path)


def bytes_by_module(path: Path) -> dict[str, int]:
    """The bytes of the weights of each module in a file, scales included, by the names of the tensors."""
    found: Counter[str] = Counter()
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        found[tensor.name.rpartition(".")[0]] += math.prod(tensor.dims) * size
    return dict(found)


def opset_of(model: onnx.ModelProto) -> int:
    """Of the standard operators."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def has_vnni(processor: str | None) -> bool:
    """Whether a processor multiplies int8 without overflow; None is this machine's."""
    return bool(torch.cpu._is_vnni_supported()) if processor is None else processor.endswith("vnni")
