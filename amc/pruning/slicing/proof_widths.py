"""Which widths prove that no two sizes of a network are secretly one.

Where a forward counts on two equal sizes without the trace knowing of it (an accumulator made in
another's shape), a sliced network only fails if these are cut to different sizes. So the kept sizes
of a proof are all different wherever their dense sizes are equal, and proofs are repeated with
other widths until each pair of sizes has been told apart by one of them.

A kept size of 1 is broadcast to any other, silently; such a pair is told apart only where once one
of the two was 1, and once the other. Sizes in a whole ratio (halves of a gate) are kept out of that
ratio where that costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amc.tracing.units import Unit, Units

MOST_PROOFS = 8
"""Enough for 70 units of two groups each, 6000 of three."""
_RATIO = 1 / 64
"""What a pair in a whole ratio counts, beside 1 of a pair of equal sizes."""
_OPTIONS = 64
"""Most widths that are tried for one unit."""


def proof_widths(units: Units) -> list[tuple[int, ...]]:
    """The widths of each proof: (units,) integers, at least one proof, deterministic.

    In the first every unit is cut; in later ones units of few groups may be whole.
    """
    sizes, rng = _Sizes(units), np.random.default_rng(0)
    proofs = [sizes.widths(units, rng, first=True)]
    for _ in range(2 * MOST_PROOFS):
        if not sizes.unsettled or len(proofs) == MOST_PROOFS:
            break
        found = sizes.widths(units, rng, first=False)
        if sizes.progress:
            proofs.append(found)
    return proofs


def mirrored(units: Units, widths: Sequence[int]) -> list[int]:
    """Widths that turn the order of equal sizes around: (units,), for the (units,) of a proof.

    Code that takes the first n channels, n being another size, fails only if there are more.
    """
    few = {unit.width for unit, width in zip(units, widths, strict=True) if width == unit.width}
    turned = (
        unit.width - width + (unit.width in few) for unit, width in zip(units, widths, strict=True)
    )
    return [max(1, width) for width in turned]


class _Sizes:
    """The different sizes that units give to dimensions, and which pairs are still confusable."""

    def __init__(self, units: Units) -> None:
        forms: dict[tuple[int, ...], bool] = {}
        for (tensor, _), form in units.forms.items():
            forms[form] = forms.get(form, False) or tensor not in units.counted
        rows = np.array(list(forms), dtype=np.int64).reshape(len(forms), len(units) + 1)
        self._slopes, self._constants = rows[:, :-1], rows[:, -1]
        self._dense = rows @ np.array([*units.dense_widths, 1], dtype=np.int64)
        self._broadcast = np.array(list(forms.values()), dtype=bool)
        """Whether it is the size of a tensor; an integer is not broadcast."""
        self._weights = self._confusable()
        self._ones = np.zeros_like(self._weights, dtype=bool)
        """Whether the first of a pair was 1 beside a larger second."""
        self.progress = False
        """Whether the last proof settled a pair, or did half of it."""

    @property
    def unsettled(self) -> int:
        """Pairs of equal dense sizes that no proof has told apart so far."""
        return int((self._weights == 1).sum()) // 2

    def widths(self, units: Units, rng: np.random.Generator, *, first: bool) -> tuple[int, ...]:
        """The widths of one more proof; the pairs that it tells apart are settled.

        Unit by unit the width that leaves the fewest sizes confusable with those known so far.
        """
        chosen = np.array(units.dense_widths, dtype=np.int64)
        sizes, known = self._dense.copy(), np.zeros(len(self._dense), dtype=bool)
        order = np.arange(len(units)) if first else rng.permutation(len(units))
        last = ((1 + np.argsort(order)) * (self._slopes > 0)).argmax(1)
        for number in order.tolist():
            unit = units[number]
            options, cost = _options(unit, rng, first=first)
            complete = np.flatnonzero(last == number)
            others = self._slopes[complete] @ chosen + self._constants[complete]
            others -= self._slopes[complete, number] * unit.width
            for form, rest in zip(complete.tolist(), others, strict=True):
                met = np.flatnonzero(known & (self._weights[form] > 0))
                kept = rest + self._slopes[form, number] * options
                cost = cost + self._clashes(form, kept[:, None], met, sizes[met])
            chosen[number] = options[int(np.argmin(cost))]
            sizes[complete] = others + self._slopes[complete, number] * chosen[number]
            known[complete] = True
        self._settle(sizes)
        return tuple(chosen.tolist())

    def _confusable(self) -> np.ndarray:
        """(forms, forms): 1 for equal dense sizes, little for a whole ratio, 0 for no relation."""
        if not len(self._dense):
            return np.zeros((0, 0))
        large = np.maximum(self._dense[:, None], self._dense)
        small = np.maximum(1, np.minimum(self._dense[:, None], self._dense))
        weights = np.where(large % small == 0, _RATIO, 0.0)
        weights[large == small] = 1.0
        weights[large > 8 * small] = 0.0
        directions = self._slopes / self._dense[:, None]
        for i, direction in enumerate(directions):  # one is the other's multiple, as it should be
            weights[i, np.abs(directions - direction).max(1) < 1e-12] = 0.0
        return weights

    def _clashes(
        self, form: int, kept: np.ndarray, met: np.ndarray, others: np.ndarray
    ) -> np.ndarray:
        """(options,) weights of the pairs that stay confusable with these ``kept`` sizes."""
        equal = kept * self._dense[met] == others * self._dense[form]
        ones = (self._broadcast[form] & self._broadcast[met]) & ((kept == 1) != (others == 1))
        # Whose turn it is to be 1: half the work is done, or all of it, or nothing.
        mine, theirs = self._ones[form, met], self._ones[met, form]
        before = np.where(kept == 1, mine * 1.0 - theirs, theirs * 1.0 - mine)
        left = np.where(equal, 1.0, np.where(ones, 0.5 + before / 2, 0.0))
        clashes: np.ndarray = left @ self._weights[form, met]
        return clashes

    def _settle(self, sizes: np.ndarray) -> None:
        apart = sizes[:, None] * self._dense != sizes * self._dense[:, None]
        tensors = self._broadcast[:, None] & self._broadcast
        one = (sizes == 1)[:, None] & (sizes > 1) & tensors
        news = one & ~self._ones & (self._weights == 1)
        self._ones |= one
        apart &= ~(one | one.T)
        settled = apart | (self._ones & self._ones.T)
        self.progress = bool((settled & (self._weights == 1)).any() or news.any())
        self._weights[settled] = 0.0


def _options(unit: Unit, rng: np.random.Generator, *, first: bool) -> tuple[np.ndarray, np.ndarray]:
    """Widths to choose from, and what each costs: much less than a pair that stays confusable.

    Best are those between a third and three quarters, odd, as code may count on even halves, and
    above 1. A unit of few groups may also stay whole, as there is little to choose from.
    """
    low, high = max(1, unit.width // 3), max(1, unit.width * 3 // 4)
    if unit.width <= _OPTIONS:
        options = np.arange(1, unit.width)
    else:
        options = np.unique(np.linspace(low, high, 2 * _OPTIONS, dtype=np.int64) // 2 * 2 + 1)
    if unit.width <= 4 and not first:
        options = np.append(options, unit.width)
    if not len(options):
        options = np.array([unit.width])
    cost = rng.random(len(options)) * 0.01
    cost += 0.02 * ((options < low) | (options > high)) + 0.05 * (options % 2 == 0)
    cost += 0.1 * ((options == 1) | (options == unit.width))
    return options, cost
