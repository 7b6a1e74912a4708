"""An agent that learns how hard to prune each layer of a network, and prunes it for real."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("amc-agent")
except PackageNotFoundError:  # a bare checkout
    __version__ = "0"

_HOME = {
    "AMCError": "amc.errors",
    "Budget": "amc.budget",
    "CostTable": "amc.cost",
    "FinetuneConfig": "amc.config",
    "Plan": "amc.plan",
    "SearchResult": "amc.pipeline",
    "Task": "amc.task",
    "VerificationError": "amc.errors",
    "apply_plan": "amc.apply",
    "export_onnx": "amc.deploy",
    "export_pt2": "amc.deploy",
    "find_units": "amc.find",
    "image_task": "amc.task",
    "load_model": "amc.export",
    "replay": "amc.reuse",
    "save_model": "amc.export",
    "search": "amc.pipeline",
    "slice_model": "amc.slicing.slim",
    "train_policy": "amc.training",
    "verify": "amc.slicing.verification",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that ``import amc`` and ``--help`` stay quick."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'amc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
