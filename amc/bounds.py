"""Settings that bound what may be kept of each unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt

from amc.errors import ConfigError
from amc.utils.options import PLAN, Option
from amc.utils.settings import Settings

_WIDTHS = ("search", "replay", "compare", "inspect")

UNIT_KINDS = ("conv", "linear", "embedding", "stream", "heads")
"""Kinds of units. A depthwise convolution is none: its channels ride with the unit it reads."""


def _by_kind(given: Any) -> Any:
    """A bare number stands for all kinds."""
    values = {"all": given} if isinstance(given, int) else given
    for kind in values if isinstance(values, dict) else ():
        if kind not in ("all", *UNIT_KINDS):
            raise ValueError(f"no unit is of kind {kind!r}; write all, {', '.join(UNIT_KINDS)}")
    return values


class Bounds(Settings):
    """Which kept widths the units of a network may take; the full width is always allowed."""

    min_keep: Annotated[float, Option("--min-keep", _WIDTHS, PLAN)] = Field(0.1, ge=0, le=1)
    """Least fraction of a unit to keep."""
    min_width: Annotated[int, Option("--min-width", _WIDTHS, PLAN)] = Field(1, ge=1)
    """Least width of a unit to keep, in groups of channels (a head is one group)."""
    round_to: Annotated[
        dict[str, PositiveInt],
        BeforeValidator(_by_kind),
        Option("--round-to", _WIDTHS, PLAN, texts=True),
    ] = Field(default_factory=lambda: {"all": 1})
    """Keep multiples of so many channels: 8 (all units), or by kind of unit, ``conv=8`` (conv,
    linear, embedding, stream, heads); repeatable. Default: 1; of a search for latency ``auto``, the
    grid on which plans of that latency keep the most.

    Kept channels are multiples of this, by kind of unit; ``all`` stands for the kinds that are
    not named, and a bare number for ``all``. A unit of groups of g channels keeps multiples of
    n / gcd(n, g) groups, as its first producer counts channels: of 12 channels in each group, 8
    asks for pairs of groups."""
    exclude: Annotated[tuple[str, ...], Option("--exclude", _WIDTHS, PLAN)] = ()
    """Units to leave alone: a name or shell pattern of theirs or of a layer tied into them
    (``layer1.*``), or ``kind:stream``; repeatable."""
    gentle_ends: Annotated[bool, Option("--gentle-ends", _WIDTHS, PLAN)] = False
    """Keep at least half of what the first layer writes and the output layers read."""
    allow_drop: Annotated[bool, Option("--allow-drop", _WIDTHS, PLAN)] = False
    """Let units inside residual branches go altogether, so that a block becomes its shortcut."""


def parse_multiples(texts: Sequence[str]) -> dict[str, int]:
    """``["8", "conv=16"]`` as ``{"all": 8, "conv": 16}``: what ``round_to`` takes.

    Raises :class:`ConfigError` for a text that does not parse and for a kind that is given twice.
    """
    multiples: dict[str, int] = {}
    for text in texts:
        kind, _, number = text.partition("=") if "=" in text else ("all", "", text)
        if not number.isdecimal():
            raise ConfigError(f"round_to {text!r}: write a number, or KIND=NUMBER (conv=8)")
        if kind in multiples:
            raise ConfigError(f"round_to {text!r}: {kind} has two multiples; give one")
        multiples[kind] = int(number)
    return multiples
