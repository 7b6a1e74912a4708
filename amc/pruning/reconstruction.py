"""Least-squares reconstruction: what reads a unit makes up for the channels that it lost.

Let the rows of X be what a layer of the dense network reads (for a convolution the patches under
its kernel), W its weights, K and R the kept and the removed inputs. Sliced, the layer computes
X_K W_K where it was X W. The change of its weights that mends most of that,

    min_D |X_K (W_K + D) - X W|^2 + ridge |D|^2,    D = (G_KK + ridge I)^-1 G_KR W_R,

needs X only through the Gram matrix G = X^T X. So the dense network runs once over training inputs,
and from then on any plan is one small solve a layer. The ridge holds on to the dense weights: a
layer that keeps all its inputs is unchanged, and on those inputs no layer is worse than its plain
slice. A bias is the weight of one more input, the constant 1, which always stays.

As in He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, 2017, section
3.1, but every layer's X is the dense network's, which is what makes one pass serve all plans. Where
a norm mixes channels (LayerNorm), what a sliced layer reads is X_K only roughly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.errors import ConfigError, EvaluationError
from amc.pruning.slicing.slice import kept_indices
from amc.tracing.inputs import Inputs
from amc.tracing.trace import eval_mode
from amc.tracing.units import Units

RIDGE = 1e-2
"""Relative to the mean of the diagonal of a layer's Gram matrix."""
MAX_INPUTS = 4608
"""Most inputs of a layer (channels times kernel area) that is reconstructed: 512 channels under a
3 x 3 kernel, a Gram matrix of 170 MB and, with half of them kept, a solve of about half a second on
one thread. Memory goes with the square of the inputs, time with the cube of the kept ones."""
_BLOCK_VALUES = 1 << 24
"""Of patches, unfolded at a time."""

Plain = nn.Conv2d | nn.Linear
"""Whose forward is known; a class derived from these may do anything with its weight."""


class Reconstructor:
    """Mends sliced networks of one dense network, layer by layer, in place.

    Args:
        model: the dense network; run in evaluation mode, otherwise untouched. Kept: its weights are
            read at each call.
        units: as the sliced networks will be cut.
        batches: inputs of the model from the training set, each in a form of
            :class:`~amc.tracing.inputs.Inputs`, on the model's device.
        ridge: see :data:`RIDGE`.
        max_inputs: see :data:`MAX_INPUTS`.

    Raises:
        ConfigError: there are no batches.
        EvaluationError: the dense network computes values that are not finite.
    """

    skipped: dict[str, str]
    """Layers that read units and are left as they are cut, by path, and why."""

    def __init__(
        self,
        model: nn.Module,
        units: Units,
        batches: Iterable[Any],
        *,
        ridge: float = RIDGE,
        max_inputs: int = MAX_INPUTS,
    ) -> None:
        batches = list(batches)
        if not batches:
            raise ConfigError(
                "reconstruct needs calibration inputs and the task has none: give batches of "
                "training inputs as Task.calibration, or leave reconstruct out"
            )
        self._units = units
        self._ridge = ridge
        self._layers, self.skipped = _readers(model, units, max_inputs)
        self._grams = _gather(model, self._layers, batches)
        for name in self._layers.keys() - self._grams.keys():
            self.skipped[name] = "its own forward is never called"

    def __call__(self, small: nn.Module, widths: Sequence[int]) -> None:
        """Mend ``small``, the slice of the dense network that keeps ``widths`` of the units."""
        kept = kept_indices(self._units, widths)
        for name, gram in self._grams.items():
            dims = dict(kept.get(f"{name}.weight", ()))
            layer: Any = small.get_submodule(name)
            if 1 in dims and layer.weight.numel():
                self._mend(layer, self._layers[name], gram, dims)

    @torch.no_grad()
    def _mend(self, layer: Plain, dense: Plain, gram: Tensor, dims: dict[int, Tensor]) -> None:
        """``dims``: kept outputs (0; all where missing) and kept input channels (1)."""
        weight = _matrix(dense)
        if 0 in dims:
            weight = weight[dims[0].to(weight.device)]
        stays = torch.zeros(dense.weight.shape[1], dtype=torch.bool, device=weight.device)
        stays[dims[1].to(weight.device)] = True
        stays = stays.repeat_interleave(dense.weight[0, 0].numel())
        stays = functional.pad(stays, (0, weight.shape[1] - len(stays)), value=True)  # the bias
        kept, gone = stays.nonzero().squeeze(1), (~stays).nonzero().squeeze(1)
        rows = gram[kept]
        normal = rows[:, kept]
        # A layer that reads nothing but zeros has nothing to mend: with any ridge it stays.
        normal.diagonal().add_(self._ridge * gram.diagonal().mean().item() or 1.0)
        change = torch.cholesky_solve(
            rows[:, gone] @ weight[:, gone].T, torch.linalg.cholesky(normal)
        )
        mended = weight[:, kept] + change.T
        if layer.bias is not None:
            layer.bias.copy_(mended[:, -1])
            mended = mended[:, :-1]
        layer.weight.copy_(mended.reshape(layer.weight.shape))


def _readers(
    model: nn.Module, units: Units, max_inputs: int
) -> tuple[dict[str, Plain], dict[str, str]]:
    """By path: the layers that read a unit and can be mended, and why the others cannot."""
    modules = dict(model.named_modules())
    read = {slot.tensor: None for unit in units for slot in unit.slots if slot.purpose == "in"}
    layers: dict[str, Plain] = {}
    skipped: dict[str, str] = {}
    for tensor in read:
        name = tensor.rpartition(".")[0]
        layer = modules[name]
        plain = isinstance(layer, Plain) and type(layer) in (nn.Conv2d, nn.Linear)
        if not plain or not tensor.endswith(".weight"):
            skipped[name] = "not a plain Conv2d or Linear"
        elif layer.weight.is_complex():
            skipped[name] = "its weights are complex"
        elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
            skipped[name] = "its channels are in groups"
        elif sum(getattr(x, "weight", None) is layer.weight for x in modules.values()) > 1:
            skipped[name] = "another layer has the same weights"
        elif layer.weight[0].numel() > max_inputs:
            skipped[name] = f"{layer.weight[0].numel():,} inputs, {max_inputs:,} at most"
        else:
            layers[name] = layer
    return layers, skipped


def _gather(
    model: nn.Module, layers: dict[str, Plain], batches: Sequence[Any]
) -> dict[str, Tensor]:
    """Gram matrix of what each layer reads: (n, n) in float64, ordered as :func:`_matrix`."""
    grams: dict[str, Tensor] = {}

    def watched(name: str) -> Callable[..., None]:
        def add(layer: Plain, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            gram = _gram(layer, args[0] if args else kwargs["input"])
            grams[name] = grams[name] + gram if name in grams else gram

        return add

    handles = [
        layer.register_forward_pre_hook(watched(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad(), eval_mode(model):
            for batch in batches:
                Inputs.of(batch, model).call(model)
    finally:
        for handle in handles:
            handle.remove()
    for name, gram in grams.items():
        if not bool(torch.isfinite(gram).all()):
            raise EvaluationError(
                f"{name} of the dense network reads values that are not finite; check its weights "
                "and the normalisation of the inputs"
            )
    return grams


def _gram(layer: Plain, x: Tensor) -> Tensor:
    """X^T X of the rows that ``layer`` reads from ``x``, (inputs, inputs) in float64."""
    x = x if x.dim() >= layer.weight.dim() else x[None]
    size = layer.weight[0].numel() + (layer.bias is not None)
    gram = torch.zeros(size, size, dtype=torch.float64, device=x.device)
    for part in x.split(max(1, _BLOCK_VALUES // (x[:1].numel() * layer.weight[0, 0].numel()))):
        rows = _rows(layer, part)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if layer.bias is not None:
            rows = functional.pad(rows, (0, 1), value=1.0)
        gram += rows.T @ rows
    return gram


def _rows(layer: Plain, x: Tensor) -> Tensor:
    """(rows, inputs): the last dimension of ``x``, or the patches under the kernel."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, layer.in_features)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(x, layer._reversed_padding_repeated_twice, mode)
    patches = functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    return patches.mT.reshape(-1, patches.shape[-2])


def _matrix(layer: Plain) -> Tensor:
    """(outputs, inputs) in float64, the bias as its last column."""
    weight = layer.weight.flatten(1).double()
    return weight if layer.bias is None else torch.cat([weight, layer.bias.double()[:, None]], 1)
