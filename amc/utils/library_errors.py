"""What a library raised, in one line."""

from __future__ import annotations

import re

_OPERATOR = re.compile(
    r"aten[.:]+[\w.]+|(?<=OpType: )\w+|(?<=implementation for )\w+|(?<=ONNX operations: )[\w., ]+"
)
"""How exporters and runtimes name what they cannot do."""
_COLOUR = re.compile(r"\x1b\[\d*m")


def reason(error: BaseException) -> str:
    """One line out of what a library raised, with the operator that it stumbled over."""
    lines = _COLOUR.sub("", str(error)).strip().splitlines()
    first = lines[0] if lines else type(error).__name__
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        found = _OPERATOR.search(str(link))
        if found is not None:
            named = found.group().strip(". ")
            return first if named in first else f"operator {named}: {first.partition('. ')[0]}"
        seen.append(link)
        link = link.__cause__ or link.__context__
    return first
