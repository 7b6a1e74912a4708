"""``amc export``: a pruned network in the formats that are deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amc.cli import options as opt
from amc.cli.commands.shared import console, progress_bar
from amc.errors import ConfigError


def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN-or-FILE", help="Folder of a run, or a .safetensors of ours"),
    ],
    onnx: Annotated[
        Path | None, typer.Option(metavar="OUT.onnx", help="ONNX file to write (extra: onnx)")
    ] = None,
    pt2: Annotated[
        Path | None,
        typer.Option(metavar="OUT.pt2", help="Exported program to write, for torch.export.load"),
    ] = None,
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Write a pruned network for deployment, and check what was written against PyTorch.

    Of a run, that is the finetuned network, or the pruned one where nothing was finetuned. The
    batch size stays free: each file is run at several on random inputs (ONNX in ONNX Runtime), and
    one that differs from PyTorch is not kept. ONNX needs `pip install amc-agent[onnx]`.

        amc export runs/NAME --onnx small.onnx

        amc export small.safetensors --pt2 small.pt2
    """
    from amc.export.formats import export_saved
    from amc.records.run_folder import RunFolder

    if onnx is None and pt2 is None:
        raise ConfigError("nothing to write: give --onnx OUT.onnx, --pt2 OUT.pt2, or both")
    network = RunFolder.open(source).network() if source.is_dir() else source
    with progress_bar() as bar:
        bar.stage(f"exporting {network}")
        errors = export_saved(network, onnx=onnx, pt2=pt2, allow_factory=allow_factory)
    for path, error in errors.items():
        console.print(
            f"exported    {path}, {path.stat().st_size / 1e6:.2f} MB, "
            f"differs from PyTorch by {error:.1e} at most (relative)",
            highlight=False,
            soft_wrap=True,
        )
