"""Which units can be cut, by trying: sliced networks against their masked twins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from amc.errors import VerificationError
from amc.pruning.slicing.proof_widths import proof_widths
from amc.pruning.slicing.verification import Proof
from amc.tracing.units import Unit, Units

OnUnit = Callable[[int, int], None]


def sound(model: nn.Module, units: Units, example_inputs: Any, on_unit: OnUnit | None) -> Units:
    """The units that agree with their masked twin; the others frozen, with what went wrong.

    All units are proven together, at widths that tell all sizes apart
    (:mod:`amc.pruning.slicing.proof_widths`); where that fails, by halves, down to the unit that is
    to blame. A unit that only fails with a single group keeps more of them: as many as are proven.
    """
    if not units:
        return units
    trials = _Trials(Proof(model, example_inputs), units, on_unit)
    proofs = proof_widths(units)
    trials.expected = len(proofs) + 1
    failures: dict[int, str] = {}
    for number, widths in enumerate(proofs):
        free = [n for n in range(len(units)) if n not in failures]
        failures |= trials.failing(widths, free, signal=not number)
    free = [n for n in range(len(units)) if n not in failures]
    least = trials.least(proofs[0], free, [1 + _normed(model, unit) for unit in units])
    items = [replace(unit, least_proven=least.get(n, 1)) for n, unit in enumerate(units)]
    reasons = {units[n].name: reason for n, reason in failures.items()}
    return replace(units, items=tuple(items)).without(reasons)


def _normed(model: nn.Module, unit: Unit) -> bool:
    """Whether a LayerNorm goes over its channels: of a single one it leaves nothing to compare."""
    modules = dict(model.named_modules())
    owners = (modules.get(slot.tensor.rpartition(".")[0]) for slot in unit.slots)
    return any(hasattr(owner, "normalized_shape") for owner in owners)


class _Trials:
    """Units of one network, cut together at given widths."""

    def __init__(self, proof: Proof, units: Units, on_unit: OnUnit | None) -> None:
        self._proof, self._units, self._on_unit = proof, units, on_unit
        self._tried = 0
        self.expected = 1
        """How many times each unit will be tried, as far as is known."""

    def failing(
        self, widths: Sequence[int], candidates: list[int], *, signal: bool = False
    ) -> dict[int, str]:
        """Of ``candidates``, by number, those that cannot be cut to ``widths``, and why."""
        failures: dict[int, str] = {}
        cut = [n for n in candidates if widths[n] < self._units[n].width]
        self._told(len(self._units) - len(cut))

        def prove(proven: list[int], tried: list[int]) -> list[int]:
            chosen = {*proven, *tried}
            kept = [w if n in chosen else self._units[n].width for n, w in enumerate(widths)]
            try:
                self._proof.check(self._units, kept, signal=signal)
            except VerificationError as error:
                if len(tried) > 1:
                    half = len(tried) // 2
                    first = prove(proven, tried[:half])
                    return first + prove(proven + first, tried[half:])
                failures[tried[0]] = str(error)
                self._told(1)
                return []
            self._told(len(tried))
            return tried

        if cut:
            prove([], cut)
        return failures

    def least(
        self, proven: Sequence[int], candidates: list[int], narrow: Sequence[int]
    ) -> dict[int, int]:
        """Of those ``candidates`` that cannot be as ``narrow`` as that: how many groups can."""
        tried = [n for n in candidates if narrow[n] < proven[n]]
        failed = self.failing(narrow, tried)
        twice = [2 * width for width in narrow]
        again = self.failing(twice, [n for n in failed if twice[n] < proven[n]])
        return {n: proven[n] if n in again else min(twice[n], proven[n]) for n in failed}

    def _told(self, trials: int) -> None:
        self._tried += trials
        if self._on_unit is not None and trials:
            total = len(self._units)
            self._on_unit(min(total, self._tried // self.expected), total)


def droppable(model: nn.Module, units: Units, example_inputs: Any) -> Units:
    """``units``, those marked that can go altogether: each is tried alone.

    It has to be all that its readers read, and these have to be added to what others produce.
    """
    proof = Proof(model, example_inputs)
    streams = {s.tensor for u in units if u.kind == "stream" for s in u.slots if s.purpose == "out"}
    items = list(units)
    for number, unit in enumerate(units):
        readers = [slot for slot in unit.slots if slot.purpose == "in"]
        whole = all(slot.index.size == units.sizes[slot.tensor][slot.dim] for slot in readers)
        if unit.kind == "stream" or not whole or not {s.tensor for s in readers} <= streams:
            continue
        tried = replace(unit, droppable=True)
        trial = replace(units, items=(*items[:number], tried, *items[number + 1 :]))
        widths = [0 if n == number else u.width for n, u in enumerate(units)]
        try:
            proof.check(trial, widths, signal=False)
        except VerificationError:
            continue  # its code needs at least one channel
        items[number] = tried
    return replace(units, items=tuple(items))
