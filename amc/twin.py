"""The proof of a slice: it computes what the dense network does with the same channels masked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode

from amc import choices
from amc.choices import Recorded, Replayed
from amc.errors import VerificationError
from amc.slim import kept_indices
from amc.trace import as_inputs, eval_mode, named_tensors, output_tensors
from amc.units import Units

TOLERANCE = 1e-4
"""Largest error of a sliced network, relative to the largest output of its masked twin."""
LAYER_TOLERANCE = 1e-3
"""Largest error of one layer, relative to its own largest output; wrong channels give errors
near 1, and deep inside a network rounding is not yet averaged out."""


@contextmanager
def masked(model: nn.Module, units: Units, widths: Sequence[int]) -> Iterator[nn.Module]:
    """The masked twin: ``model`` itself, for a while, its removed channels read by nobody.

    Every weight slice that consumes a removed channel is zero inside the context, and restored bit
    by bit on leaving; norms over channels are computed over those that are kept.
    """
    tensors = dict(named_tensors(model))
    kept = kept_indices(units, widths)
    saved: list[tuple[Tensor, Tensor]] = []
    readers = {(s.tensor, s.dim) for unit in units for s in unit.slots if s.role == "in"}
    norms = {id(tensors[name]): dims[0] for name, dims in kept.items() if name in tensors}
    kernels = {
        tensors[name].data_ptr(): (tensors[name].shape[1], index)
        for name, dims in kept.items()
        for dim, index in dims
        if dim == 1 and (name, dim) in readers
    }
    try:
        with torch.no_grad():
            for name, dims in kept.items():
                for dim, index in dims:
                    if (name, dim) in readers:
                        weight = tensors[name]
                        saved.append((weight, weight.detach().clone()))
                        keep = torch.zeros(weight.shape[dim], device=weight.device)
                        keep[index] = 1
                        weight.mul_(keep.view(-1, *[1] * (weight.dim() - dim - 1)))
        with _KeptNorms(norms, kernels):
            yield model
    finally:
        with torch.no_grad():
            for weight, original in reversed(saved):
                weight.copy_(original)


def verify(
    model: nn.Module,
    small: nn.Module,
    units: Units,
    widths: Sequence[int],
    example_inputs: Any,
    tolerance: float = TOLERANCE,
) -> float:
    """Worst error of ``small`` against the masked twin of ``model``, over the largest output.

    Both run once in evaluation mode on ``example_inputs``. Every layer that lost inputs is compared
    too, at :data:`LAYER_TOLERANCE` of its own largest output, so that nothing hides where the
    signal dies on its way to the output. Raises :class:`VerificationError` where they differ, where
    shapes differ, or where the small network fails.
    """
    inputs = as_inputs(example_inputs)
    watch = _LayerWatch(units, widths)
    with torch.inference_mode(), eval_mode(model), eval_mode(small):
        recorded = Recorded()
        with watch.recording(model), masked(model, units, widths) as twin, recorded:
            expected = output_tensors(twin(*inputs))
        try:
            with watch.comparing(small), Replayed(recorded.choices):
                actual = output_tensors(small(*inputs))
        except Exception as error:
            raise VerificationError(f"the sliced network fails: {_first_line(error)}") from error
    for layer, difference in watch.errors:
        if not difference <= LAYER_TOLERANCE:
            raise VerificationError(f"{layer} differs from the masked twin's by {difference:.1e}")
    if [x.shape for x in actual] != [x.shape for x in expected]:
        raise VerificationError(
            "the sliced network's outputs have other shapes than the dense one's"
        )
    errors = [_error(a, b) for a, b in zip(actual, expected, strict=True)]
    worst = math.nan if any(map(math.isnan, errors)) else max(errors, default=0.0)
    if not worst <= tolerance:  # also catches NaN
        raise VerificationError(
            f"the sliced network differs from its masked twin by {worst:.1e} of the largest output "
            f"(at most {tolerance:.0e} is rounding)"
        )
    return worst


def _error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value; exact for integers."""
    if not expected.numel():
        return 0.0
    if not expected.is_floating_point():
        return 0.0 if torch.equal(actual, expected) else math.inf
    scale = float(expected.abs().max()) or 1.0
    return float((actual - expected).abs().max()) / scale


class _KeptNorms(TorchDispatchMode):
    """Norms over channels take only the kept ones, and give zero for the others.

    ``kept``: for the scale of a norm (by ``id``) its dimension and kept indices along it.
    ``kernels``: for a layer's weight (by ``data_ptr``) its inputs, and the kept ones.
    """

    def __init__(
        self, kept: dict[int, tuple[int, Tensor]], kernels: dict[int, tuple[int, Tensor]]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept
        self._kernels = kernels

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket is torch.ops.aten.batch_norm and args[0].data_ptr() in self._kernels:
            return self._standardise(func, args, kwargs or {})
        name = _NORMS.get(func.overloadpacket)
        weight = args[2] if name is not None and len(args) > 2 else None
        if weight is None or id(weight) not in self._kept:
            return func(*args, **(kwargs or {}))
        x, shape, _, *rest = args
        dim, index = self._kept[id(weight)]
        scales = [t.index_select(dim, index) if isinstance(t, Tensor) else t for t in args[2:4]]
        if name == "group_norm":
            place = 1
        else:
            place = x.dim() - len(shape) + dim
            shape = [len(index) if d == dim else size for d, size in enumerate(shape)]
        small = func(x.index_select(place, index), shape, *scales, *rest[1:], **(kwargs or {}))
        return torch.zeros_like(x).index_copy(place, index, small)

    def _standardise(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Weight standardisation: BatchNorm of a (1, out, in * area) view of a kernel."""
        x, inputs = args[0], self._kernels[args[0].data_ptr()]
        area = x.shape[-1] // inputs[0]
        columns = (inputs[1][:, None] * area + torch.arange(area, device=x.device)).flatten()
        small = func(x.index_select(-1, columns), *args[1:], **kwargs)
        return torch.zeros_like(x).index_copy(-1, columns, small)


_NORMS = {
    torch.ops.aten.layer_norm: "layer_norm",
    torch.ops.aten.rms_norm: "rms_norm",
    torch.ops.aten.group_norm: "group_norm",
}


class _LayerWatch:
    """Compares the outputs of the layers that lost inputs, by samples of them."""

    def __init__(self, units: Units, widths: Sequence[int]) -> None:
        self._kept = kept_indices(units, widths)
        readers = {slot.tensor for u in units for slot in u.slots if slot.role == "in"}
        self._weights = {name for name in self._kept if name in readers}
        self._expected: dict[str, list[Tensor]] = {}
        self.errors: list[tuple[str, float]] = []

    @contextmanager
    def recording(self, twin: nn.Module) -> Iterator[None]:
        """While the twin runs, remember samples of its kept channels."""

        def hook(name: str, module: Any, out: Tensor) -> None:
            transposed = isinstance(module, _ConvTransposeNd)
            for dim, index in self._kept[f"{name}.weight"]:
                if dim == (1 if transposed else 0):
                    linear = isinstance(module, nn.Linear)
                    place = -1 if linear else out.dim() - len(module.kernel_size) - 1
                    out = out.index_select(place, index)
            self._expected.setdefault(name, []).append(_sample(out))

        with self._hooked(twin, hook):
            yield

    @contextmanager
    def comparing(self, small: nn.Module) -> Iterator[None]:
        """While the sliced network runs, compare with what was remembered."""
        calls = {name: iter(samples) for name, samples in self._expected.items()}

        def hook(name: str, _: nn.Module, out: Tensor) -> None:
            expected, actual = next(calls.get(name, iter(())), None), _sample(out)
            if expected is not None:
                same = expected.shape == actual.shape
                self.errors.append((name, _error(actual, expected) if same else math.inf))

        with self._hooked(small, hook):
            yield

    @contextmanager
    def _hooked(
        self, model: nn.Module, hook: Callable[[str, nn.Module, Tensor], None]
    ) -> Iterator[None]:
        handles = [
            module.register_forward_hook(lambda m, _, out, name=name: hook(name, m, out))
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | _ConvNd) and f"{name}.weight" in self._weights
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _sample(x: Tensor) -> Tensor:
    """Some thousands of the values of ``x``, evenly spread."""
    return x.flatten()[:: max(1, x.numel() // 8192)].clone()


def _first_line(error: BaseException) -> str:
    """What failed and, where it can be told, at which line of the model's own code."""
    folder = torch.__path__[0]
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(folder) and file not in (__file__, choices.__file__):
            place = f" (at {file.rpartition('/')[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{str(error).splitlines()[0] if str(error) else type(error).__name__}{place}"
