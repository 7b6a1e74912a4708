"""torch-pruning on one network, in a process of its own (see ``zoo_child.py``).

Half of every layer's channels go, by magnitude, layer by layer, as its examples for torchvision and
timm do it: the classifier (and, beyond classification, the layers that make the outputs) is
ignored, attention layers are named with their numbers of heads, and what its examples repair by
hand after pruning (head sizes, torchvision's ``hidden_dim``) is repaired here. PyTorch's own
attention is named with its heads too: torch-pruning then leaves the stream through it whole, where
its example for torchvision's ViT prunes the stream and computes something else. The outcome is

- ``works``: the pruned network computes what its masked twin does, to the limit that holds for amc.
  The twin is the dense network in which every weight that torch-pruning removed is zero,
  and norms that mix channels see the kept ones only;
- ``wrong``: it runs, and computes something else;
- ``other shapes``: it runs, and its outputs are not as large as the dense network's;
- ``not compared``: it runs, and was changed in ways that could not be followed;
- ``fails``: pruning or the forward raises.
"""

from __future__ import annotations

import os

os.environ["TIMM_FUSED_ATTN"] = "0"  # as its examples do, before timm is imported

import copy
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch_pruning.pruner.function import BasePruningFunc
from zoo_child import Emit, count_macs, difference, first_line, prepare, run
from zoo_networks import Network

from amc.pruning.slicing.verification import TOLERANCE


def measure(network: Network, emit: Emit, seconds: int) -> None:
    """Prune, run and compare."""
    model, inputs, _ = prepare(network, seconds)
    dense_macs = count_macs(model, inputs)
    twin = copy.deepcopy(model)
    start = time.process_time()
    try:
        prune_(model, inputs, network)
        emit(cpu_seconds=time.process_time() - start)
        with torch.inference_mode():
            actual = model(*inputs)
        emit(macs_share=count_macs(model, inputs) / max(1, dense_macs))
    except Exception as error:
        emit(outcome="fails", error=first_line(error), cpu_seconds=time.process_time() - start)
        return
    if not mask_(twin, model):
        emit(outcome="not compared")
        return
    with torch.inference_mode():
        off = difference(actual, twin(*inputs))
    compared = "works" if off is not None and off <= TOLERANCE else "wrong"
    emit(off=off, outcome="other shapes" if off is None else compared)


def prune_(model: nn.Module, inputs: tuple[Any, ...], network: Network) -> None:
    """Prune by half, and repair the sizes that torch-pruning leaves to its user."""
    model.requires_grad_(True)  # it follows gradients
    heads = dict(_heads(model))
    record_kept()
    pruner = tp.pruner.MagnitudePruner(
        model,
        inputs,
        importance=tp.importance.MagnitudeImportance(p=2),
        global_pruning=False,
        pruning_ratio=0.5,
        ignored_layers=list(_outputs(model, network)),
        num_heads=heads,
    )
    pruner.step()
    for module in model.modules():
        if getattr(module, "qkv", None) in heads:
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
            module.attn_dim = module.head_dim * module.num_heads
        elif getattr(module, "query", None) in heads:
            module.all_head_size = module.query.out_features
            module.attention_head_size = module.all_head_size // module.num_attention_heads
        elif hasattr(module, "hidden_dim") and hasattr(module, "conv_proj"):
            module.hidden_dim = module.conv_proj.out_channels


def _outputs(model: nn.Module, network: Network) -> Iterable[nn.Module]:
    for name, module in model.named_modules():
        made = getattr(module, "out_features", getattr(module, "out_channels", None))
        classifier = isinstance(module, nn.Linear | _ConvNd) and made == network.classes
        if classifier or any(fnmatchcase(name, pattern) for pattern in network.outputs):
            yield module


def _heads(model: nn.Module) -> Iterable[tuple[nn.Module, int]]:
    """Attention layers with their numbers of heads."""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            yield module, module.num_heads
        elif isinstance(getattr(module, "qkv", None), nn.Linear) and hasattr(module, "num_heads"):
            yield module.qkv, module.num_heads
        elif hasattr(module, "num_attention_heads") and hasattr(module, "query"):
            for layer in (module.query, module.key, module.value):
                yield layer, module.num_attention_heads


def record_kept() -> None:
    """Make every pruned parameter carry ``kept``: by dimension, the original indices it holds."""
    prune = BasePruningFunc._prune_parameter_and_grad

    def recorded(self: BasePruningFunc, weight: Tensor, keep_idxs: Any, pruning_dim: int) -> Tensor:
        pruned: Any = prune(self, weight, keep_idxs, pruning_dim)
        kept, dim = dict(getattr(weight, "kept", {})), pruning_dim % weight.dim()
        before = kept.get(dim, torch.arange(weight.shape[dim]))
        pruned.kept = {**kept, dim: before[torch.as_tensor(keep_idxs, dtype=torch.long)]}
        return pruned

    BasePruningFunc._prune_parameter_and_grad = recorded


def mask_(twin: nn.Module, pruned: nn.Module) -> bool:
    """Silence in the dense ``twin`` what ``pruned`` no longer has; False where that is unknown."""
    small = dict(pruned.named_parameters())
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            kept = getattr(small.get(name), "kept", {})
            expected = [len(kept.get(d, range(n))) for d, n in enumerate(parameter.shape)]
            if name not in small or list(small[name].shape) != expected:
                return False
            for dim, index in kept.items():
                keep = torch.zeros(parameter.shape[dim])
                keep[index] = 1
                parameter.mul_(keep.view(-1, *[1] * (parameter.dim() - dim - 1)))
    for name, norm in list(twin.named_modules()):
        weight = small.get(f"{name}.weight")
        if isinstance(norm, nn.LayerNorm | nn.GroupNorm) and hasattr(weight, "kept"):
            if norm.weight.dim() > 1:
                return False
            _narrow_(norm, weight.kept[0].sort().values)
    return True


def _narrow_(norm: nn.Module, kept: Tensor) -> None:
    """Let a norm that mixes channels see the kept ones only; the others come out as zero."""
    alone = copy.deepcopy(norm)
    for name, parameter in alone.named_parameters():
        setattr(alone, name, nn.Parameter(parameter[kept]))
    last = isinstance(norm, nn.LayerNorm) and not type(norm).__name__.endswith("2d")
    if isinstance(norm, nn.LayerNorm):
        alone.normalized_shape = (len(kept),)
    else:
        alone.num_channels = len(kept)

    def forward(x: Tensor) -> Tensor:
        dim = -1 if last else 1
        return torch.zeros_like(x).index_copy(dim, kept, alone(x.index_select(dim, kept)))

    norm.forward = forward


if __name__ == "__main__":
    run(measure)
