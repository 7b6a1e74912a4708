"""Options of a command, made from the fields of the settings that they set.

A field states its option once (:mod:`amc.utils.options`). :func:`settings_command` gives a command
the options that name it, and calls it with what the user stated (:mod:`amc.cli.given`): in options,
or in ``--config FILE``. What neither says is as in the command's or the field's default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic_core import PydanticUndefined
from typer.models import ArgumentInfo, OptionInfo

from amc.cli.config_file import read_config
from amc.cli.given import Given
from amc.cli.help_pages import SHOW_ALL, Command
from amc.errors import ConfigError
from amc.utils.options import (
    AGENT,
    PLAN,
    RUN,
    TUNING,
    OptionOfField,
    options_of,
    parameter_name,
    with_commas,
)
from amc.utils.settings import Settings

_PANELS = (None, PLAN, AGENT, TUNING, RUN)
_CONFIG = typer.Option(
    metavar="FILE",
    help="Settings in the format of a run's config.toml; options override them",
    rich_help_panel=RUN,
)


def settings_command(
    kind: type[Settings],
    *,
    defaults: Mapping[str, Any] | None = None,
    helps: Mapping[str, str] | None = None,
    basic: tuple[str, ...] = (),
    panels: bool = True,
    words: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: gives a command the options that name it, of the settings ``kind``.

    The command takes a :class:`typer.Context` as ``context``, what was stated as ``given``, and the
    options that set no field as parameters of its own.

    Args:
        kind: the settings; their options that name the command are added.
        defaults: values by path where the command's defaults differ from the fields'.
        helps: texts by path where an option does something else in this command.
        basic: the command's own options that ``--help`` shows; with none of them it shows all, and
            there is no ``--help-all`` and no ``--config``.
        panels: whether the options are in the panels of their fields, or all in the first one.
        words: replaced in the command's docstring.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        options = options_of(kind, function.__name__)
        paths = {parameter_name(option): path for path, option in options.items()}

        def call(context: typer.Context, **values: Any) -> None:
            typed = {paths[name]: values[name] for name in paths if is_typed(context, name)}
            values = {name: value for name, value in values.items() if name not in paths}
            values.pop("help_all", None)
            path = values.pop("config", None)
            resumed = values.get("resume") is not None  # which refuses a file, whatever is in it
            file = read_config(path, kind) if path is not None and not resumed else {}
            given = Given(options, typed, file, defaults or {})
            _check_files(given)
            function(context=context, given=given, **values)

        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
            if name not in ("context", "given")
        ]
        shown = set(basic)
        if basic:
            own += [_own("config", Path | None, _CONFIG, None), _own("help_all", bool, SHOW_ALL)]
            shown |= {"config", "help_all"}
            shown |= {name for name, path in paths.items() if options[path].option.basic}
        added = parameters(options, defaults or {}, helps or {}, panels=panels)
        first = _own("context", typer.Context, None, inspect.Parameter.empty)
        ordered = sorted([*own, *added], key=partial(_place, shown))
        _describe(call, function, [first, *ordered], words or {})
        call.command_class = type("_Command", (Command,), {"basic": frozenset(shown)})  # type: ignore[attr-defined]
        return call

    return decorate


def parameters(
    options: Mapping[str, OptionOfField],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    helps: Mapping[str, str] = MappingProxyType({}),
    *,
    panels: bool = True,
) -> list[inspect.Parameter]:
    """The parameter of each option, as typer reads them from a function's signature."""
    return [
        _parameter(
            one,
            defaults.get(path, _default(one)),
            helps.get(path, one.help),
            one.option.panel if panels else None,
        )
        for path, one in options.items()
    ]


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether the user typed the option or the argument of that parameter."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def typed_beyond(context: typer.Context, allowed: set[str]) -> list[str]:
    """What the user typed beside the parameters ``allowed``, as it is written."""
    written = {
        one.name: one.opts[0] if one.param_type_name == "option" else str(one.name).upper()
        for one in context.command.params
    }
    return [
        written[name] for name in context.params if name not in allowed and is_typed(context, name)
    ]


def _parameter(one: OptionOfField, default: Any, text: str, panel: str | None) -> inspect.Parameter:
    least, most = one.bounds
    kind = _kind(one)
    flag = one.name
    if kind in (bool, bool | None):
        flag = f"{flag}/{flag.replace('--', '--no-', 1)}"
    names = one.names

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    info = typer.Option(
        flag,
        help=text,
        min=least,
        max=most,
        metavar=one.option.metavar,
        rich_help_panel=panel,
        autocompletion=complete if names else None,
        show_default=default is not False,
    )
    return _own(parameter_name(one), kind, info, default)


def _kind(one: OptionOfField) -> Any:
    """The type of the option's value as typer reads it."""
    if one.option.texts:
        return list[str]
    annotation: Any = one.field.annotation
    none = False
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        none = len(kinds) < len(get_args(annotation))
        annotation = str if str in kinds else kinds[0]
    if one.option.commas:
        return str | None if none else str
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is tuple:
        return list[str]
    if get_origin(annotation) is Literal:
        annotation = str
    return annotation | None if none else annotation


def _default(one: OptionOfField) -> Any:
    """The field's default, in the form in which the option is written."""
    value = one.field.get_default(call_default_factory=True)
    if one.option.texts or value is PydanticUndefined:
        return []
    if one.option.commas:
        return with_commas(value) if value is not None else None
    return list(value) if isinstance(value, tuple) else value


def _own(name: str, kind: Any, info: Any, default: Any = False) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=kind if info is None else Annotated[kind, info],
        default=default,
    )


def _place(shown: set[str], parameter: inspect.Parameter) -> tuple[bool, int, bool]:
    """The order of the help page: arguments, then panel by panel, the basic options first."""
    _, *infos = get_args(parameter.annotation)
    info = next(x for x in infos if isinstance(x, OptionInfo | ArgumentInfo))
    panel = info.rich_help_panel if isinstance(info.rich_help_panel, str) else None
    return isinstance(info, OptionInfo), _PANELS.index(panel), parameter.name not in shown


def _describe(
    call: Callable[..., None],
    function: Callable[..., None],
    signature: list[inspect.Parameter],
    words: Mapping[str, str],
) -> None:
    text = inspect.cleandoc(function.__doc__ or "")
    for word, replacement in words.items():
        text = text.replace(word, replacement)
    call.__name__, call.__doc__, call.__module__ = function.__name__, text, function.__module__
    call.__annotations__ = {}
    call.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]


_MAY_NAME_FILES = {
    "agent": "agent",
    "agents": "agent",
    "finetune.optimizer": "optimizer",
    "finetune.teacher": "teacher",
}
"""Settings that may name a Python file, and what it makes."""


def _check_files(given: Given) -> None:
    """Refuse to run a Python file only because a file of settings names it."""
    from amc.presets import in_file

    stated = given.stated_in_file()
    for path, what in _MAY_NAME_FILES.items():
        named = stated.get(path) or ()
        for one in (named,) if isinstance(named, str) else named:
            if path not in given.typed and in_file(one.partition("@")[0]):
                raise ConfigError(
                    f"--config names the {what} {one}, a Python file that would be run; if you "
                    f"trust it, write --{path.rpartition('.')[2]} {one}"
                )
