"""What is no network to prune any more: exported, frozen, quantised, or spread over processes."""

from __future__ import annotations

from torch import nn
from torch.jit import ScriptModule
from torch.utils._python_dispatch import is_traceable_wrapper_subclass_type

from amc.errors import ModelError
from amc.utils.formatting import one_line

_QUANTISED = (
    "torch.ao.nn.quantized.",
    "torch.ao.nn.qat.",
    "torch.ao.nn.intrinsic.q",
    "torch.ao.nn.quantizable.",
    "torch.ao.nn.sparse.quantized.",
    "torch.ao.quantization.fake_quantize",
    "torch.ao.quantization.observer",
)
"""Where PyTorch's modules are from that compute with quantised weights, or learn how to."""
_FLOAT = ("FloatFunctional", "FXFloatFunctional")
"""Among them, but sums and products like any other."""


def check_evaluates(model: nn.Module) -> None:
    """Raise :class:`ModelError` for a network without an evaluation mode: exported programs."""
    flags = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        model.eval()
    except Exception as error:  # what they raise is not documented
        raise ModelError(
            f"{type(model).__name__}: it has no evaluation mode ({one_line(error, 80)}); hand over "
            "the module that it was made of"
        ) from error
    finally:
        for module, training in flags:
            module.training = training


def check_prunable(model: nn.Module) -> None:
    """Raise :class:`ModelError` where weights are not plain tensors that can be cut."""
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith(_QUANTISED) and kind.__name__ not in _FLOAT:
            raise ModelError(
                f"{name or 'the network'} is quantised, or prepared for it ({kind.__name__}): "
                "prune the network as it was before, and quantise the pruned one"
            )
    for name, parameter in model.named_parameters():
        kind = type(parameter)
        if is_traceable_wrapper_subclass_type(kind):
            raise ModelError(
                f"{name} is a {kind.__name__}, no plain tensor: it is quantised, or in "
                "parts on several devices; hand over the network with its plain weights"
            )
    if isinstance(model, ScriptModule) and next(model.parameters(), None) is None:
        raise ModelError(
            f"{type(model).__name__}: a frozen script, which holds its weights as constants; hand "
            "over the module that it was made of"
        )
