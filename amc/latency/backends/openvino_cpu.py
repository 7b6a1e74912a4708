"""OpenVINO on the CPU."""

from __future__ import annotations

from collections import defaultdict
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


class OpenVino(Backend):
    """Intel's runtime, which other x86 and Arm processors run as well; here in float32."""

    name = "openvino"
    title = "OpenVINO"

    @classmethod
    def missing(cls) -> str | None:
        """What is not installed."""
        absent = missing_modules(*NEEDED, "openvino")
        return f"{', '.join(absent)} missing: pip install 'amc-agent[openvino]'" if absent else None

    @property
    def version(self) -> str:
        """Of the package, without the build."""
        import openvino

        return str(openvino.__version__).partition("-")[0]

    def _load(self, model: nn.Module, inputs: Inputs) -> Forward:
        request = self._request(to_onnx(model, inputs), inputs)
        return lambda: request.infer()

    def _profile(self, model: nn.Module, inputs: Inputs, repeats: int) -> tuple[Part, ...]:
        file = to_onnx(model, inputs)
        request, layers = self._request(file, inputs, PERF_COUNT=True), layer_names(file)
        samples: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        for _ in range(repeats):
            request.infer()
            for number, node in enumerate(request.profiling_info):
                if node.status.name == "EXECUTED":  # others were fused into their neighbours
                    kind = node.node_type
                    layer = find_layer(layers, node.node_name) if WEIGHTED.search(kind) else ""
                    samples[layer, kind, number].append(node.real_time.total_seconds())
        return parts_of(samples)

    def _request(self, file: bytes, inputs: Inputs, **settings: bool) -> Any:
        """A compiled network with its inputs in place."""
        import openvino

        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            # It would compute in bfloat16 where the processor can.
            "INFERENCE_PRECISION_HINT": "f32",
            **settings,
        }
        request = core.compile_model(core.read_model(file), "CPU", options).create_infer_request()
        for number, array in enumerate(arrays(inputs)):
            request.set_input_tensor(number, openvino.Tensor(array))
        return request
