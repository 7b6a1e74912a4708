"""A network as ONNX in memory, for the runtimes that read it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

NEEDED = ("onnx", "onnxscript")


def missing_modules(*names: str) -> list[str]:
    """Those that are not installed."""
    return [name for name in names if find_spec(name) is None]


def to_onnx(model: nn.Module, inputs: tuple[Any, ...]) -> bytes:
    """``model`` at exactly these inputs: the batch is fixed, as a device that is timed needs it.

    Raises what the exporter raises.
    """
    buffer = io.BytesIO()
    with _quiet():
        # The older exporter needs a tenth of the other's seconds, and dozens of networks are timed.
        try:
            torch.onnx.export(model, inputs, buffer, dynamo=False)
        except Exception:  # what one of them cannot write, the other often can
            program = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
            assert program is not None  # it is only where a file is asked for
            buffer = io.BytesIO()
            program.save(buffer)
    return buffer.getvalue()


def arrays(inputs: tuple[Any, ...]) -> list[Any]:
    """The tensors of ``inputs`` as NumPy arrays, in the order of the file's inputs."""
    return [x.numpy(force=True) for x in tree_leaves(inputs) if isinstance(x, Tensor)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of their own age and of what they did not fold; none of it is the user's."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
