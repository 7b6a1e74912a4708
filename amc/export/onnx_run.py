"""Run an ONNX file: in ONNX Runtime, or where that has no kernels in ONNX's reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amc.tracing.inputs import Inputs

UNSUPPORTED = (torch.float64, torch.bfloat16)
"""Kinds of numbers for which ONNX Runtime lacks kernels on CPUs, of convolutions for instance."""

Run = Callable[[Inputs], list[Tensor]]
"""Runs what was exported."""


def run_onnx(path: Path, kinds: set[torch.dtype]) -> Run:
    """What runs the file of a network that holds numbers of these kinds.

    That is ONNX Runtime, and for :data:`UNSUPPORTED` kinds that it has no kernels for the reference
    implementation of the ``onnx`` package: plain NumPy, exact and slow.
    """
    try:
        return _in_onnxruntime(path)
    except Exception:  # its errors have no public base class
        if kinds.isdisjoint(UNSUPPORTED):
            raise
        return _in_reference(path)


def _in_onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings tell how it rearranges the graph
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    return lambda inputs: _tensors(session.run(None, _feed(names, inputs)))


def _in_reference(path: Path) -> Run:
    import onnx
    from onnx.reference import ReferenceEvaluator

    file = onnx.load(path)
    onnx.checker.check_model(file)  # as a runtime would: it evaluates what is no valid file, too
    evaluator = ReferenceEvaluator(file)
    names = list(evaluator.input_names)
    return lambda inputs: _tensors(evaluator.run(None, _feed(names, inputs)))


def _feed(names: list[str], inputs: Inputs) -> dict[str, np.ndarray]:
    arrays = [_array(tensor.detach().cpu()) for tensor in inputs.tensors]
    return dict(zip(names, arrays, strict=True))


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.dtype is not torch.bfloat16:  # NumPy itself has no such numbers
        return tensor.resolve_conj().numpy()
    import ml_dtypes

    return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _tensors(outputs: Any) -> list[Tensor]:
    arrays = [np.asarray(output) for output in outputs]
    return [
        torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
        if x.dtype.name == "bfloat16"
        else torch.from_numpy(x)
        for x in arrays
    ]
