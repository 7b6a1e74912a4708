"""An agent that learns how hard to prune each layer of a network, and prunes it for real."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "AMCError": "amc.errors",
    "Budget": "amc.cost.budget",
    "CostTable": "amc.cost.table",
    "FinetuneConfig": "amc.config",
    "Inputs": "amc.tracing.inputs",
    "Plan": "amc.pruning.plan",
    "SearchResult": "amc.pipeline.search",
    "Task": "amc.task",
    "VerificationError": "amc.errors",
    "apply_plan": "amc.pruning.apply",
    "data_from": "amc.vision.sources.own",
    "export_onnx": "amc.export.formats",
    "export_pt2": "amc.export.formats",
    "find_units": "amc.pruning.find_units",
    "image_task": "amc.vision.task",
    "load_model": "amc.pruning.checkpoint",
    "replay": "amc.pipeline.replay",
    "save_model": "amc.pruning.checkpoint",
    "search": "amc.pipeline.search",
    "slice_model": "amc.pruning.slicing.slice",
    "train_policy": "amc.pipeline.multi_network",
    "verify": "amc.pruning.slicing.verification",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that ``import amc`` and ``--help`` stay quick."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module 'amc' has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("amc-agent")
    except PackageNotFoundError:  # a bare checkout
        return "0"


def __dir__() -> list[str]:
    return __all__
