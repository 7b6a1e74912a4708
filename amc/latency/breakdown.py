"""Where the time went: why a network with half the MACs does not run in half the time.

If time followed MACs, a network that keeps the fraction r of them would take r times the dense
network's time. What it takes beyond that is shared out, without remainder, among the layers that
take longer for each MAC than they did, MACs that were cut where they cost little time, operations
that have none, and what the runtime itself needs (:meth:`Explanation.causes`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from torch import nn

from amc.latency.backends import Backend, Inputs, Part
from amc.tracing.rules import Layer
from amc.tracing.trace import trace

ALIGNED = 8
"""Channels that processors take at once: float32 numbers in a register of AVX2, half of AVX-512's,
and what the tensor cores of a GPU ask for."""
ROUNDS = 3
"""The networks are profiled in turns, so that a machine that slows down slows both."""
ROUND_SECONDS = 1.0
"""Each network's, if that is enough for the fewest forwards."""
ROUND_FORWARDS = (5, 30)
"""Fewest and most."""

PLAUSIBLE = 0.9
"""Times the sum of its parts, a whole forward at least takes; a profiler costs a few percent."""
_BUSY = (
    "operations, timed one by one, add up to {:.1f} times the whole forward: the machine is busy, "
    "and what follows is rough"
)


@dataclass(frozen=True)
class LayerChange:
    """A layer with MACs, before and after."""

    name: str
    dense_macs: int
    macs: int
    """0 where it has gone altogether."""
    dense_ms: float
    ms: float
    dense_widths: tuple[int, int]
    """Channels that it reads and writes."""
    widths: tuple[int, int]

    @property
    def expected_ms(self) -> float:
        """If its time had fallen with its MACs."""
        return self.dense_ms * self.macs / self.dense_macs

    @property
    def excess_ms(self) -> float:
        """What it takes beyond that."""
        return self.ms - self.expected_ms

    @property
    def unaligned(self) -> bool:
        """Whether pruning left it a width that is no multiple of :data:`ALIGNED`."""
        changed = zip(self.dense_widths, self.widths, strict=True)
        return any(now != dense and now % ALIGNED for dense, now in changed)


@dataclass(frozen=True)
class OtherChange:
    """All operations of one kind that have no MACs, or belong to no layer, before and after."""

    kind: str
    dense_ms: float
    ms: float


@dataclass(frozen=True)
class Explanation:
    """Two networks' time, operation by operation. Times add up to the whole forward's."""

    dense_ms: float
    ms: float
    layers: tuple[LayerChange, ...]
    others: tuple[OtherChange, ...]
    overhead: OtherChange
    """What no operation accounts for."""
    warning: str = ""
    """Why the times of operations are rough; empty where they are not."""

    @property
    def kept_macs(self) -> float:
        """As a fraction of the dense network's."""
        return sum(x.macs for x in self.layers) / sum(x.dense_macs for x in self.layers)

    @property
    def missing_ms(self) -> float:
        """What the network takes beyond its share of the dense network's time by MACs."""
        return self.ms - self.kept_macs * self.dense_ms

    def causes(self) -> dict[str, float]:
        """:attr:`missing_ms`, cause by cause; a negative one made the network faster instead."""
        kept = self.kept_macs
        unaligned = [x.excess_ms for x in self.layers if x.unaligned]
        aligned = [x.excess_ms for x in self.layers if not x.unaligned]
        cheap = [x.expected_ms - kept * x.dense_ms for x in self.layers]
        others = [x.ms - kept * x.dense_ms for x in self.others]
        return {
            f"layers with widths that are no multiple of {ALIGNED}": sum(unaligned),
            "other layers, slower for each MAC": sum(aligned),
            "MACs cut where they cost little time": sum(cheap),
            "operations without MACs": sum(others),
            "overhead of the runtime": self.overhead.ms - kept * self.overhead.dense_ms,
        }


def explain(
    runtime: Backend, models: tuple[nn.Module, nn.Module], inputs: Inputs, ms: tuple[float, float]
) -> Explanation | None:
    """Profile the dense network and the smaller one, whose forwards take ``ms``.

    None where the runtime does not tell what an operation takes. Raises what
    :meth:`amc.latency.backends.base.Backend.load` raises.
    """
    rounds: tuple[list[Sequence[Part]], list[Sequence[Part]]] = ([], [])
    for _ in range(ROUNDS):
        for model, whole_ms, found in zip(models, ms, rounds, strict=True):
            least, most = ROUND_FORWARDS
            forwards = min(most, max(least, int(ROUND_SECONDS * 1e3 / whole_ms)))
            parts = runtime.profile(model, inputs, repeats=forwards)
            if parts is None:
                return None
            found.append(parts)
    dense, small = (trace(model, Inputs.of(inputs, model).suited(model)).layers for model in models)
    return compare_parts((_middle(rounds[0]), _middle(rounds[1])), (dense, small), ms)


def _middle(rounds: Sequence[Sequence[Part]]) -> list[Part]:
    """The median of each part; the same network has the same parts in the same order."""
    return [
        replace(same[0], ms=median(part.ms for part in same)) for same in zip(*rounds, strict=True)
    ]


def compare_parts(
    parts: tuple[Sequence[Part], Sequence[Part]],
    layers: tuple[Sequence[Layer], Sequence[Layer]],
    ms: tuple[float, float],
) -> Explanation:
    """:func:`explain` by what was measured and traced, the dense network's first.

    Where the parts of either add up to more than its whole forward, which was timed without a
    profiler, all parts of both are scaled down to it.
    """
    totals = [sum(part.ms for part in side) for side in parts]
    scale = min([1.0, *(whole / total for whole, total in zip(ms, totals, strict=True) if total)])
    dense, small = (
        _Side.of(found, known, scale, whole)
        for found, known, whole in zip(parts, layers, ms, strict=True)
    )
    gone = (0, (0, 0))
    return Explanation(
        dense_ms=ms[0],
        ms=ms[1],
        layers=tuple(
            LayerChange(
                name=name,
                dense_macs=macs,
                macs=small.layers.get(name, gone)[0],
                dense_ms=dense.layer_ms.get(name, 0.0),
                ms=small.layer_ms.get(name, 0.0),
                dense_widths=widths,
                widths=small.layers.get(name, gone)[1],
            )
            for name, (macs, widths) in dense.layers.items()
            if macs
        ),
        others=tuple(
            OtherChange(kind, dense.other_ms.get(kind, 0.0), small.other_ms.get(kind, 0.0))
            for kind in dict.fromkeys((*dense.other_ms, *small.other_ms))
        ),
        overhead=OtherChange("overhead", dense.overhead_ms, small.overhead_ms),
        warning="" if scale >= PLAUSIBLE else _BUSY.format(1 / scale),
    )


@dataclass(frozen=True)
class _Side:
    """One of the two networks."""

    layers: dict[str, tuple[int, tuple[int, int]]]
    """MACs and widths by name; a layer that runs several times has the MACs of all of them."""
    layer_ms: dict[str, float]
    other_ms: dict[str, float]
    """By kind, of what belongs to none of the layers."""
    overhead_ms: float

    @classmethod
    def of(
        cls, parts: Sequence[Part], layers: Sequence[Layer], scale: float, whole_ms: float
    ) -> _Side:
        known: dict[str, tuple[int, tuple[int, int]]] = {}
        for layer in layers:
            before, _ = known.get(layer.name, (0, (0, 0)))
            known[layer.name] = (before + layer.macs, (layer.in_channels, layer.out_channels))
        layer_ms: dict[str, float] = defaultdict(float)
        other_ms: dict[str, float] = defaultdict(float)
        for part in parts:
            if part.layer in known:
                layer_ms[part.layer] += part.ms * scale
            else:
                other_ms[part.kind] += part.ms * scale
        # The scaled parts may exceed the whole by a rounding error.
        rest = max(0.0, whole_ms - sum(layer_ms.values()) - sum(other_ms.values()))
        return cls(known, layer_ms, other_ms, rest)
