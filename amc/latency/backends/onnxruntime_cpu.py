"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from amc.latency.backends.base import Backend, Forward, Inputs, Part, parts_of
from amc.latency.backends.onnx_format import (
    NEEDED,
    WEIGHTED,
    arrays,
    find_layer,
    layer_names,
    missing_modules,
    to_onnx,
)

_TIMED, _BLOCKED = "_kernel_time", "_nchwc"
"""What its profile puts behind a name; what it puts behind one whose channels are in blocks."""


class OnnxRuntime(Backend):
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

    def _profile(self, model: nn.Module, inputs: Inputs, repeats: int) -> tuple[Part, ...]:
        file = to_onnx(model, inputs)
        with TemporaryDirectory() as folder:
            session, feed = self._session(file, inputs, Path(folder) / "profile")
            for _ in range(repeats):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        layers = layer_names(file)
        samples: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        for event in events:
            if event["cat"] == "Node" and event["name"].endswith(_TIMED):
                kind = event["args"]["op_name"]
                name = event["name"].removesuffix(_TIMED).removesuffix(_BLOCKED)
                layer = find_layer(layers, name) if WEIGHTED.search(kind) else ""
                key = (layer, kind, int(event["args"]["node_index"]))
                samples[key].append(event["dur"] / 1e6)
        return parts_of(samples)

    def _session(
        self, file: bytes, inputs: Inputs, profile: Path | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A session, and what it is fed; its profile goes to a file of that prefix."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Its threads would wait for the next forward in a loop, while another network is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3  # errors; its warnings tell how it rearranges the graph
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        names = [argument.name for argument in session.get_inputs()]
        return session, dict(zip(names, arrays(inputs), strict=True))
