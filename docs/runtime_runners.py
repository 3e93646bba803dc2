"""Run an ONNX file in one runtime, in that runtime's environment, where neither torch nor this package is.

    python docs/runtime_runners.py RUNTIME FILE.onnx INPUT.npy OUTPUT.npy

Writes the output, and prints the shortest time of a run in seconds, or the error that stopped it, as JSON.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Array = np.ndarray
Run = Callable[[Array], Array]
BUDGET, MOST = 4.0, 30
"""Seconds that a file is timed for, and most runs."""


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
    """The file in that runtime."""
    import MNN

    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "file.mnn")
        tool = [str(Path(sys.executable).parent / "mnnconvert"), "-f", "ONNX", "--modelFile", str(path)]
        subprocess.run([*tool, "--MNNModel", file], check=True, capture_output=True, text=True)  # noqa: S603
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


RUNTIMES = (onnxruntime, openvino, opencv, iree, tvm, tract, mnn, reference)


def main() -> None:
    """Run, compare nothing: that is the caller's part."""
    name, path, given, result = sys.argv[1:]
    x = np.load(given)
    try:
        run = {found.__name__: found for found in RUNTIMES}[name](Path(path), x)
        np.save(result, run(x))
        times, start = [], time.perf_counter()
        while not times or (time.perf_counter() - start < BUDGET and len(times) < MOST):
            began = time.perf_counter()
            run(x)
            times.append(time.perf_counter() - began)
        answer = {"seconds": min(times)}
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises goes into the table
        answer = {"error": f"{getattr(error, 'stderr', None) or error}"}
    print("\n" + json.dumps(answer))  # noqa: T201


if __name__ == "__main__":
    main()
