"""Names of many similar things on one line: ``blocks.{0..11}.mlp.fc1``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence

Key = tuple[str, str]
"""What stands before a number in a name, and what behind it."""


def group_names(
    names: Sequence[str], alike: Sequence[Hashable] | None = None
) -> list[tuple[str, list[int]]]:
    """Names that differ in one number only, as one pattern: ``[("a.{0..2}.b", [0, 1, 3]), ...]``.

    With each pattern come the positions in ``names`` of those that it stands for, in the order of
    the first. Names whose entries in ``alike`` differ stay apart. Where several numbers of a name
    could be left open, the one that covers most names is.
    """
    kinds = alike or [None] * len(names)
    runs: dict[tuple[Hashable, Key], list[int]] = defaultdict(list)
    for position, name in enumerate(names):
        for key, _ in _numbers(name):
            runs[kinds[position], key].append(position)
    grouped: list[tuple[str, list[int]]] = []
    done: set[int] = set()
    for position, name in enumerate(names):
        if position in done:
            continue
        pattern, members = name, [position]
        for key, _ in _numbers(name):
            run = [other for other in runs[kinds[position], key] if other not in done]
            if len(run) > len(members):
                members = run
                pattern = _pattern(key, [dict(_numbers(names[other]))[key] for other in run])
        done.update(members)
        grouped.append((pattern, members))
    return grouped


def shortest_patterns(names: Sequence[str]) -> list[str]:
    """The fewest patterns that come of opening one number after the other: ``a{0,1}.b{0..2}``."""
    patterns = [pattern for pattern, _ in group_names(names)]
    return patterns if len(patterns) == len(names) else shortest_patterns(patterns)


def _numbers(name: str) -> Iterator[tuple[Key, str]]:
    """Every number in a name that is not part of a pattern already, by what stands around it."""
    for match in re.finditer(r"\d+(?![^{]*\})", name):
        yield (name[: match.start()], name[match.end() :]), match[0]


def _pattern(key: Key, numbers: list[str]) -> str:
    """``a.{0..3,5}.b``."""
    runs: list[list[str]] = []
    for number in sorted(set(numbers), key=int):
        if runs and int(number) == int(runs[-1][-1]) + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(run) for run in runs]
    inside = ",".join(parts)
    return f"{key[0]}{{{inside}}}{key[1]}" if len(numbers) > 1 else f"{key[0]}{inside}{key[1]}"
