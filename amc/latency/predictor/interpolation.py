"""The time of a layer over its input and output channels, from few measurements.

Kernels work in blocks, so that time is a staircase with a pattern that repeats: 17 channels may
take as long as 32, and 33 much longer than 36. Points are therefore chosen by their place in a
block of 16, and interpolated between blocks at the same place. Over both sizes together the table
is nearly a sum of few products, f(in) · g(out): it follows from a few of its rows and columns
(Goreinov, Tyrtyshnikov and Zamarashkin 1997).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

BLOCK = 16
"""Channels after which the pattern repeats; runtimes work in 4, 8 and 16."""
_PLACES = (1, 4, 8, 12, 15, 16)
"""Where in a block a wide axis is measured; what lies between is taken from 1 and 15."""
_NARROW = 48
"""Sizes up to which all of an axis is measured."""
_SAMPLE = 50
_MOST_CROSSES = 8
_TOLERANCE = 0.04
"""Relative error that all but a twentieth of the sample may have."""
_NOISE = 0.02
"""Singular values, relative to the largest, that are taken for noise."""

Measure = Callable[[Sequence[tuple[int, int]]], Sequence[float]]
"""Times of layers of (input, output) channels."""


class Axis:
    """Sizes that a layer's channels may take, and those among them that are measured."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = np.unique(sizes)
        self.points = self._chosen()

    def _chosen(self) -> np.ndarray:
        sizes = self.sizes
        if len(sizes) <= _NARROW:
            return sizes
        blocks, places = _block(sizes), _place(sizes)
        last = int(blocks[-1])
        anchors = {1, 2, 3, last, *(round(last ** (i / 6)) for i in range(7))}
        chosen = np.isin(blocks, list(anchors)) & np.isin(places, _PLACES)
        chosen |= blocks == 1  # few channels go another way than many
        chosen[[0, -1]] = True
        return np.asarray(sizes[chosen])

    def spread(self, values: np.ndarray) -> np.ndarray:
        """(sizes, ...) from values (points, ...): over the blocks, place by place."""
        if len(self.points) == len(self.sizes):
            return values
        columns = [self._spread(column) for column in values.reshape(len(values), -1).T]
        return np.stack(columns, axis=1).reshape(len(self.sizes), *values.shape[1:])

    def _spread(self, values: np.ndarray) -> np.ndarray:
        blocks, places = _block(self.points), _place(self.points)
        at, own = _block(self.sizes), _place(self.sizes)
        levels = {}
        for place in _PLACES:
            here = places == place
            if here.any():
                levels[place] = np.interp(at, blocks[here], values[here])
        result = np.interp(self.sizes, self.points, values)
        for place, level in levels.items():
            result[own == place] = level[own == place]
        if 1 in levels and 15 in levels:
            between = ~np.isin(own, _PLACES)
            part = (own[between] - 1) / 14
            result[between] = (1 - part) * levels[1][between] + part * levels[15][between]
        result[np.isin(self.sizes, self.points)] = values
        return np.asarray(result)


def _block(sizes: np.ndarray) -> np.ndarray:
    return np.asarray((sizes + BLOCK - 1) // BLOCK)


def _place(sizes: np.ndarray) -> np.ndarray:
    """1 to 16."""
    return np.asarray((sizes - 1) % BLOCK + 1)


def diagonal(axis: Axis, measure: Measure) -> np.ndarray:
    """(sizes,) times of a layer whose two sizes are the same (a depthwise convolution)."""
    values = np.array(measure([(int(n), int(n)) for n in axis.points]))
    return axis.spread(values)


def cross(inputs: Axis, outputs: Axis, measure: Measure, seed: int = 0) -> np.ndarray:
    """(inputs' sizes, outputs' sizes) times, all above 0.

    Random layers are measured first. Then, as long as these are not approximated well, the row
    (all outputs at one input) and the column of the one that is worst.
    """
    shape = (len(inputs.points), len(outputs.points))
    known = np.full(shape, np.nan)

    def look(indices: np.ndarray) -> None:
        """Measure what is not known yet of flat ``indices``."""
        new = indices[np.isnan(known.flat[indices])]
        i, j = np.unravel_index(new, shape)
        pairs = zip(inputs.points[i].tolist(), outputs.points[j].tolist(), strict=True)
        known.flat[new] = measure(list(pairs))

    places = np.arange(known.size).reshape(shape)
    draw = np.random.default_rng(seed)
    sample = draw.choice(known.size, min(_SAMPLE, known.size), replace=False)
    look(np.append(sample, known.size - 1))
    rows, columns = [shape[0] - 1], [shape[1] - 1]
    while True:
        look(places[rows[-1]])
        look(places[:, columns[-1]])
        times = _skeleton(known, rows, columns)
        error = np.abs(times - known).flat[sample] / known.flat[sample]
        i, j = np.unravel_index(sample[np.argmax(error)], shape)
        done = np.quantile(error, 0.95) < _TOLERANCE or len(rows) == _MOST_CROSSES
        if done or not np.isnan(known).any():
            break
        rows.append(int(i))
        columns.append(int(j))
    times = np.where(np.isnan(known), np.maximum(times, np.nanmin(known)), known)
    spread = inputs.spread(times)
    return np.asarray(outputs.spread(spread.T).T)


def _skeleton(known: np.ndarray, rows: list[int], columns: list[int]) -> np.ndarray:
    """The matrix of least rank with these rows and columns, without the noise in them."""
    # Relative to the product of one row and one column, so that narrow layers count as much.
    scale = np.outer(known[:, columns[0]], known[rows[0]])
    rows, columns = sorted(set(rows)), sorted(set(columns))
    known = known / scale
    inverse = np.linalg.pinv(known[np.ix_(rows, columns)], rcond=_NOISE)
    return np.asarray(known[:, columns] @ inverse @ known[rows]) * scale
