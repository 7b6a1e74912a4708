"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any

from torch import nn

from amc.runtimes.base import Forward, Inputs, Runtime
from amc.runtimes.onnx_format import NEEDED, arrays, missing_modules, to_onnx


class OnnxRuntime(Runtime):
    """The default target: fused, float32, each thread on a core of its own."""

    name = "onnxruntime"
    title = "ONNX Runtime"

    @classmethod
    def missing(cls) -> str | None:
        """What is not installed."""
        absent = missing_modules(*NEEDED, "onnxruntime")
        return f"{', '.join(absent)} missing: pip install 'amc-agent[onnx]'" if absent else None

    @property
    def version(self) -> str:
        """Of the package."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def _load(self, model: nn.Module, inputs: Inputs) -> Forward:
        session, feed = self._session(to_onnx(model, inputs), inputs)
        return lambda: session.run(None, feed)

    def _session(
        self, file: bytes, inputs: Inputs, profile_to: str | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A session, and what it is fed."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; its warnings tell how it rearranges the graph
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        names = [argument.name for argument in session.get_inputs()]
        return session, dict(zip(names, arrays(inputs), strict=True))
