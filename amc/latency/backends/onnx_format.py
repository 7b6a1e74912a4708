"""A network as ONNX in memory, for the runtimes that read it, and the layers behind its nodes."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amc.tracing.inputs import Inputs

NEEDED = ("onnx", "onnxscript")
WEIGHTED = re.compile("Conv|Gemm|MatMul|FullyConnected")
"""In the kind of an operation that multiplies and accumulates, in any runtime."""


def missing_modules(*names: str) -> list[str]:
    """Those that are not installed."""
    return [name for name in names if find_spec(name) is None]


def to_onnx(model: nn.Module, inputs: Inputs) -> bytes:
    """``model`` at exactly these inputs: the batch is fixed, as a device that is timed needs it.

    Raises what the exporter raises.
    """
    with _quiet():
        arguments = (*inputs.args, *inputs.kwargs.values())
        if not all(isinstance(argument, Tensor) for argument in arguments):
            return _by_capture(model, inputs)  # the other one would take numbers for inputs
        try:
            # A tenth of the other's time, and dozens of networks are measured.
            buffer = io.BytesIO()
            torch.onnx.export(
                model,
                inputs.args,
                buffer,  # type: ignore[arg-type]
                kwargs=inputs.kwargs or None,
                dynamo=False,
            )
            return buffer.getvalue()
        except Exception:  # what it cannot write, the other often can
            return _by_capture(model, inputs)


def _by_capture(model: nn.Module, inputs: Inputs) -> bytes:
    program = torch.onnx.export(
        model, inputs.args, kwargs=inputs.kwargs, dynamo=True, verbose=False
    )
    if program is None:
        raise RuntimeError("nothing was exported")
    file: bytes = program.model_proto.SerializeToString()
    return file


def arrays(inputs: Inputs) -> list[Any]:
    """The tensors of ``inputs`` as NumPy arrays, in the order of the file's inputs."""
    return [x.numpy(force=True) for x in inputs.tensors]


def layer_names(file: bytes) -> dict[str, str]:
    """The layer behind each name that an optimised graph may call its operation by.

    A runtime that fuses a convolution with what follows names the result after either, so that the
    names behind a layer lead to it as long as nobody else reads what passes there.
    """
    import onnx

    nodes = onnx.load_from_string(file).graph.node
    readers = Counter(value for node in nodes for value in node.input)
    layers: dict[str, str] = {}
    for node in nodes:
        first = node.input[0] if node.input else ""
        layer = (
            _module_path(node.name)
            if WEIGHTED.search(node.op_type)
            else layers.get(first, "")
            if readers[first] == 1
            else ""
        )
        if layer:
            layers |= dict.fromkeys((node.name, *node.output), layer)
    return layers


def find_layer(layers: dict[str, str], name: str) -> str:
    """The layer of an operation that is called ``name``, or like it with more behind a slash."""
    while name and name not in layers:
        name = name.rpartition("/")[0]
    return layers.get(name, "")


def _module_path(scope: str) -> str:
    """``/layer1/layer1.0/conv1/Conv`` as ``layer1.0.conv1``: containers name their items twice."""
    path: list[str] = []
    last = ""
    for part in scope.split("/")[1:-1]:
        path.append(part.removeprefix(f"{last}.") if last else part)
        last = part
    return ".".join(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks: on their own age, on what they did not fold, and, on standard
    output, the whole graph of what they could not write."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    sys.stdout.flush()
    output = os.dup(1)
    with warnings.catch_warnings(), Path(os.devnull).open("wb") as nowhere:
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(output, 1)
            os.close(output)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
