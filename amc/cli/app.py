"""The command line: its commands in the order of a user's path, and how it ends.

A command's module, ``amc.cli.commands.NAME``, is imported when that command is asked for, so that
``amc --help`` is quick.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from amc.errors import AMCError

COMMANDS = {
    "demo": "The whole path on embedded data: train a small CNN on digits, halve its MACs, recover "
    "it.",
    "inspect": "Show the units of a network, what is frozen and why, and what they cost.",
    "search": "Train the agent, find the best plan, prune the network for real, and finetune it.",
    "replay": "Prune a network by what was learned on others: without a search, or with a short "
    "one.",
    "compare": "Compare the agent with other searchers, at equal numbers of evaluated plans, over "
    "seeds.",
    "apply": "Slice the plan from the original weights, verify it against its masked twin, and save"
    " it.",
    "finetune": "Slice a run's best plan and recover its accuracy, with the dense network as "
    "teacher.",
    "measure": "Measure latency on this machine: of a run, dense, pruned and finetuned in turns.",
    "export": "Write a pruned network for deployment, and check what was written against PyTorch.",
    "report": "Write the run's page, report.html, again.",
}
"""Each command's line in ``amc --help``."""


class _Commands(TyperGroup):
    """The commands, each loaded when it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, line in COMMANDS.items():
            self.add_command(TyperCommand(name, help=line))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the user named, loaded."""
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = load(args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Ctrl-C as an Abort, which reaches main(): of an interrupt, typer makes a silent exit."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise typer.Abort from interrupt


def load(name: str) -> Any:
    """The command of that name, as typer makes it of its function in ``amc.cli.commands``."""
    function = getattr(import_module(f"amc.cli.commands.{name}"), name)
    one = typer.Typer(
        add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
    )
    one.command(name, cls=getattr(function, "command_class", TyperCommand))(function)
    return typer.main.get_command(one)


app = typer.Typer(
    name="amc",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Learn how hard to prune each layer of a trained network, and prune it for real.",
)
_debug = False


def _show_version(value: bool) -> None:
    if value:
        from amc import __version__

        typer.echo(f"amc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error")] = False,
    version: Annotated[  # noqa: ARG001 (its callback answers)
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit"
        ),
    ] = False,
) -> None:
    global _debug
    _debug = debug


def main() -> None:
    """Run the command line: one clear line for an error, a traceback only with --debug."""
    warnings.showwarning = _warn
    try:
        # The code of typer.Exit; None where all went well
        sys.exit(app(prog_name="amc", standalone_mode=False))
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted; what was written before is still sound", 130)
    except AMCError as error:
        _fail(str(error), 1)
    except OSError as error:  # a full disk, a folder without permission
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; what was written before is still sound", 1)
    except Exception as error:
        if hasattr(error, "show"):  # a wrong option or argument
            error.show()
            sys.exit(2)
        raise


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    text = str(message).splitlines()[0]
    _print(f"[yellow]warning[/]: {escape(text)}")


def _fail(message: str, code: int) -> None:
    if _debug:
        traceback.print_exc()
    _print(f"[bold red]error[/]: {escape(message)}")
    sys.exit(code)


def _print(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
