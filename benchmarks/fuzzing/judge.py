"""One network: find its units, cut it by three plans, and compare all that can be compared.

The judge knows of ``amc`` what a user knows: ``find_units``, ``slice_model``, ``verify``,
``CostTable``, and a unit's ``slots``, ``order`` and ``widths``.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from amc.cost.table import CostTable
from amc.errors import AMCError, VerificationError
from amc.pruning.find_units import find_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify

from .generate import Network, Spec, build
from .live import Kept, MismatchError, SkippedError

TOLERANCE = 1e-7
"""In double precision, of the largest output."""
SIGNAL = 1e-3
"""Least difference of the outputs of two inputs, of the largest; below it mistakes hide."""
PLANS = 3
HARMLESS = ("sound", "silent", "refused", "skipped")
"""What is no failure. Silent: right, but amc refuses to prove a plan that lets no signal through,
as a norm over the only channel that is left does."""
UNCOUNTED = ("Recurrent", "RawMatrix.einsum")
"""Kinds whose products PyTorch's counter does not see: recurrent layers, and sums over one channel,
which ``einsum`` turns into multiplications."""


@dataclass
class Verdict:
    """What became of one network."""

    outcome: str = "sound"
    """One of :data:`HARMLESS`, or what failed."""
    message: str = ""
    units: int = 0
    reach: float = 0.0
    """Share of the MACs that the smallest plan takes away."""
    kinds: list[str] = field(default_factory=list)


class _Failure(Exception):
    """(what failed, how)"""


def judge(spec: Spec) -> Verdict:
    """Whatever happens, a verdict."""
    verdict = Verdict()
    try:
        network = build(spec)
        verdict.kinds = sorted(set(_kinds(network)))
        _judge(network, spec, verdict)
    except _Failure as failure:
        verdict.outcome, verdict.message = failure.args
    except SkippedError as reason:
        verdict.outcome, verdict.message = "skipped", str(reason)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        verdict.outcome = "traceback"
        verdict.message = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    return verdict


def _kinds(network: Network) -> Iterator[str]:
    """Kinds of all blocks, those within blocks included; with the spelling where there are many."""
    yield from network.taken
    for module in network.blocks.modules():
        name, style = type(module).__name__, getattr(module, "style", "")
        if hasattr(module, "reference") and name not in ("Steps", "_Branch"):
            yield f"{name}.{style}" if style else name


def _judge(network: Network, spec: Spec, verdict: Verdict) -> None:
    inputs = network.inputs(spec.seed)
    exact = build(spec).double()  # a copy is refused by some layers, of the old weight norm
    doubles = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    _check_reference(exact, doubles)
    before = _state(network)
    try:
        units = find_units(network, inputs)
    except AMCError as error:
        verdict.outcome, verdict.message = "refused", str(error)
        return
    _expect(_state(network) == before, "changed", "find_units changes the network")
    table = CostTable(units)
    lowest = [unit.widths[0] for unit in units]
    verdict.units = len(units)
    verdict.reach = 1 - table.macs(lowest) / max(1, table.macs(units.dense_widths))
    rng = np.random.default_rng(spec.seed)
    for number in range(PLANS):
        if number:
            units = units.ranked([rng.random(unit.width) for unit in units])
        widths = lowest if number == 1 else [int(rng.choice(unit.widths)) for unit in units]
        try:
            small = slice_model(network, units, widths)
            verify(network, small, units, widths, inputs)
        except VerificationError as error:
            if not str(error).startswith("no signal reaches"):
                raise _Failure("plan refused", f"{dict(_cut(units, widths))}: {error}") from error
            verdict.outcome, verdict.message = "silent", f"{dict(_cut(units, widths))}: {error}"
        except AMCError as error:
            raise _Failure("plan refused", f"{dict(_cut(units, widths))}: {error}") from error
        _check_costs(network, small, table, units, widths, inputs)
        _check_sizes(small)
        _check_plan(exact, small.double(), units, widths, doubles)
        _check_training(small, doubles)
    _expect(_state(network) == before, "changed", "slicing changes the network")


def _check_reference(exact: Network, inputs: tuple[Tensor, ...]) -> None:
    """The reference of the whole network is the network, and its output depends on its input."""
    others = tuple(x.flip(0) for x in inputs)
    with torch.no_grad():
        try:
            actual = _tensors(exact(*inputs))
        except RuntimeError as error:  # branches of different lengths
            raise SkippedError(f"the network itself fails: {error}") from error
        apart = _difference(actual, exact.reference(Kept(exact, (), ()), *inputs))
        signal = _difference(actual, _tensors(exact(*others)))
    _expect(apart < TOLERANCE, "generator", f"the reference differs by {apart:.1e}")
    if signal < SIGNAL:
        raise SkippedError(f"two inputs differ by {signal:.1e} in the output")


def _check_plan(
    exact: Network,
    small: nn.Module,
    units: Any,
    widths: list[int],
    inputs: tuple[Tensor, ...],
) -> None:
    cut = dict(_cut(units, widths))
    kept = Kept(exact, units, widths)
    with torch.no_grad():
        try:
            expected = exact.reference(kept, *inputs)
        except MismatchError as error:
            raise _Failure("contradiction", f"{cut}: {error}") from error
        actual = _tensors(small(*inputs))
    apart = _difference(actual, expected)
    _expect(apart < TOLERANCE, "wrong slice", f"{cut}: differs by {apart:.1e}")
    left = {name: kept.cut(tensor) for name, tensor in _stored(exact).items()}
    for name, tensor in _stored(small).items():
        fits = tensor.shape == left[name].shape and torch.equal(tensor, left[name])
        _expect(fits, "wrong tensor", f"{cut}: {name} is {tuple(tensor.shape)}")


def _check_costs(
    network: Network,
    small: nn.Module,
    table: CostTable,
    units: Any,
    widths: list[int],
    inputs: tuple[Tensor, ...],
) -> None:
    params = sum(parameter.numel() for parameter in small.parameters())
    _expect(table.params(widths) == params, "params", f"{table.params(widths)}, not {params}")
    if not any(kind in UNCOUNTED for kind in _kinds(network)):
        macs = count_macs(small, inputs)
        said = table.macs(widths)
        _expect(said == macs, "macs", f"{said} at {dict(_cut(units, widths))}, not {macs}")


def count_macs(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """By PyTorch's counter, which sees attention in its parts only."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model.requires_grad_(False)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*inputs)
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops()) // 2


def _check_sizes(small: nn.Module) -> None:
    """PyTorch's layers state the sizes that their tensors have."""
    for name, layer in small.named_modules():
        said: tuple[int, ...]
        if isinstance(layer, _ConvNd):
            said = (layer.out_channels, layer.in_channels // layer.groups)
            shape = tuple(layer.weight.shape[:2])
            if layer.transposed:
                said = (layer.in_channels, layer.out_channels // layer.groups)
        elif isinstance(layer, nn.Linear):
            said, shape = (layer.out_features, layer.in_features), tuple(layer.weight.shape)
        elif isinstance(layer, _NormBase) and layer.weight is not None:
            said, shape = (layer.num_features,), tuple(layer.weight.shape)
        elif isinstance(layer, nn.LayerNorm) and layer.weight is not None:
            said, shape = tuple(layer.normalized_shape), tuple(layer.weight.shape)
        elif isinstance(layer, nn.GroupNorm) and layer.weight is not None:
            said, shape = (layer.num_channels,), tuple(layer.weight.shape)
        else:
            continue
        _expect(said == shape, "sizes", f"{name} says {said}, its weight is {shape}")


def _check_training(small: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """One step, in double precision."""
    small.train()
    outputs = _tensors(small(*inputs))
    sum(x.square().mean() for x in outputs if x.is_floating_point()).backward()  # type: ignore[union-attr]
    broken = [
        name
        for name, parameter in small.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    _expect(not broken, "training", f"gradients that are not finite: {broken[:3]}")


def _cut(units: Any, widths: list[int]) -> Iterator[tuple[str, str]]:
    for unit, width in zip(units, widths, strict=True):
        if width < unit.width:
            yield unit.name, f"{width}/{unit.width}"


def _stored(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _state(model: nn.Module) -> Any:
    """All that a network holds: bits of tensors, and integers of modules."""
    tensors = {name: tensor.numpy(force=True).tobytes() for name, tensor in _stored(model).items()}
    plain = (int, str, bool, tuple, list)
    own = {
        f"{path}.{name}": (type(value), value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, plain)
    }
    return tensors, own


def _tensors(output: Any) -> list[Tensor]:
    return [x for x in tree_leaves(output) if isinstance(x, Tensor)]


def _difference(actual: list[Tensor], expected: list[Tensor]) -> float:
    if [x.shape for x in actual] != [x.shape for x in expected]:
        return float("inf")
    pairs = zip(actual, expected, strict=True)
    errors = [float((a - b).abs().max() / b.abs().max().clamp(min=1e-9)) for a, b in pairs]
    return max(error if error == error else float("inf") for error in errors)


def _expect(holds: bool, outcome: str, message: str) -> None:
    if not holds:
        raise _Failure(outcome, message)


def shrink(spec: Spec, outcome: str) -> Spec:
    """Fewer blocks that still fail in the same way."""
    number = 0
    while number < len(spec.blocks):
        fewer = Spec(spec.seed, spec.blocks[:number] + spec.blocks[number + 1 :])
        if judge(fewer).outcome == outcome:
            spec = fewer
        else:
            number += 1
    return spec
