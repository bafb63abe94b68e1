"""Runs an ONNX model with stock onnxruntime."""

import numpy as np
import onnxruntime


def session(model):
    """An inference session for a path, the bytes of a model, or a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if hasattr(model, "SerializeToString"):
        model = model.SerializeToString()
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
    )


def run(model, inputs, batch=256):
    """All outputs by name for inputs [N, ...], `batch` samples at a time."""
    opened = model if isinstance(model, onnxruntime.InferenceSession) else session(model)
    names = [output.name for output in opened.get_outputs()]
    parts = [opened.run(None, {"input": inputs[i : i + batch]}) for i in range(0, len(inputs), batch)]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*parts))}
