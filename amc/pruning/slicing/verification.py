"""The proof of a slice: it computes what the dense network does with the same channels masked.

What this proves, and what it cannot, is in docs/proof.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from amc.errors import VerificationError
from amc.modules.unwrapping import unwrapped
from amc.pruning.slicing.failures import failure, first_line
from amc.pruning.slicing.layer_outputs import LayerOutputs, differences, layer_name
from amc.pruning.slicing.live_inputs import live_inputs
from amc.pruning.slicing.lively import is_dull, lively_copy
from amc.pruning.slicing.masking import masked
from amc.pruning.slicing.precision import (
    DOUBLE,
    SINGLE,
    TOLERANCES,
    Casts,
    cast,
    cast_model,
    rounding,
)
from amc.pruning.slicing.recorded_choices import Recorded, Replayed
from amc.pruning.slicing.relative_error import worst_error
from amc.pruning.slicing.slice import kept_indices, put_into, slice_model, sliced_tensors
from amc.tracing.inputs import Inputs, outputs_of
from amc.tracing.trace import eval_mode, named_tensors, unfused_attention
from amc.tracing.units import Units

TOLERANCE = TOLERANCES[torch.float32]
"""Largest error of a sliced network, relative to the largest output of its masked twin."""
LAYER_TOLERANCE = 1e-3
"""Largest error of one layer, relative to its own largest output; wrong channels give errors
near 1, and deep inside a network rounding is not yet averaged out."""
CLEAR_SIGNAL = 1e-2
"""Share of a layer's output that a mistake would change, below which other weights are tried."""
LEAST_SIGNAL = 2 * LAYER_TOLERANCE
"""The same, below which a layer is not proven."""
DRAWS = 6
"""How many lively networks are tried until a signal has reached every layer."""


def verify(
    model: nn.Module,
    small: nn.Module,
    units: Units,
    widths: Sequence[int],
    example_inputs: Any,
    tolerance: float = TOLERANCE,
) -> float:
    """Worst error of ``small`` against the masked twin of ``model``, over the largest output.

    Both run once in evaluation mode on ``example_inputs``, in single precision at least; inputs
    that are constant, tiny or NaN are drawn anew (:mod:`amc.pruning.slicing.live_inputs`). Every
    layer that lost inputs is compared too, at :data:`LAYER_TOLERANCE` of its own largest output, so
    that nothing hides where the signal dies on its way to the output. Where they differ they run
    again in double precision, because some networks magnify rounding beyond any tolerance. A
    network whose code is bound to half precision runs in that, at its tolerance
    (:data:`amc.pruning.slicing.precision.TOLERANCES`).

    Where the network's own weights would hide a mistake, the proof is made again with others
    (:mod:`amc.pruning.slicing.lively`): on a copy of ``model``, and on the same slice of that.
    Raises :class:`VerificationError` where the two differ, where shapes differ, where the small
    network fails, or where no signal reaches a layer that was cut.
    """
    (model, _), (small, _) = unwrapped(model), unwrapped(small)
    return Proof(model, example_inputs).verify(small, units, widths, tolerance)


class Proof:
    """What proves slices of one network: its live inputs, and its lively copies once needed."""

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self._model = model
        self._inputs = live_inputs(model, Inputs.of(example_inputs, model))
        self._copies: dict[int, nn.Module | None] = {}

    @cached_property
    def _dull(self) -> bool:
        return is_dull(self._model)

    @cached_property
    def _single(self) -> Inputs:
        """The inputs of lively copies, which are in single precision at least."""
        return self._inputs.map(lambda tensor: cast(tensor, SINGLE))

    def verify(
        self,
        small: nn.Module,
        units: Units,
        widths: Sequence[int],
        tolerance: float = TOLERANCE,
    ) -> float:
        """As :func:`verify`."""
        error, signals = _Pair(
            self._model, small, self._inputs, units, widths, signal=True
        ).compare(tolerance)
        silent = {name for name, signal in signals.items() if signal < CLEAR_SIGNAL}
        if silent or self._dull:
            own = sliced_tensors(self._model, kept_indices(units, widths))
            _check_values(small, {name: tensor for _, name, tensor in own})
            left = self._revive(small, units, widths, None if self._dull else silent)
            left = silent if left is None else left
            if left:
                _refuse(left - self._reached(units))
        return error

    def check(self, units: Units, widths: Sequence[int], *, signal: bool = True) -> None:
        """Raise :class:`VerificationError` where slicing to these ``widths`` goes wrong.

        With the network's own weights only where these hide nothing. Without ``signal`` layers
        that nothing reaches are accepted: enough where another proof has been made already.
        """
        if not self._dull or self._lively(0) is None:
            small = slice_model(self._model, units, widths)
            if signal:
                self.verify(small, units, widths)
            else:
                _Pair(self._model, small, self._inputs, units, widths).compare()
        else:
            left = self._revive(None, units, widths, None, draws=DRAWS if signal else 1)
            if signal:
                _refuse(left)

    def runs(self, units: Units, widths: Sequence[int]) -> None:
        """Raise :class:`VerificationError` where slices to these ``widths`` fail, or give NaN."""
        model, inputs = self._lively(0) if self._dull else None, self._single
        if model is None:
            model, inputs = self._model, self._inputs
        with unfused_attention():
            found = failure(slice_model(model, units, widths), inputs)
        if found is not None:
            raise VerificationError(f"the sliced network fails: {found}")

    def _revive(
        self,
        small: nn.Module | None,
        units: Units,
        widths: Sequence[int],
        silent: set[str] | None,
        draws: int = DRAWS,
    ) -> set[str] | None:
        """Prove the slice with lively weights, until a signal has reached every ``silent`` layer.

        None stands for all that are cut. Returns those that are silent still; None where the
        network cannot be run with such weights. Without ``small`` the slice is made.
        """
        kept = kept_indices(units, widths)
        for seed in range(draws):
            lively = self._lively(seed)
            if lively is None:
                continue
            if small is None:
                cut = slice_model(lively, units, widths)
            else:
                cut = put_into(small, lively, kept)
            _, signals = _Pair(lively, cut, self._inputs, units, widths, signal=draws > 1).compare()
            faint = {name for name, share in signals.items() if share < LEAST_SIGNAL}
            silent = faint if silent is None else silent & faint
            if not silent:
                break
        return silent

    def _reached(self, units: Units) -> set[str]:
        """Layers that a signal reaches where hardly anything is cut.

        If none does at a plan's widths, then these leave nothing: a LayerNorm over one channel is
        its shift, whatever comes in, and there is no mistake that could show on other inputs.
        """
        lively = self._lively(0) or self._model
        widths = [max(1, unit.width - 1) for unit in units]
        cut = slice_model(lively, units, widths)
        try:
            _, signals = _Pair(lively, cut, self._inputs, units, widths, signal=True).compare()
        except VerificationError:  # these widths may not be allowed
            return set()
        return {name for name, share in signals.items() if share >= LEAST_SIGNAL}

    def _lively(self, seed: int) -> nn.Module | None:
        """A lively copy; only the first, which mostly is enough, is kept for the next slice."""
        if seed not in self._copies:
            made = lively_copy(cast_model(self._model, SINGLE), self._single, seed)
            if seed:
                return made
            self._copies[seed] = made
        return self._copies[seed]


def _refuse(silent: set[str] | None) -> None:
    if silent:
        names = ", ".join(sorted({layer_name(name) for name in silent})[:3])
        raise VerificationError(
            f"no signal reaches {names}, so that nothing can be proven: on the example inputs, "
            "what it computes hardly depends on its channels"
        )


def _check_values(small: nn.Module, expected: dict[str, Tensor]) -> None:
    """What runs with other weights says nothing of the weights: these have to be the slice's."""
    for name, tensor in named_tensors(small):
        if name not in expected or not _same(tensor, expected[name]):
            raise VerificationError(f"{name} is not what is left of the dense network's")


def _same(tensor: Tensor, expected: Tensor) -> bool:
    return tensor.shape == expected.shape and bool((tensor == expected).all())


class _Different(VerificationError):
    """Values differ, by rounding or by mistake."""


@dataclass(frozen=True)
class _Pair:
    """Two networks that are to be compared, and on what."""

    dense: nn.Module
    small: nn.Module
    inputs: Inputs
    units: Units
    widths: Sequence[int]
    signal: bool = False
    """Whether to look at how much of a mistake would show."""

    def compare(self, tolerance: float = TOLERANCE) -> tuple[float, dict[str, float]]:
        """The error in the precision that tells, and the signal in each layer that was cut."""
        with warnings.catch_warnings():
            # Of networks at odd widths (a deviation of one value), which nobody is to keep.
            warnings.simplefilter("ignore")
            return self._compare(tolerance)

    def _compare(self, tolerance: float) -> tuple[float, dict[str, float]]:
        try:
            return self._compare_in(SINGLE, tolerance)
        except _Different as found:
            try:
                return self._compare_in(DOUBLE, tolerance)
            except Exception:  # different there, too; or the network's code is bound to single
                raise found from None
        except Exception:  # its code may be bound to half precision
            own = rounding(tensor for _, tensor in named_tensors(self.dense))
            if own <= TOLERANCE:
                raise
            return self._compare_in({}, max(own, tolerance))

    def _compare_in(self, casts: Casts, tolerance: float) -> tuple[float, dict[str, float]]:
        dense, small = (cast_model(network, casts) for network in (self.dense, self.small))
        inputs = self.inputs.map(lambda tensor: cast(tensor, casts))
        pair = replace(self, dense=dense, small=small, inputs=inputs)
        return _run(pair, tolerance)


def _run(pair: _Pair, tolerance: float) -> tuple[float, dict[str, float]]:
    model, small, inputs, cut = pair.dense, pair.small, pair.inputs, (pair.units, pair.widths)
    recorded, expected_layers = Recorded(), LayerOutputs(model, *cut, dense=True)
    actual_layers = LayerOutputs(small, *cut, dense=False, signal=pair.signal)
    with torch.inference_mode(), unfused_attention(), eval_mode(model), eval_mode(small):
        with masked(model, *cut) as twin, recorded, expected_layers:
            expected = outputs_of(inputs.call(twin))
        try:
            with Replayed(recorded.choices), actual_layers:
                actual = outputs_of(inputs.call(small))
        except Exception as error:
            raise VerificationError(f"the sliced network fails: {first_line(error)}") from error
    for layer, difference in differences(actual_layers, expected_layers):
        if not difference <= max(LAYER_TOLERANCE, tolerance):
            raise _Different(f"{layer} differs from the masked twin's by {difference:.1e}")
    if [x.shape for x in actual] != [x.shape for x in expected]:
        raise VerificationError(
            "the sliced network's outputs have other shapes than the dense one's"
        )
    worst = worst_error(actual, expected)
    if not worst <= tolerance:  # also catches NaN
        raise _Different(
            f"the sliced network differs from its masked twin by {worst:.1e} of the largest output "
            f"(at most {tolerance:.0e} is rounding)"
        )
    return worst, actual_layers.signals
