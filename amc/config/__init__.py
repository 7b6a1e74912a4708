"""Typed settings. Every object is frozen, refuses unknown keys, and is saved with the run."""

from amc.config.finetune import FinetuneConfig
from amc.config.inputs import DataConfig, EvaluateConfig, ModelConfig
from amc.config.names import ConstraintName, ImportanceName, Signal
from amc.config.search import LatencyConfig, SearchConfig, sign_of

__all__ = [
    "ConstraintName",
    "DataConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "ImportanceName",
    "LatencyConfig",
    "ModelConfig",
    "SearchConfig",
    "Signal",
    "sign_of",
]
