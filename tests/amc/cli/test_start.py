"""What the command line imports before it knows what is asked, and shell completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from amc import __version__
from amc.cli.app import COMMANDS

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "torchvision", "numpy", "matplotlib", "pydantic", "gymnasium", "amc.config")
LIST = (
    "import atexit, sys\n"
    "atexit.register(lambda: print('loaded', *[x for x in {names!r} if x in sys.modules]))\n"
)


def python(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of ``names`` are imported once ``statement`` has run."""
    last = python("-c", LIST.format(names=names) + statement).strip().splitlines()[-1]
    return last.split()[1:]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_nothing_heavy_is_imported(option: str) -> None:
    statement = f"import sys; sys.argv = ['amc', {option!r}]; from amc.cli.app import main; main()"
    assert loaded(statement, HEAVY) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_page_needs_no_network(command: str) -> None:
    statement = (
        f"import sys; sys.argv = ['amc', {command!r}, '--help']; "
        "from amc.cli.app import main; main()"
    )
    assert loaded(statement, ("torch", "torchvision", "numpy", "matplotlib")) == []


def test_the_search_does_not_import_torchvision() -> None:
    names = [path.stem for path in (ROOT / "amc" / "pipeline").glob("[a-z]*.py")]
    statement = "; ".join(f"import amc.pipeline.{name}" for name in names)
    assert loaded(statement, ("torchvision", "sklearn", "onnx")) == []


def test_module_and_version() -> None:
    assert python("-m", "amc", "--version").strip() == f"amc {__version__}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("amc ", set(COMMANDS)),
        ("amc re", {"replay", "report"}),
        ("amc search --round", {"--round-to"}),
        ("amc search --agent cma", {"cma-es"}),
    ],
)
def test_bash_completes(words: str, expected: set[str]) -> None:
    call = "from amc.cli.app import main; main()"
    out = python(
        "-c",
        call,
        _AMC_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    )
    assert set(out.split()) == expected


def test_help_offers_to_install_completion() -> None:
    assert "--install-completion" in python("-m", "amc", "--help", COLUMNS="120")
