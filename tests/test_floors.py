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
    (
        "amc",
        "amc.errors",
        "amc.files",
        "amc.text",
        "amc.folding",
        "amc.page",
        "amc.options",
        "amc.processes",
    ),
    ("amc.config", "amc.networks", "amc.figures"),
    ("amc.tracing", "amc.models", "amc.data", "amc.document", "amc.run", "amc.command"),
    ("amc.slicing", "amc.runtimes", "amc.inference"),
    ("amc.importance", "amc.cost", "amc.evaluate", "amc.finetune", "amc.latency", "amc.explain"),
    ("amc.budget", "amc.plan", "amc.inspection", "amc.reconstruct", "amc.timing"),
    ("amc.projection",),
    ("amc.find", "amc.align"),
    ("amc.export", "amc.task", "amc.demo"),
    ("amc.apply", "amc.deploy", "amc.measuring", "amc.transfer"),
    ("amc.envs",),
    ("amc.agents",),
    ("amc.progress", "amc.results", "amc.front", "amc.start"),
    ("amc.side_by_side", "amc.record", "amc.resume", "amc.workers"),
    ("amc.scorer", "amc.confirm"),
    ("amc.ledger",),
    ("amc.track", "amc.report"),
    ("amc.pipeline",),
    ("amc.recover", "amc.jobs", "amc.reuse", "amc.training"),
    ("amc.crew", "amc.standings"),
    ("amc.compare",),
    ("amc.commands",),
    ("amc.cli",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
PACKAGES = (
    "amc.tracing",
    "amc.slicing",
    "amc.importance",
    "amc.runtimes",
    "amc.timing",
    "amc.envs",
    "amc.agents",
    "amc.commands",
)
"""One floor each, inside which modules may import each other."""


def files() -> dict[str, Path]:
    """Every module of the project by its name; a package by its own."""
    found = {}
    for package in ("amc", *PACKAGES):
        for path in sorted((ROOT / package.replace(".", "/")).glob("*.py")):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    return found


FILES = files()


def floor_of(module: str) -> str:
    """The entry of the table that a module belongs to."""
    return next((p for p in PACKAGES if module == p or module.startswith(f"{p}.")), module)


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
    assert set(project["tool"]["setuptools"]["packages"]) == {"amc", *PACKAGES}
    folders = {p.parent.relative_to(ROOT) for p in ROOT.glob("amc/*/__init__.py")}
    assert {".".join(folder.parts) for folder in folders} == set(PACKAGES)


def test_every_module_has_one_floor():
    listed = [name for names in FLOORS for name in names]
    assert len(set(listed)) == len(listed)
    assert {floor_of(name) for name in FILES} == set(listed)


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
        ("scipy", ("amc.agents", "amc.standings")),
        ("gymnasium", ("amc.envs", "amc.agents")),
        ("torchvision", ("amc.models", "amc.data", "amc.tracing")),
        ("typer", ("amc.cli", "amc.commands", "amc.options")),
        ("onnxruntime", ("amc.deploy", "amc.runtimes")),
        ("openvino", ("amc.runtimes",)),
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
