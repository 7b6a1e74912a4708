"""PyTorch's own compiler, on the CPU or a GPU."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from torch import nn

from amc.latency.backends.base import Forward, Inputs
from amc.latency.backends.torch_eager import TorchEager

_COMPILERS = ("g++", "clang++", "c++", "cl")


class TorchCompile(TorchEager):
    """``torch.compile`` for exactly these inputs; loading takes a minute the first time."""

    name = "torch-compile"
    title = "torch.compile"

    @classmethod
    def missing(cls) -> str | None:
        """A C++ compiler, which it writes its kernels for."""
        if any(map(shutil.which, (os.environ.get("CXX") or "", *_COMPILERS))):
            return None
        return "no C++ compiler: apt install g++"

    def _load(self, model: nn.Module, inputs: Inputs) -> Forward:
        def call(*args: Any, **kwargs: Any) -> Any:
            return model(*args, **kwargs)

        # A compiled function is kept with the code that it came from, only a few for each code, and
        # all of them are tried in turn: networks of one class would get into each other's way.
        call.__code__ = call.__code__.replace()
        compiled = torch.compile(call, dynamic=False)
        forward = super()._load(compiled, inputs)  # type: ignore[arg-type]
        forward()
        return forward

    def _profile(self, *_: Any) -> None:
        """Its kernels belong to no layer."""
