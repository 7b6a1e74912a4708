"""Closed-form costs of a sliced network.

The kept size of a dimension is affine in the widths, size = constant + sum_u a_u k_u, where a_u is
the number of channels that a group of unit u has there; a layer's MACs and a tensor's parameters
are products of such sizes. A cost is therefore a matrix product and a few multiplications, and
equals exactly what a count of the sliced network gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from amc.errors import ConfigError
from amc.units import Units


class CostTable:
    """MACs and parameters of a network as functions of the kept widths of its units."""

    def __init__(self, units: Units) -> None:
        self.units = units
        self._forms: dict[tuple[str, int], int] = {}
        self._rows: list[np.ndarray] = [np.zeros(len(units), dtype=np.int64)]
        self._constants: list[int] = [1]  # row 0 is the constant 1, which pads short products
        per_group: dict[tuple[str, int], np.ndarray] = {}
        for u, unit in enumerate(units):
            for slot in unit.slots:
                row = per_group.setdefault((slot.tensor, slot.dim), np.zeros(len(units), np.int64))
                row[u] = slot.index.shape[1]
        dense = np.array(units.dense_widths, dtype=np.int64)
        self._macs = self._terms(
            per_group, dense, [(x.tensor, x.dims, x.macs_per_weight) for x in units.layers]
        )
        self._params = self._terms(
            per_group,
            dense,
            [(name, tuple(range(len(shape))), 1) for name, shape in units.parameters.items()],
        )
        self._matrix = np.stack(self._rows).astype(np.float64)
        self._offset = np.array(self._constants, dtype=np.float64)
        self.dense_macs = self.macs(units.dense_widths)
        self.dense_params = self.params(units.dense_widths)

    def _terms(
        self,
        per_group: dict[tuple[str, int], np.ndarray],
        dense: np.ndarray,
        products: list[tuple[str, tuple[int, ...], int]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """(coefficients, (terms, 3) rows of the size matrix) of a sum of products of sizes."""
        coefficients, factors = [], []
        for tensor, dims, coefficient in products:
            rows = []
            for dim in dims:
                key, size = (tensor, dim), self.units.sizes[tensor][dim]
                if key not in per_group:
                    coefficient *= size
                    continue
                if key not in self._forms:
                    self._forms[key] = len(self._rows)
                    self._rows.append(per_group[key])
                    self._constants.append(size - int(per_group[key] @ dense))
                rows.append(self._forms[key])
            coefficients.append(coefficient)
            factors.append(rows + [0] * (3 - len(rows)))
        return np.array(coefficients, dtype=np.float64), np.array(factors).reshape(-1, 3)

    def _evaluate(
        self, terms: tuple[np.ndarray, np.ndarray], widths: Sequence[int] | np.ndarray
    ) -> np.ndarray:
        coefficients, factors = terms
        sizes = self._matrix @ np.asarray(widths, dtype=np.float64) + self._offset
        # float64 is exact for integers up to 2^53, far above any network's count.
        result: np.ndarray = coefficients * sizes[factors].prod(axis=1)
        return result

    def macs(self, widths: Sequence[int] | np.ndarray) -> int:
        """Multiply-accumulates of one forward of the traced inputs at these kept widths."""
        return int(self._evaluate(self._macs, widths).sum())

    def params(self, widths: Sequence[int] | np.ndarray) -> int:
        """Number of parameters at these kept widths."""
        return int(self._evaluate(self._params, widths).sum())

    def layer_macs(self, widths: Sequence[int] | np.ndarray) -> np.ndarray:
        """(layers,) MACs of each counted layer, in the order of ``units.layers``."""
        return self._evaluate(self._macs, widths)

    def function(self, quantity: str) -> Callable[[Sequence[int] | np.ndarray], int]:
        """``macs`` or ``params`` by name; raises :class:`ConfigError` for any other."""
        functions = {"macs": self.macs, "params": self.params}
        if quantity not in functions:
            raise ConfigError(f"unknown cost {quantity!r}; known are {', '.join(functions)}")
        return functions[quantity]

    def dense(self, quantity: str) -> int:
        """The dense network's ``macs`` or ``params``."""
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


def prunable_fraction(units: Units) -> float:
    """Share of the MACs that lies in layers which some unit can make smaller."""
    touched = {slot.tensor for unit in units for slot in unit.slots}
    reached = sum(layer.macs for layer in units.layers if layer.tensor in touched)
    return reached / max(1, sum(layer.macs for layer in units.layers))
