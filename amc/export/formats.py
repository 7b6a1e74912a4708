"""Deployable formats: ONNX, and PyTorch's exported program, with a free batch size.

What was written is run again, at other batch sizes than the traced one, and compared with PyTorch;
only a file that agrees takes its place on disk.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from amc.errors import ModelError, VerificationError
from amc.pruning.checkpoint import load_model
from amc.pruning.slicing.relative_error import worst_error
from amc.tracing.trace import as_inputs, eval_mode, output_tensors
from amc.utils.atomic_files import replacing

TRACED_BATCH = 2
"""Not 1: a capture would take that size for a constant of the network."""
BATCHES = (TRACED_BATCH, 1, 3)
"""At which a file is compared with PyTorch: as traced, as most deployments run it, and another."""
TOLERANCE = 1e-4
"""Largest error, relative to the largest output of PyTorch."""

Inputs = tuple[Any, ...]
"""Positional arguments of the network."""
Run = Callable[[Inputs], list[Tensor]]
"""Runs what was exported."""


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
    example = torch.zeros(card.plan.input_shape, dtype=next(model.parameters()).dtype)
    errors = {}
    for path, export in ((onnx, export_onnx), (pt2, export_pt2)):
        if path is not None:
            errors[path] = export(model, example, path)
    return errors


def export_onnx(model: nn.Module, example_inputs: Any, path: Path | str) -> float:
    """Write ``model`` as one ONNX file, and compare ONNX Runtime's outputs with PyTorch's.

    ``example_inputs`` is a tensor or a tuple of positional arguments, whose tensors have the batch
    as their first dimension. Only their shapes, types and integers are used; floats are drawn anew.
    Returns the worst error relative to the largest output. Raises :class:`ModelError` where the
    network cannot be exported, or the extra ``onnx`` is not installed, and
    :class:`VerificationError` where outputs differ; ``path`` is then as it was before.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ModelError(f"ONNX needs {', '.join(missing)}: pip install amc-agent[onnx]")

    def write(inputs: Inputs, draft: Path) -> Run:
        program = _capture(model, inputs)
        axes = _batch_axes(inputs, "batch")  # a captured program has forgotten the axis's name
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
            )
        return _in_onnxruntime(draft)

    return _export(model, example_inputs, Path(path), write)


def export_pt2(model: nn.Module, example_inputs: Any, path: Path | str) -> float:
    """Write ``model`` as an exported program, for ``torch.export.load``, and run what was written.

    Arguments, result and errors are :func:`export_onnx`'s; no extra is needed, and ``path`` must
    end in ``.pt2``.
    """
    if Path(path).suffix != ".pt2":
        raise ModelError(f"{path}: the name of an exported program must end in .pt2")

    def write(inputs: Inputs, draft: Path) -> Run:
        torch.export.save(_capture(model, inputs), draft)
        again = torch.export.load(draft).module()  # just written here
        return lambda inputs: output_tensors(again(*inputs))

    return _export(model, example_inputs, Path(path), write)


def _export(
    model: nn.Module, example_inputs: Any, path: Path, write: Callable[[Inputs, Path], Run]
) -> float:
    """Let ``write`` make a draft, run it beside ``model``, and keep it where they agree."""
    if not path.parent.is_dir():
        raise ModelError(f"{path}: there is no folder {path.parent}")
    generator = torch.Generator().manual_seed(0)
    batches = [_batch(as_inputs(example_inputs), size, generator) for size in BATCHES]
    with replacing(path) as draft, torch.inference_mode(), eval_mode(model):
        try:
            run = write(batches[0], draft)
            outputs = [run(inputs) for inputs in batches]
        except Exception as error:  # what exporters and runtimes raise is not documented
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(
                f"{path}: the network cannot be exported with a free batch size: {reason}"
            ) from error
        expected = [output_tensors(model(*inputs)) for inputs in batches]
        worst = max(map(_compared, outputs, expected))
        if not worst <= TOLERANCE:
            raise VerificationError(
                f"{path} is not written: what was exported differs from PyTorch by {worst:.1e} of "
                f"the largest output (at most {TOLERANCE:.0e} is rounding)"
            )
    return worst


def _capture(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    return torch.export.export(model, inputs, dynamic_shapes=_batch_axes(inputs, Dim("batch")))


def _in_onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings tell how it rearranges the graph
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]

    def run(inputs: Inputs) -> list[Tensor]:
        arrays = [x.numpy(force=True) for x in tree_leaves(inputs) if isinstance(x, Tensor)]
        outputs = session.run(None, dict(zip(names, arrays, strict=True)))
        return [torch.from_numpy(output) for output in outputs]

    return run


def _batch_axes(inputs: Inputs, axis: Dim | str) -> Any:
    """The dynamic shapes of ``inputs``: their first dimension, nothing else."""
    return tree_map(lambda leaf: {0: axis} if isinstance(leaf, Tensor) else None, inputs)


def _batch(inputs: Inputs, size: int, generator: torch.Generator) -> Inputs:
    """``size`` rows like those of ``inputs``: floats drawn anew, integers (tokens) repeated."""

    def rows(example: Tensor) -> Tensor:
        if example.is_floating_point():
            drawn = torch.randn(size, *example.shape[1:], generator=generator)
            return drawn.to(example)
        return example[torch.arange(size) % len(example)]

    result: Inputs = tree_map_only(Tensor, rows, inputs)
    return result


def _compared(actual: list[Tensor], expected: list[Tensor]) -> float:
    """In double precision on the CPU: formats round and place their outputs as they like."""
    ours, theirs = ([x.cpu().double() for x in outputs] for outputs in (actual, expected))
    worst = worst_error(ours, theirs)
    return math.inf if math.isnan(worst) else worst
