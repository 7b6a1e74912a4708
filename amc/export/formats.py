"""Deployable formats: ONNX, and PyTorch's exported program, with a free batch size.

What was written is run again, at other batch sizes than the traced one, and compared with PyTorch;
only a file that agrees takes its place on disk.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map

from amc.errors import ModelError, VerificationError
from amc.export.onnx_run import Run, run_onnx
from amc.pruning.checkpoint import load_model
from amc.pruning.slicing.precision import TOLERANCES, rounding
from amc.pruning.slicing.relative_error import worst_error
from amc.tracing.inputs import Inputs, example_of, signature, tensors_of
from amc.tracing.trace import eval_mode, named_tensors
from amc.utils.atomic_files import replacing
from amc.utils.library_errors import reason

TRACED_BATCH = 2
"""Not 1: a capture would take that size for a constant of the network."""
BATCHES = (TRACED_BATCH, 1, 3)
"""At which a file is compared with PyTorch: as traced, as most deployments run it, and another."""
BFLOAT16_OPSET = 22
"""Of ONNX: the first in which convolutions and pooling take bfloat16."""


def export_saved(
    source: Path,
    *,
    onnx: Path | None = None,
    pt2: Path | None = None,
    allow_factory: bool = False,
) -> dict[Path, float]:
    """Export a network that :func:`amc.save_model` wrote; the worst error of each file.

    Its input is of the shape that its plan was traced with. Raises :class:`ModelError` where the
    plan says none, and what :func:`amc.load_model`, :func:`export_onnx` and :func:`export_pt2`
    raise.
    """
    model, card = load_model(source, allow_factory=allow_factory)
    if card.plan.input_shape is None:
        raise ModelError(
            f"{source} does not say what its input looks like; from Python, amc.export_onnx and "
            "amc.export_pt2 take example inputs"
        )
    example = example_of(model, card.plan.input_shape)
    errors = {}
    for path, export in ((onnx, export_onnx), (pt2, export_pt2)):
        if path is not None:
            errors[path] = export(model, example, path)
    return errors


def export_onnx(model: nn.Module, example_inputs: Any, path: Path | str) -> float:
    """Write ``model`` as one ONNX file, and compare ONNX Runtime's outputs with PyTorch's.

    ``example_inputs`` are in any form of :class:`~amc.tracing.inputs.Inputs`. The first dimension
    of their tensors is the batch, where it is of the size that most of them have. Only their
    shapes, types and integers are used; floats are drawn anew.
    Returns the worst error relative to the largest output: what rounding explains depends on the
    kinds of numbers (:data:`amc.pruning.slicing.precision.TOLERANCES`). Of float64 and bfloat16,
    ONNX Runtime lacks kernels on CPUs; a file that it cannot run is compared by the reference
    implementation of ``onnx``. Raises :class:`ModelError` where the network cannot be exported, or
    the extra ``onnx`` is not installed, and :class:`VerificationError` where outputs differ;
    ``path`` is then as it was before.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ModelError(f"ONNX needs {', '.join(missing)}: pip install amc-agent[onnx]")

    example = Inputs.of(example_inputs, model)
    kinds = {tensor.dtype for tensor in (*_stored(model), *example.tensors)}

    def write(inputs: Inputs, draft: Path) -> Run:
        program = _capture(model, inputs, _batch_axes(model, example, Dim("batch")))
        axes = _batch_axes(model, example, "batch")  # a captured program has forgotten its name
        with warnings.catch_warnings():
            # Of several inputs one gives the axis its name, and where some are no tensors it gets
            # none: a name is all that is lost.
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
            warnings.filterwarnings("ignore", "# ONNX model has different number", UserWarning)
            torch.onnx.export(
                program,
                f=draft,
                dynamo=True,
                dynamic_shapes=axes,
                external_data=False,
                verbose=False,
                opset_version=BFLOAT16_OPSET if torch.bfloat16 in kinds else None,
            )
        return run_onnx(draft, kinds)

    return _export(model, example, Path(path), write)


def export_pt2(model: nn.Module, example_inputs: Any, path: Path | str) -> float:
    """Write ``model`` as an exported program, for ``torch.export.load``, and run what was written.

    Arguments, result and errors are :func:`export_onnx`'s; no extra is needed, and ``path`` must
    end in ``.pt2``.
    """
    if Path(path).suffix != ".pt2":
        raise ModelError(f"{path}: the name of an exported program must end in .pt2")
    example = Inputs.of(example_inputs, model)

    def write(inputs: Inputs, draft: Path) -> Run:
        axes = _batch_axes(model, example, Dim("batch"))
        torch.export.save(_capture(model, inputs, axes), draft)
        again = torch.export.load(draft).module()  # just written here
        return lambda inputs: tensors_of(inputs.call(again))

    return _export(model, example, Path(path), write)


def _export(
    model: nn.Module, example: Inputs, path: Path, write: Callable[[Inputs, Path], Run]
) -> float:
    """Let ``write`` make a draft, run it beside ``model``, and keep it where they agree."""
    if not path.parent.is_dir():
        raise ModelError(f"{path}: there is no folder {path.parent}")
    generator = torch.Generator().manual_seed(0)
    batches = [_redrawn(example.with_batch(size), generator) for size in BATCHES]
    with replacing(path) as draft, torch.inference_mode(), eval_mode(model):
        try:
            run = write(batches[0], draft)
            outputs = [run(inputs) for inputs in batches]
        except Exception as error:  # what exporters and runtimes raise is not documented
            raise ModelError(
                f"{path}: the network cannot be exported with a free batch size: {reason(error)}"
            ) from error
        expected = [tensors_of(inputs.call(model)) for inputs in batches]
        worst = max(map(_compared, outputs, expected))
        taking_part = [*_stored(model), *example.tensors, *expected[0]]
        # Exporters store scalars of the code in single precision, also beside double.
        allowed = max(TOLERANCES[torch.float32], rounding(taking_part))
        if not worst <= allowed:
            raise VerificationError(
                f"{path} is not written: what was exported differs from PyTorch by {worst:.1e} of "
                f"the largest output (at most {allowed:.0e} is rounding)"
            )
    return worst


def _stored(model: nn.Module) -> list[Tensor]:
    return [tensor for _, tensor in named_tensors(model)]


def _capture(model: nn.Module, inputs: Inputs, axes: dict[str, Any]) -> ExportedProgram:
    return torch.export.export(model, inputs.args, inputs.kwargs, dynamic_shapes=axes)


def _batch_axes(model: nn.Module, inputs: Inputs, axis: Dim | str) -> dict[str, Any]:
    """The dynamic shapes of ``inputs``, by parameters of the forward: the batch, nothing else."""
    found = signature(model) or inspect.signature(model.forward)
    arguments = found.bind(*inputs.args, **inputs.kwargs).arguments

    def axes(leaf: Any) -> dict[int, Dim | str] | None:
        return {0: axis} if isinstance(leaf, Tensor) and inputs.batched(leaf) else None

    result: dict[str, Any] = tree_map(axes, arguments)
    return result


def _redrawn(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """The same, floats drawn anew; integers (tokens) stay."""

    def drawn(example: Tensor) -> Tensor:
        if not example.is_floating_point():
            return example
        return torch.randn(example.shape, generator=generator).to(example)

    return inputs.map(drawn)


def _compared(actual: list[Tensor], expected: list[Tensor]) -> float:
    """In double precision on the CPU: formats round and place their outputs as they like."""
    ours, theirs = (
        [x.cpu().to(torch.promote_types(x.dtype, torch.float64)) for x in outputs]
        for outputs in (actual, expected)
    )
    worst = worst_error(ours, theirs)
    return math.inf if math.isnan(worst) else worst
