"""Example inputs from a function in a user's Python file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from amc.errors import AMCError, ModelError
from amc.models.factory import find_function
from amc.tracing.inputs import Inputs


def inputs_from_file(spec: str, model: nn.Module) -> Inputs:
    """Call ``path/to/file.py:function``, without arguments, for example inputs of ``model``.

    They are in any form of :class:`~amc.tracing.inputs.Inputs`. What the function draws at random
    is seeded. Whoever calls this has to know that the user named the file himself. Raises
    :class:`ModelError` where there is no such function, or it fails, or returns no tensor.
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py"):
        raise ModelError(f"inputs {spec!r}: must be path/to/file.py:function")
    function = find_function(Path(file).expanduser(), name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = function()
    except AMCError:
        raise
    except Exception as error:  # the user's own code: anything may come
        raise ModelError(f"{spec}: raised {type(error).__name__}: {error}") from error
    inputs = Inputs.of(made, model)
    if not inputs.tensors:
        raise ModelError(
            f"{spec}: returned {type(made).__name__} without a tensor; it must return what the "
            "network is called with: a tensor, a tuple of arguments, a dict of keyword arguments, "
            "or amc.Inputs"
        )
    return inputs
