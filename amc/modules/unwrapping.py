"""Networks as they were written: out of the wrappers that train or compile them."""

from __future__ import annotations

from torch import nn

from amc.errors import ModelError
from amc.modules.copying import copy_model

_INSIDE = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
}
"""By the name of a wrapper of PyTorch's (whose modules need not be imported), where the network is
that it runs."""


def unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The network inside of all wrappers, and a note that says so where there were any.

    ``model`` itself where there are none; tensors are shared with it in any case. Raises
    :class:`ModelError` where its weights are split over several processes.
    """
    names: list[str] = []
    while (inside := _inside(model)) is not None:
        names.append(type(model).__name__)
        model = inside
    parts = [part for part in model.modules() if _inside(part) is not None]
    if parts:
        names += [type(part).__name__ for part in parts]
        tensors = [*model.parameters(), *model.buffers()]
        model = copy_model(model, {id(tensor): tensor for tensor in tensors})
        _replace_parts(model)
    if not names:
        return model, ()
    listed = ", ".join(dict.fromkeys(names))
    return model, (f"model  without its {listed}: what is inside is pruned",)


def _inside(module: nn.Module) -> nn.Module | None:
    for kind in type(module).__mro__:
        if kind.__module__.startswith("torch.") and kind.__name__ in _INSIDE:
            inside: nn.Module = getattr(module, _INSIDE[kind.__name__])
            return inside
        if kind.__name__ in ("FullyShardedDataParallel", "FSDPModule"):
            raise ModelError(
                f"{type(module).__name__}: its weights are split over processes; load the full "
                "state dict into the network as it is without FSDP"
            )
    return None


def _replace_parts(model: nn.Module) -> None:
    for module in model.modules():
        for name, child in module._modules.items():
            while child is not None and (inside := _inside(child)) is not None:
                child = module._modules[name] = inside
