"""Help pages: ``--help`` shows the options that most people need, ``--help-all`` every one."""

from __future__ import annotations

from typing import Any, ClassVar

import typer
from typer.core import TyperCommand

from amc.utils.options import RUN

_ALL = "amc.help_all"


class Command(TyperCommand):
    """A command with a short help page, unless all of its options are on it."""

    basic: ClassVar[frozenset[str]] = frozenset()
    """The options of the short page; where there are none, every option is on it."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        short = self.basic and not ctx.meta.get(_ALL)
        left_out: list[Any] = [
            parameter
            for parameter in self.params
            if short
            and parameter.param_type_name == "option"
            and parameter.name not in self.basic
            and not getattr(parameter, "hidden", False)
        ]
        try:
            for parameter in left_out:
                parameter.hidden = True
            super().format_help(ctx, formatter)
        finally:
            for parameter in left_out:
                parameter.hidden = False


def _show_all(context: typer.Context, value: bool) -> None:
    if value and not context.resilient_parsing:
        context.meta[_ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit


SHOW_ALL = typer.Option(
    "--help-all",
    is_eager=True,
    callback=_show_all,
    help="Show every option and exit",
    show_default=False,
    rich_help_panel=RUN,
)
"""The option that shows every option."""
