"""ONNX: export, compile, check, run, and judge what was written."""
