"""The latency of a plan: the times of its layers, and what a whole network adds to their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from amc.errors import RunError
from amc.latency.predictor.layers import TimedLayer
from amc.utils.atomic_files import replacing
from amc.utils.settings import Settings


class _Header(Settings):
    format: Literal["amc.latency/1"] = "amc.latency/1"
    layers: tuple[str, ...]
    shapes: tuple[str, ...]
    tables: tuple[int, ...] = Field(min_length=1)
    """Which table each layer has."""
    coefficients: tuple[float, float, float]
    dense: tuple[tuple[int, ...], float] | None


@dataclass(frozen=True, eq=False)
class LayerTable:
    """Microseconds of a layer over the sizes that its channels can take in one network."""

    inputs: np.ndarray
    """(m,) sizes, ascending."""
    outputs: np.ndarray
    """(n,) sizes, ascending; the same as the inputs where the layer is depthwise."""
    us: np.ndarray
    """(m, n), or (m,) where the layer is depthwise."""


class LatencyModel:
    """Microseconds of one forward as a function of the kept widths.

    With t_l a layer's time in a network of its own and e_l the elements of its output, a plan takes

        sum_l (a t_l + b e_l) + c

    microseconds: inside of a network layers take somewhat more or less than alone (``a``), what
    they put out is passed on, partly to what is not in the table, such as additions (``b``), and a
    forward is one call where single layers are many (``c``, mostly negative). The coefficients are
    fitted to whole networks (:mod:`amc.latency.predictor.fit`). What the dense network takes is not
    predicted but known, since bounds are fractions of it.
    """

    def __init__(
        self,
        layers: Sequence[TimedLayer],
        tables: Sequence[LayerTable],
        coefficients: Sequence[float] = (1.0, 0.0, 0.0),
        dense: tuple[Sequence[int], float] | None = None,
    ) -> None:
        """``coefficients`` are a, b and c; ``dense`` its widths and microseconds."""
        self.layers, self._tables = tuple(layers), tuple(tables)
        self.coefficients, self.dense = tuple(coefficients), dense
        self._in = np.array([layer.in_form for layer in layers], dtype=np.float64).T
        self._out = np.array([layer.out_form for layer in layers], dtype=np.float64).T
        self._elements = np.array([layer.shape.positions for layer in layers], dtype=np.float64)
        self._flat, self._offset, self._stride = _flattened(tables)
        self._rows = _ranks([table.inputs for table in tables])
        self._columns = _ranks(
            [table.outputs if table.us.ndim == 2 else np.zeros(0) for table in tables]
        )

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """(...) microseconds of kept widths (..., units); fractions count as the nearest width."""
        total: np.ndarray = self.features(widths) @ np.array(self.coefficients)
        if self.dense is None:
            return total
        dense_widths, dense_us = self.dense
        return np.where((np.rint(widths) == dense_widths).all(axis=-1), dense_us, total)

    def features(self, widths: np.ndarray) -> np.ndarray:
        """(..., 3) what the coefficients multiply: summed layer times, output elements, and 1."""
        times, elements = self._looked_up(widths)
        sums = times.sum(axis=-1), elements.sum(axis=-1)
        return np.stack([*sums, np.ones_like(sums[0])], axis=-1)

    def save(self, path: Path) -> None:
        """Write tables and coefficients as safetensors, replacing an older file in one step."""
        distinct = list({id(table): table for table in self._tables}.values())
        tensors = {}
        for number, table in enumerate(distinct):
            for name in ("inputs", "outputs", "us"):
                tensors[f"{number}.{name}"] = np.ascontiguousarray(getattr(table, name))
        header = _Header(
            layers=tuple(layer.name for layer in self.layers),
            shapes=tuple(str(layer.shape) for layer in self.layers),
            tables=tuple(
                next(n for n, other in enumerate(distinct) if other is table)
                for table in self._tables
            ),
            coefficients=self.coefficients,
            dense=self.dense and (tuple(self.dense[0]), self.dense[1]),
        )
        with replacing(path) as draft:
            save_file(tensors, draft, metadata={"amc": header.model_dump_json()})

    @classmethod
    def load(cls, path: Path, layers: Sequence[TimedLayer]) -> Self:
        """Read a model of a network with these ``layers``.

        Raises :class:`RunError` where the file is missing, damaged, or of another network.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                header = _Header.model_validate_json((file.metadata() or {}).get("amc", ""))
                distinct = [
                    LayerTable(*(file.get_tensor(f"{n}.{x}") for x in ("inputs", "outputs", "us")))
                    for n in range(max(header.tables) + 1)
                ]
        except (OSError, SafetensorError, ValidationError) as error:
            raise RunError(f"{path}: no sound latency model: {error}") from None
        if header.shapes != tuple(str(layer.shape) for layer in layers):
            raise RunError(f"{path}: the latency model of another network or input")
        tables = [distinct[n] for n in header.tables]
        return cls(layers, tables, header.coefficients, header.dense)

    def _looked_up(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        whole = np.rint(np.asarray(widths, dtype=np.float64))
        inputs = (whole @ self._in[:-1] + self._in[-1]).astype(np.int64)
        outputs = (whole @ self._out[:-1] + self._out[-1]).astype(np.int64)
        layer = np.arange(len(self.layers))
        rows, columns = self._rows[layer, inputs], self._columns[layer, outputs]
        times = self._flat[self._offset + rows * self._stride + columns]
        gone = (inputs == 0) | (outputs == 0)
        return np.where(gone, 0.0, times), outputs * self._elements


def _flattened(tables: Sequence[LayerTable]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All tables in one row, where each begins there, and how far its rows are apart."""
    distinct = {id(table): table for table in tables}
    begins, position = {}, 0
    for key, table in distinct.items():
        begins[key], position = position, position + table.us.size
    flat = np.concatenate([table.us.ravel() for table in distinct.values()])
    strides = [table.us.shape[1] if table.us.ndim == 2 else 1 for table in tables]
    return flat, np.array([begins[id(table)] for table in tables]), np.array(strides)


def _ranks(axes: Sequence[np.ndarray]) -> np.ndarray:
    """(layers, largest size + 1) index of the nearest size of an axis; 0 where it has none."""
    most = max(int(axis[-1]) if len(axis) else 0 for axis in axes)
    ranks = np.zeros((len(axes), most + 1), dtype=np.int64)
    for row, axis in zip(ranks, axes, strict=True):
        if len(axis):
            row[:] = np.searchsorted((axis[1:] + axis[:-1]) / 2, np.arange(most + 1))
    return ranks
