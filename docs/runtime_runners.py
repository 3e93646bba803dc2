"""Run a file in one runtime, in that runtime's environment, where this package is not.

    python docs/runtime_runners.py RUNTIME FILE INPUT.npy OUTPUT.npy [SECONDS]

The file is an exported program of torch (.pt2) for those that start there, else an ONNX file.

Writes the output, and prints the shortest time of a run in seconds, or the error that stopped it, as JSON.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PICTURES = "calibration_image_sample_data_20x128x128x3_float32.npy"
Array = np.ndarray
Run = Callable[[Array], Array]
BUDGET, MOST = 4.0, 30
"""Seconds that a file is timed for, where none are given, and most runs."""


def onnxruntime(path: Path, _x: Array) -> Run:
    """The file in that runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"input": x})[0]


def openvino(path: Path, _x: Array) -> Run:
    """The file in that runtime."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: compiled([x])[0]


def opencv(path: Path, _x: Array) -> Run:
    """The file in that runtime."""
    import cv2

    network = cv2.dnn.readNetFromONNX(str(path))

    def run(x: Array) -> Array:
        network.setInput(x)
        return network.forward()

    return run


def iree(path: Path, _x: Array) -> Run:
    """The file in that runtime."""
    from iree import compiler
    from iree import runtime as ireert

    tool = [sys.executable, "-m", "iree.compiler.tools.import_onnx", str(path)]
    with tempfile.TemporaryDirectory() as folder:
        imported = Path(folder) / "file.mlir"
        subprocess.run([*tool, "-o", str(imported)], check=True, capture_output=True, text=True)  # noqa: S603
        binary = compiler.compile_file(
            str(imported),
            input_type="onnx",
            target_backends=["llvm-cpu"],
            extra_args=["--iree-llvmcpu-target-cpu=host"],
        )
    module = ireert.load_vm_flatbuffer(binary, driver="local-task")
    function = next(found for found in module.vm_module.function_names if not found.endswith("$async"))
    return lambda x: module[function](x).to_host()


def tvm(path: Path, x: Array) -> Run:
    """The file in that runtime."""
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(onnx.load(path), shape_dict={"input": list(x.shape)}, keep_params_in_input=False)
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())

    def run(x: Array) -> Array:
        found = machine["main"](tvm.runtime.tensor(x))
        return (found if hasattr(found, "numpy") else found[0]).numpy()

    return run


def tract(path: Path, x: Array) -> Run:
    """The file in that runtime."""
    import tract

    model = tract.onnx().load(str(path))
    model.set_input_fact(0, ",".join(map(str, x.shape)) + ",f32")
    runnable = model.into_model().into_runnable()
    return lambda x: runnable.run([x])[0].to_numpy()


def mnn(path: Path, _x: Array) -> Run:
    """The file in that runtime. Its command ``mnnconvert`` would install a library that reports its use."""
    import _tools
    import MNN

    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "file.mnn")
        _tools.mnnconvert(["", "-f", "ONNX", "--modelFile", str(path), "--MNNModel", file])
        network = MNN.nn.load_module_from_file(file, ["input"], ["output"])

    def run(x: Array) -> Array:
        value = MNN.expr.placeholder(x.shape, MNN.expr.NCHW)
        value.write(x)
        return np.array(MNN.expr.convert(network.forward(value), MNN.expr.NCHW).read())

    return run


def reference(path: Path, _x: Array) -> Run:
    """The file in that runtime."""
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(str(path))
    return lambda x: session.run(None, {"input": x})[0]


def web(path: Path, x: Array) -> Run:
    """The file in that runtime, in Node; onnxruntime-web is in the environment's folder."""
    script, folder = Path(__file__).with_name("runtime_web.mjs"), Path(sys.prefix)
    command = ["node", script, folder / "node_modules", path, *map(str, x.shape)]
    node = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603

    def run(x: Array) -> Array:
        if node.stdin is None or node.stdout is None:
            raise BrokenPipeError
        node.stdin.write(x.tobytes())
        node.stdin.flush()
        found = json.loads(node.stdout.readline())
        if "error" in found:
            raise RuntimeError(found["error"])
        return np.array(found["data"], np.float32).reshape(found["dims"])

    return run


def litert(path: Path, x: Array) -> Run:
    """The file in that runtime, once onnx2tf has converted a copy of it: it simplifies its input in place."""
    import onnx2tf
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where it looks for pictures before it downloads some
        np.save(PICTURES, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
        copy = shutil.copy(path, folder)
        onnx2tf.convert(
            copy, output_folder_path=folder, overwrite_input_shape=[f"input:{','.join(map(str, x.shape))}"]
        )
        interpreter = Interpreter(str(Path(folder) / f"{path.stem}_float32.tflite"), num_threads=2)
    first = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(first, x.transpose(0, 2, 3, 1).shape)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(x: Array) -> Array:
        interpreter.set_tensor(taken["index"], x.transpose(0, 2, 3, 1))  # channels last
        interpreter.invoke()
        return interpreter.get_tensor(given["index"])

    return run


def torch_export(path: Path, _x: Array) -> Run:
    """The program as torch runs it."""
    import torch

    return _torch_run(torch.export.load(path).module())


def torch_compile(path: Path, x: Array) -> Run:
    """The program compiled by torch, as one graph, on its first run."""
    import torch

    run = _torch_run(torch.compile(torch.export.load(path).module(), fullgraph=True))
    run(x)
    return run


def executorch(path: Path, _x: Array) -> Run:
    """The program in ExecuTorch, by XNNPACK."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    program = torch.export.load(path)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    method = Runtime.get().load_program(lowered.buffer).load_method("forward")
    return lambda x: method.execute([torch.from_numpy(x)])[0].numpy()


def _torch_run(module: Callable[..., Any]) -> Run:
    import torch

    def run(x: Array) -> Array:
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()

    return run


RUNTIMES = (
    onnxruntime,
    web,
    openvino,
    opencv,
    iree,
    tvm,
    tract,
    mnn,
    litert,
    reference,
    torch_export,
    torch_compile,
    executorch,
)


def main() -> None:
    """Run, compare nothing: that is the caller's part."""
    name, path, given, result, *seconds = sys.argv[1:]
    budget = float(seconds[0]) if seconds else BUDGET
    x = np.load(given)
    try:
        run = {found.__name__: found for found in RUNTIMES}[name](Path(path), x)
        start = time.perf_counter()
        np.save(result, run(x))
        first = time.perf_counter() - start
        times = [first] if first > budget else []  # else it warms up
        start = time.perf_counter()
        while not times or (first < budget and time.perf_counter() - start < budget and len(times) < MOST):
            began = time.perf_counter()
            run(x)
            times.append(time.perf_counter() - began)
        answer = {"seconds": min(times)}
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises goes into the table
        answer = {"error": f"{getattr(error, 'stderr', None) or error}"}
    print("\n" + json.dumps(answer))  # noqa: T201


if __name__ == "__main__":
    main()
