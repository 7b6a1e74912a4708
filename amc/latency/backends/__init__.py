"""Runtimes: where a network's latency is measured.

To add one (TensorRT, ExecuTorch, a phone over adb), write a subclass of
:class:`~amc.latency.backends.base.Backend` in a file of this package and an entry into
:data:`amc.registry.BACKENDS`:
``missing`` says whether it is there and what installs it, ``version`` which one it is, and
``_load`` turns a network and its :class:`~amc.tracing.inputs.Inputs` into a function that runs one
forward, which PyTorch would run as ``inputs.call(model)``::

    class TensorRT(Backend):
        name, title, devices = "tensorrt", "TensorRT", ("cuda",)

        @classmethod
        def missing(cls):
            return None if find_spec("tensorrt") else "pip install tensorrt"

        @property
        def version(self):
            return tensorrt.__version__

        def _load(self, model, inputs):
            engine = build(to_onnx(model, inputs))
            return lambda: engine.run_and_wait()

A device with a clock of its own, such as a phone whose benchmark tool prints milliseconds, gives
the seconds of a forward in ``time``, and says in ``identity`` which device it is. ``_profile``,
which tells what each operation takes, may be left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from amc.errors import ModelError
from amc.latency.backends.base import Backend as Backend
from amc.latency.backends.base import Forward as Forward
from amc.latency.backends.base import Inputs as Inputs
from amc.latency.backends.base import Part as Part
from amc.latency.backends.onnxruntime_cpu import OnnxRuntime
from amc.latency.backends.torch_eager import TorchEager
from amc.registry import BACKENDS


def make_backend(name: str, threads: int = 1, device: str = "cpu") -> Backend:
    """A runtime by its name.

    Raises :class:`ConfigError` for an unknown name, and for a runtime that is not available here,
    with what installs it.
    """
    made: Backend = BACKENDS.load(name)(threads, device)
    return made


def default_backend(threads: int = 1, device: str = "cpu") -> Backend:
    """ONNX Runtime where it is installed and runs on ``device``, otherwise PyTorch."""
    there = device.partition(":")[0] in OnnxRuntime.devices and OnnxRuntime.missing() is None
    return (OnnxRuntime if there else TorchEager)(threads, device)


def load_all(
    models: Sequence[nn.Module], inputs: Inputs, *, threads: int = 1, device: str = "cpu"
) -> tuple[Backend, list[Forward]]:
    """All ``models`` in :func:`default_backend`, or in PyTorch where that cannot run them.

    Raises :class:`ModelError` where not even PyTorch can.
    """
    runtime = default_backend(threads, device)
    try:
        return runtime, [runtime.load(model, inputs) for model in models]
    except ModelError:
        eager = TorchEager(threads, device)
        return eager, [eager.load(model, inputs) for model in models]
