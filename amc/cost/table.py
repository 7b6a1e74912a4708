"""Closed-form costs of a sliced network.

The kept size of a dimension is affine in the widths, size = constant + sum_u a_u k_u, where a_u is
the number of channels that a group of unit u has there; a layer's MACs and a tensor's parameters
are products of such sizes. A cost is therefore a matrix product and a few multiplications, and
equals exactly what a count of the sliced network gives. What each quantity is made of is in
:mod:`amc.cost.quantities`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from amc.cost.quantities import QUANTITIES, Totals
from amc.errors import ConfigError
from amc.tracing.units import Units

Latency = Callable[[np.ndarray], np.ndarray]
"""Kept widths (..., units) to microseconds (...)."""

Product = tuple[str, tuple[int, ...], int]
"""A tensor, dimensions of it, and a coefficient."""
_Terms = tuple[np.ndarray, np.ndarray]
"""(terms,) coefficients, and (terms, 3) the forms whose product each multiplies."""


class CostTable:
    """Every quantity (:mod:`amc.cost.quantities`) as a function of the kept widths.

    Args:
        units: the units of one network, whose widths it is asked for.
        latency: what is predicted for a device (:mod:`amc.latency`); None: latency is not known.
    """

    def __init__(self, units: Units, latency: Latency | None = None) -> None:
        self.units: Units = units
        self.latency: Latency | None = latency
        # Row 0 is the constant 1, which pads short products.
        self._forms: dict[tuple[int, ...], int] = {(*[0] * len(units), 1): 0}
        self._layers = self._terms(
            (x.counted or x.tensor, x.dims, x.macs_per_weight) for x in units.layers
        )
        found = {entry.name: entry.load().formula(self) for entry in QUANTITIES}
        self._totals = {name: total for name, total in found.items() if total is not None}
        forms = np.array(list(self._forms), dtype=np.float64)
        self._matrix, self._offset = np.ascontiguousarray(forms[:, :-1].T), forms[:, -1]

    def sum_of_products(self, products: Iterable[Product]) -> Totals:
        """A cost that is a sum: (tensor, its dimensions, coefficient) stands for the coefficient
        times the kept sizes of these dimensions. For the formulas of quantities, which are asked
        while the table is made."""
        coefficients, factors = _merged(*self._terms(products))

        def totals(widths: np.ndarray) -> np.ndarray:
            total: np.ndarray = self._products(factors, widths) @ coefficients
            return total

        return totals

    def _terms(self, products: Iterable[Product]) -> _Terms:
        """The terms of such a sum; each size that is met for the first time becomes a form."""
        coefficients, factors = [], []
        for tensor, dims, coefficient in products:
            rows = []
            for dim in dims:
                form = self.units.forms.get((tensor, dim))
                if form is None:
                    coefficient *= self.units.sizes[tensor][dim]
                    continue
                rows.append(self._forms.setdefault(form, len(self._forms)))
            coefficients.append(coefficient)
            factors.append(sorted(rows, reverse=True) + [0] * (3 - len(rows)))
        return np.array(coefficients, dtype=np.float64), np.array(factors).reshape(-1, 3)

    def totals(self, quantity: str, widths: np.ndarray) -> np.ndarray:
        """(...) float64 of ``widths``, (..., units).

        Raises :class:`ConfigError` for a quantity that is not known here.
        """
        if quantity not in self._totals:
            raise ConfigError(f"unknown cost {quantity!r}; known are {', '.join(self._totals)}")
        found: np.ndarray = self._totals[quantity](np.asarray(widths))
        return found

    def _products(self, factors: np.ndarray, widths: Sequence[int] | np.ndarray) -> np.ndarray:
        """(..., terms) products of the sizes at ``widths``, (..., units)."""
        # float64 is exact for integers up to 2^53, far above any network's count.
        sizes = np.asarray(widths, dtype=np.float64) @ self._matrix + self._offset
        products: np.ndarray = sizes[..., factors[:, 0]]
        for column in (1, 2):
            if factors[:, column].any():
                products *= sizes[..., factors[:, column]]
        return products

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is known of a plan, by name."""
        return tuple(self._totals)

    def of(self, quantity: str, widths: Sequence[int] | np.ndarray) -> float:
        """What these kept widths cost: a whole number, of a quantity that is counted."""
        total = float(self.totals(quantity, np.asarray(widths)))
        return int(total) if QUANTITIES.load(quantity).measure.whole else total

    def costs(self, widths: Sequence[int] | np.ndarray) -> dict[str, float]:
        """All of them, by name."""
        return {name: self.of(name, widths) for name in self._totals}

    def dense(self, quantity: str) -> float:
        """What the dense network costs."""
        return self.of(quantity, self.units.dense_widths)

    def function(self, quantity: str) -> Callable[[Sequence[int] | np.ndarray], float]:
        """:meth:`of` for one quantity. Raises :class:`ConfigError` for one that is not known."""
        self.totals(quantity, np.array(self.units.dense_widths))
        return partial(self.of, quantity)

    def macs(self, widths: Sequence[int] | np.ndarray) -> int:
        """Multiply-accumulates of one forward of the traced inputs at these kept widths."""
        return int(self.of("macs", widths))

    def params(self, widths: Sequence[int] | np.ndarray) -> int:
        """Number of parameters at these kept widths."""
        return int(self.of("params", widths))

    def layer_macs(self, widths: Sequence[int] | np.ndarray) -> np.ndarray:
        """(layers,) MACs of each counted layer, in the order of ``units.layers``."""
        coefficients, factors = self._layers
        macs: np.ndarray = coefficients * self._products(factors, widths)
        return macs

    @property
    def unit_macs(self) -> np.ndarray:
        """(units,) dense MACs that each unit controls: of the layers it writes and those it reads.

        A layer between two units counts half for either, so that the sum is at most the network's.
        """
        units = self.units
        macs: dict[str, float] = {}
        for layer in units.layers:
            macs[layer.tensor] = macs.get(layer.tensor, 0.0) + layer.macs
        shares = np.zeros(len(units))
        for u, unit in enumerate(units):
            for slot in unit.slots:
                part = slot.index.size / units.sizes[slot.tensor][slot.dim]
                shares[u] += macs.get(slot.tensor, 0.0) * part / slot.owners
        return shares


def _merged(coefficients: np.ndarray, factors: np.ndarray) -> _Terms:
    """The same sum with one term for each product: layers of equal sizes share theirs."""
    distinct, which = np.unique(factors, axis=0, return_inverse=True)
    return np.bincount(which.ravel(), coefficients, len(distinct)), distinct


def prunable_fraction(units: Units) -> float:
    """Share of the MACs that lies in layers which some unit can make smaller."""
    touched = {slot.tensor for unit in units for slot in unit.slots}
    reached = sum(layer.macs for layer in units.layers if layer.tensor in touched)
    return reached / max(1, sum(layer.macs for layer in units.layers))
