"""The order of the modules: each imports only from floors below its own.

Read the table from the bottom to learn the project: nothing needs anything further down the page.
Imports inside functions and under ``TYPE_CHECKING`` count too.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS: tuple[tuple[str, ...], ...] = (
    ("amc", "amc.errors"),
    ("amc.utils",),
    ("amc.registry", "amc.cost.quantities", "amc.modules"),
    ("amc.presets", "amc.bounds"),
    ("amc.config", "amc.tracing"),
    ("amc.task", "amc.models", "amc.compute"),
    ("amc.pruning.slicing",),
    ("amc.pruning.importance", "amc.cost"),
    ("amc.pruning",),
    ("amc.latency", "amc.export"),
    ("amc.vision",),
    ("amc.training", "amc.records"),
    ("amc.vision.task",),
    ("amc.envs",),
    ("amc.agents",),
    ("amc.reporting",),
    ("amc.pipeline",),
    ("amc.comparison",),
    ("amc.cli",),
    ("amc.__main__",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def files() -> dict[str, Path]:
    """Every module of the project by its name; a package by its own."""
    found = {}
    # amc/envs and amc/agents are links, which a search in folders does not follow.
    for top in ("amc", "amc/envs", "amc/agents"):
        for path in sorted((ROOT / top).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


FILES = files()


def floor_of(module: str) -> str:
    """The entry of the table that a module belongs to."""
    parts = module.split(".")
    above = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next(name for name in above if name in FLOOR)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield node.lineno, name if name in FILES else str(node.module)


def test_an_installed_project_has_all_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name for name, path in FILES.items() if path.stem == "__init__"}
    assert set(project["tool"]["setuptools"]["packages"]) == packages


def test_every_module_has_one_floor():
    listed = [name for names in FLOORS for name in names]
    assert len(set(listed)) == len(listed)
    # The empty package itself stands on the lowest floor, but nothing stands there for it.
    assert {floor_of(name) for name in FILES} == set(listed)
    strangers = [n for n in FILES if floor_of(n) == "amc" and n != "amc"]
    assert strangers == [], "give these files a package, or a floor of their own"
    assert len(FLOORS) <= 20


@pytest.mark.parametrize("module", FILES)
def test_imports_go_downward(module):
    own = floor_of(module)
    upward = [
        f"{FILES[module].name}:{line} imports {name}"
        for line, name in imports(FILES[module])
        if name in FILES
        and floor_of(name) != own
        and FLOOR.get(floor_of(name), 0) >= FLOOR.get(own, 0)
    ]
    assert upward == []


@pytest.mark.parametrize(
    ("library", "seam"),
    [
        ("stable_baselines3", ("amc.agents",)),
        ("cmaes", ("amc.agents",)),
        ("optuna", ("amc.agents",)),
        ("scipy", ("amc.agents", "amc.comparison")),
        ("gymnasium", ("amc.envs", "amc.agents")),
        ("torchvision", ("amc.models", "amc.vision", "amc.tracing", "amc.training")),
        ("typer", ("amc.cli",)),
        ("onnxruntime", ("amc.export", "amc.latency")),
        ("openvino", ("amc.latency",)),
    ],
)
def test_only_the_seam_knows_the_library(library, seam):
    strangers = [
        f"{path.name}:{line}"
        for module, path in FILES.items()
        if floor_of(module) not in seam
        for line, name in imports(path)
        if name.split(".")[0] == library
    ]
    assert strangers == []
