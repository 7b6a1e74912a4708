"""The public names: which they are, that each is there, and that asking for them costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import amc

NAMES = {
    "AMCError",
    "Budget",
    "CostTable",
    "FinetuneConfig",
    "Inputs",
    "Plan",
    "SearchResult",
    "Task",
    "VerificationError",
    "__version__",
    "apply_plan",
    "data_from",
    "export_onnx",
    "export_pt2",
    "find_units",
    "image_task",
    "load_model",
    "replay",
    "save_model",
    "search",
    "slice_model",
    "train_policy",
    "verify",
}
HEAVY = ("torch", "numpy", "gymnasium", "stable_baselines3", "pydantic", "matplotlib")


def test_the_public_names():
    assert set(amc.__all__) == NAMES
    assert sorted(dir(amc)) == sorted(NAMES)
    assert len(amc.__all__) == len(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_each_name_is_what_it_says_however_often_it_is_asked_for(name):
    for _ in range(2):  # importing the home of a name must not put a module in its place
        found = getattr(amc, name)
        assert found.__name__ == name
        assert found.__module__.startswith("amc.")
        assert found.__doc__


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'amc' has no attribute 'prune'"):
        amc.prune  # noqa: B018


@pytest.mark.parametrize("module", ["amc", "amc.cli.app"])
def test_importing_is_light(module):
    """The command line must show its help without waiting for PyTorch."""
    code = f"import sys, {module}; print([n for n in {HEAVY!r} if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
