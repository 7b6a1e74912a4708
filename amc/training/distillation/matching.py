"""Which ends of blocks of two networks belong together, and what passes there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from amc.errors import ConfigError
from amc.training.distillation.ends import End, Positions, find_ends

MOST_PAIRS = 4
"""Of equal positions: a transformer has many blocks, and neighbours are alike."""


def matched_ends(
    student: nn.Module, teacher: nn.Module, example: Tensor
) -> tuple[list[End], list[End]]:
    """Ends of blocks of the student, and their partners of equal height and width in the teacher.

    Where there are several of one size, as in transformers, a few are taken, evenly over the depth.
    ``example`` holds images (n, C, H, W), n at least 2.

    Raises :class:`ConfigError` where no two match.
    """
    mine, wanted = (_by_size(find_ends(model, example)) for model in (student, teacher))
    chosen: tuple[list[End], list[End]] = [], []
    for size in (size for size in mine if size in wanted):
        count = min(len(mine[size]), len(wanted[size]), MOST_PAIRS)
        chosen[0].extend(_spread(mine[size], count))
        chosen[1].extend(_spread(wanted[size], count))
    if not chosen[0]:
        raise ConfigError(
            "distill: features and attention compare activations of equal height and width, but "
            f"the network's blocks end at {_sizes(mine)} and the teacher's at {_sizes(wanted)}; "
            "take kd, dkd or dist"
        )
    return chosen


def _by_size(ends: Iterable[End]) -> dict[Positions, list[End]]:
    found = defaultdict(list)
    for end in ends:
        found[end.positions].append(end)
    return found


def _spread(ends: Sequence[End], count: int) -> list[End]:
    """``count`` of ``ends``, evenly, the last always among them."""
    return [ends[len(ends) * number // count - 1] for number in range(1, count + 1)]


def _sizes(ends: Iterable[Positions]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in ends) or "no feature maps"


class Capture:
    """Holds what has left some modules of one network in its latest forward.

    A copy of the network (:func:`copy.deepcopy`) has the hooks too, but nothing of it is held.
    """

    def __init__(self, ends: Sequence[End]) -> None:
        self._ends = ends
        self._outputs: dict[int, Tensor] = {}
        self._handles = [
            end.module.register_forward_hook(_holder(end.module, self._outputs, number))
            for number, end in enumerate(ends)
        ]

    def take(self) -> list[Tensor]:
        """The activations (N, C, H, W) in float32, which are then no longer held."""
        maps = [end.maps(self._outputs[number]) for number, end in enumerate(self._ends)]
        self._outputs.clear()
        return maps

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._outputs.clear()


def _holder(watched: nn.Module, outputs: dict[int, Tensor], number: int) -> Any:
    # A function, which a deep copy of the network shares: a bound method would be copied with all
    # that it refers to.
    def hold(module: nn.Module, inputs: Any, output: Tensor) -> None:  # noqa: ARG001
        if module is watched:
            outputs[number] = output

    return hold
