"""Where the blocks of a network end, found by running it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from amc.errors import ModelError
from amc.tracing.trace import eval_mode

Positions = tuple[int, int]
"""Height and width of an activation; of L tokens (L, 1)."""


@dataclass(frozen=True)
class End:
    """A module whose output is the end of a block."""

    name: str
    module: nn.Module
    positions: Positions
    dims: int
    """Of the output: 4, or 3 for tokens."""
    channels: int
    """In which of them the channels are."""

    def maps(self, output: Tensor) -> Tensor:
        """The output as (N, C, H, W), or (N, C, L, 1) for tokens, in float32."""
        maps = output.movedim(self.channels, 1).float()
        return maps if self.dims == 4 else maps.unsqueeze(3)


def find_ends(model: nn.Module, example: Tensor) -> list[End]:
    """Where the blocks of ``model`` end, in the order of its forward; nowhere, if its activations
    are neither feature maps nor tokens.

    Of feature maps (4-D), the last one of every height and width: the ends of the stages. Within a
    block that goes from one size to another nothing is an end, because its last map of the old size
    is not what the stage before has left (it is the inside of a bottleneck). Of tokens (3-D), the
    outputs of the outermost modules of one class in one container. Modules that run more than once
    are left out.

    Args:
        model: in any mode; not changed.
        example: images (n, C, H, W), n at least 2.

    Raises :class:`ModelError` where the forward fails.
    """
    calls = _calls(model, example)
    runs = Counter(call.end.module for call in calls)
    once = [call for call in calls if runs[call.end.module] == 1]
    maps = [call for call in once if call.end.dims == 4]
    if once and once[-1].end.dims == 3:
        return _token_ends([call for call in once if call.end.dims == 3]) or _map_ends(maps)
    return _map_ends(maps)


def _map_ends(calls: Sequence[_Call]) -> list[End]:
    last = {call.end.positions: call.end for call in calls if not call.is_inside()}
    ends: list[End] = []
    for call in calls:
        is_last = last.get(call.end.positions) is call.end
        # On the way to the classes maps shrink. What is larger is none: weights of attention.
        if is_last and (not ends or prod(call.end.positions) < prod(ends[-1].positions)):
            ends.append(call.end)
    return ends


def _token_ends(calls: Sequence[_Call]) -> list[End]:
    groups: dict[tuple[str, type[nn.Module]], list[End]] = defaultdict(list)
    for call in calls:
        if any(True for _ in call.end.module.children()):
            container = call.end.name.rpartition(".")[0]
            groups[container, type(call.end.module)].append(call.end)
    repeated = [group for group in groups.values() if len(group) > 1]
    depth = min((group[0].name.count(".") for group in repeated), default=0)
    return [end for group in repeated if group[0].name.count(".") == depth for end in group]


# -- one forward ---------------------------------------------------------------------------------


@dataclass(eq=False)
class _Open:
    """A module that is running."""

    given: Positions | None
    """Of its first input."""
    seen: set[Positions] = field(default_factory=set)
    """Of all outputs within it, and its own."""
    left: Positions | None = None
    """Of its output, when it is known."""


@dataclass(frozen=True, eq=False)
class _Call:
    """A module that has run, and those that were running around it."""

    end: End
    around: tuple[_Open, ...]

    def is_inside(self) -> bool:
        """Whether a block around it goes from just this size to just one other."""
        size = self.end.positions
        return any(
            block.given == size and block.left not in (None, size) and len(block.seen | {size}) == 2
            for block in self.around
        )


def _calls(model: nn.Module, example: Tensor) -> list[_Call]:
    """Every module's outputs that have positions, in the order in which they are complete."""
    names = {module: name for name, module in model.named_modules()}
    calls: list[_Call] = []
    running: list[_Open] = []

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:  # noqa: ARG001
        given = _layout(inputs[0], example) if inputs else None
        running.append(_Open(given and given[0]))

    def after(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        own = running.pop()
        layout = _layout(output, example)
        if layout is not None:
            own.left = layout[0]
            for block in (*running, own):
                block.seen.add(own.left)
            end = End(names[module], module, own.left, output.dim(), layout[1])
            calls.append(_Call(end, tuple(running)))

    handles = []
    try:
        for module in names:
            handles += [
                module.register_forward_pre_hook(before),
                module.register_forward_hook(after),
            ]
        with eval_mode(model), torch.no_grad():
            model(example)
    except Exception as error:  # the user's network may raise anything
        raise ModelError(
            f"the forward fails on images of shape {tuple(example.shape)}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _layout(value: Any, example: Tensor) -> tuple[Positions, int] | None:
    """Positions and the dimension of the channels; None where there is only one position."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    if value.dim() not in (3, 4) or len(value) != len(example):
        return None
    shape = value.shape
    if value.dim() == 3:
        positions, channels = (shape[1], 1), 2
    # Maps of square images are square: here the channels are last, as in Swin transformers.
    elif example.shape[2] == example.shape[3] and shape[1] == shape[2] != shape[3]:
        positions, channels = (shape[1], shape[2]), 3
    else:
        positions, channels = (shape[2], shape[3]), 1
    return None if positions == (1, 1) else (positions, channels)
