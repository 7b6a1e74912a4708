"""The command line: its commands in the order of a user's path, and how it ends."""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from amc.cli.commands.apply import apply
from amc.cli.commands.compare import compare
from amc.cli.commands.demo import demo
from amc.cli.commands.export import export
from amc.cli.commands.finetune import finetune
from amc.cli.commands.inspect import inspect
from amc.cli.commands.measure import measure
from amc.cli.commands.replay import replay
from amc.cli.commands.report import report
from amc.cli.commands.search import search
from amc.errors import AMCError


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Ctrl-C as an Abort, which reaches main(): of an interrupt, typer makes a silent exit."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise typer.Abort from interrupt


app = typer.Typer(
    name="amc",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Learn how hard to prune each layer of a trained network, and prune it for real.",
)
for command in (
    demo,
    inspect,
    search,
    replay,
    compare,
    apply,
    finetune,
    measure,
    export,
    report,
):
    app.command()(command)
_debug = False


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error")] = False,
) -> None:
    global _debug
    _debug = debug


def main() -> None:
    """Run the command line: one clear line for an error, a traceback only with --debug."""
    warnings.showwarning = _warn
    try:
        sys.exit(app(standalone_mode=False))  # the code of typer.Exit; None where all went well
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
    Console(stderr=True).print(f"[yellow]warning[/]: {text}", highlight=False, soft_wrap=True)


def _fail(message: str, code: int) -> None:
    if _debug:
        traceback.print_exc()
    Console(stderr=True).print(f"[bold red]error[/]: {message}", highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
