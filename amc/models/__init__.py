"""Networks: built by name or from a user's file, with weights that execute nothing."""

from amc.models.factory import build_model

__all__ = ["build_model"]
