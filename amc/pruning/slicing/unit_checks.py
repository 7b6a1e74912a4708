"""Which units can be cut, by trying: sliced networks against their masked twins."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from torch import nn

from amc.errors import VerificationError
from amc.pruning.slicing.proof_widths import mirrored, proof_widths
from amc.pruning.slicing.verification import Proof
from amc.tracing.units import Unit, Units

OnUnit = Callable[[int, int], None]
CHEAP_MACS = 10_000_000
"""Of a network whose proofs cost little time: these are repeated."""
REPEATS = 3
Check = Callable[[Sequence[int]], None]
"""Raises :class:`VerificationError` for widths that are wrong."""


def sound(model: nn.Module, units: Units, example_inputs: Any, on_unit: OnUnit | None) -> Units:
    """The units that agree with their masked twin; the others frozen, with what went wrong.

    All units are proven together, at widths that tell all sizes apart
    (:mod:`amc.pruning.slicing.proof_widths`); where that fails, by halves, down to the unit that is
    to blame. A unit that only fails with a single group keeps more of them: as many as are proven.
    The order of equal sizes is turned around, too, and the networks have to run. Where that costs
    little, more proofs are made at random widths: code that goes by the place of a channel is right
    by chance for some of them.
    """
    if not units:
        return units
    proof, proofs = Proof(model, example_inputs), proof_widths(units)
    cheap = sum(layer.macs for layer in units.layers) < CHEAP_MACS
    rng = np.random.default_rng(0)
    for _ in range(REPEATS if cheap else 0):
        proofs.append(tuple(int(rng.integers(1, unit.width + 1)) for unit in units))
    trials = _Trials(units, on_unit, 2 * len(proofs) + 1)
    orders = (_mixed(units, seed) for seed in count())
    failures = trials.failing(partial(proof.check, next(orders), signal=True), proofs[0], {})
    check = partial(proof.check, next(orders), signal=False)
    least = trials.least(check, proofs[0], failures, [1 + _normed(model, u) for u in units])
    for number, (widths, order) in enumerate(zip(proofs, orders, strict=False)):
        if number:
            check = partial(proof.check, order, signal=False)
            failures |= trials.failing(check, _at_least(least, widths), failures)
        turned = _at_least(least, mirrored(units, widths))
        failures |= trials.failing(partial(proof.runs, order), turned, failures)
    items = [replace(unit, least_proven=least.get(n, 1)) for n, unit in enumerate(units)]
    reasons = {units[n].name: reason for n, reason in failures.items()}
    return replace(units, items=tuple(items)).without(reasons)


def _mixed(units: Units, seed: int) -> Units:
    """The same units, their groups in random order, the first one last.

    Code that goes by the place of a channel computes the same of the first n: so these must not be
    the ones that are kept.
    """
    rng = np.random.default_rng(seed)
    scores = [rng.random(unit.width) for unit in units]
    for score in scores:
        score[0] = -1
    return units.ranked(scores)


def _at_least(least: dict[int, int], widths: Sequence[int]) -> list[int]:
    return [max(width, least.get(n, 1)) for n, width in enumerate(widths)]


def _normed(model: nn.Module, unit: Unit) -> bool:
    """Whether a LayerNorm goes over its channels: of a single one it leaves nothing to compare."""
    modules = dict(model.named_modules())
    owners = (modules.get(slot.tensor.rpartition(".")[0]) for slot in unit.slots)
    return any(hasattr(owner, "normalized_shape") for owner in owners)


class _Trials:
    """Units of one network, cut together at given widths; each is tried so many ``times``."""

    def __init__(self, units: Units, on_unit: OnUnit | None, times: int) -> None:
        self._units, self._on_unit = units, on_unit
        self._tried, self._times = 0, times

    def failing(self, check: Check, widths: Sequence[int], known: Container[int]) -> dict[int, str]:
        """The units, by number, that fail ``check`` at ``widths``, and why; but for the ``known``
        ones, which stay whole."""
        failures: dict[int, str] = {}
        cut = [n for n, u in enumerate(self._units) if n not in known and widths[n] < u.width]
        self._told(len(self._units) - len(cut))

        def prove(proven: list[int], tried: list[int]) -> list[int]:
            chosen = {*proven, *tried}
            kept = [w if n in chosen else self._units[n].width for n, w in enumerate(widths)]
            try:
                check(kept)
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
        self, check: Check, proven: Sequence[int], known: Container[int], narrow: Sequence[int]
    ) -> dict[int, int]:
        """How many groups those can keep, by number, that cannot be as ``narrow`` as that: twice as
        many, or as many as were ``proven``; the ``known`` ones are left out."""
        every = range(len(narrow))
        out = [n for n in every if n in known or narrow[n] >= proven[n]]
        failed = self.failing(check, narrow, out)
        if not failed:
            return {}
        twice = [min(2 * narrow[n], proven[n]) for n in every]
        again = self.failing(check, twice, [n for n in every if n not in failed])
        return {n: proven[n] if n in again else twice[n] for n in failed}

    def _told(self, trials: int) -> None:
        self._tried += trials
        if self._on_unit is not None and trials:
            total = len(self._units)
            self._on_unit(min(total, self._tried // self._times), total)


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
