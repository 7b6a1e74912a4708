"""Closed-form costs of a sliced network.

The kept size of a dimension is affine in the widths, size = constant + sum_u a_u k_u, where a_u is
the number of channels that a group of unit u has there; a layer's MACs and a tensor's parameters
are products of such sizes. A cost is therefore a matrix product and a few multiplications, and
equals exactly what a count of the sliced network gives. Latency, where there is a model of it
(:mod:`amc.latency.predictor`), stands beside them under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from amc.config import Quantity
from amc.errors import ConfigError
from amc.tracing.units import Units

Latency = Callable[[np.ndarray], np.ndarray]
"""Kept widths (..., units) to microseconds (...)."""

_Terms = tuple[np.ndarray, np.ndarray]
"""(terms,) coefficients, and (terms, 3) the forms whose product each multiplies."""


class CostTable:
    """MACs, parameters and, where it is given, latency as functions of the kept widths."""

    def __init__(self, units: Units, latency: Latency | None = None) -> None:
        self.units = units
        self.latency = latency
        # Row 0 is the constant 1, which pads short products.
        self._forms: dict[tuple[int, ...], int] = {(*[0] * len(units), 1): 0}
        layers = [(x.tensor, x.dims, x.macs_per_weight) for x in units.layers]
        tensors = [(name, (*range(len(shape)),), 1) for name, shape in units.parameters.items()]
        self._layers = self._terms(layers)
        self._totals = {
            "macs": _merged(*self._layers),
            "params": _merged(*self._terms(tensors)),
        }
        forms = np.array(list(self._forms), dtype=np.float64)
        self._matrix, self._offset = np.ascontiguousarray(forms[:, :-1].T), forms[:, -1]
        self.dense_macs = self.macs(units.dense_widths)
        self.dense_params = self.params(units.dense_widths)

    def _terms(self, products: list[tuple[str, tuple[int, ...], int]]) -> _Terms:
        """A sum of products of sizes; each size that is met for the first time becomes a form."""
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
        """(...) float64 of ``widths``, (..., units): whole numbers, or ``latency_us``."""
        if quantity == "latency_us" and self.latency is not None:
            return self.latency(np.asarray(widths))
        coefficients, factors = self._totals[quantity]
        total: np.ndarray = self._products(factors, widths) @ coefficients
        return total

    def _products(self, factors: np.ndarray, widths: Sequence[int] | np.ndarray) -> np.ndarray:
        """(..., terms) products of the sizes at ``widths``, (..., units)."""
        # float64 is exact for integers up to 2^53, far above any network's count.
        sizes = np.asarray(widths, dtype=np.float64) @ self._matrix + self._offset
        products: np.ndarray = sizes[..., factors[:, 0]]
        for column in (1, 2):
            if factors[:, column].any():
                products *= sizes[..., factors[:, column]]
        return products

    def macs(self, widths: Sequence[int] | np.ndarray) -> int:
        """Multiply-accumulates of one forward of the traced inputs at these kept widths."""
        return int(self.totals("macs", np.asarray(widths)))

    def params(self, widths: Sequence[int] | np.ndarray) -> int:
        """Number of parameters at these kept widths."""
        return int(self.totals("params", np.asarray(widths)))

    def layer_macs(self, widths: Sequence[int] | np.ndarray) -> np.ndarray:
        """(layers,) MACs of each counted layer, in the order of ``units.layers``."""
        coefficients, factors = self._layers
        macs: np.ndarray = coefficients * self._products(factors, widths)
        return macs

    def latency_us(self, widths: Sequence[int] | np.ndarray) -> float:
        """Predicted microseconds of one forward at these kept widths."""
        return float(self.totals("latency_us", np.asarray(widths)))

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What is known of a plan."""
        return ("macs", "params") if self.latency is None else ("macs", "params", "latency_us")

    def function(self, quantity: str) -> Callable[[Sequence[int] | np.ndarray], float]:
        """One of :attr:`quantities` by name; raises :class:`ConfigError` for any other."""
        if quantity not in self.quantities:
            raise ConfigError(f"unknown cost {quantity!r}; known are {', '.join(self.quantities)}")
        found: Callable[[Sequence[int] | np.ndarray], float] = getattr(self, quantity)
        return found

    def dense(self, quantity: str) -> float:
        """What the dense network costs."""
        return self.function(quantity)(self.units.dense_widths)

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
