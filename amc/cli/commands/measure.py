"""``amc measure``: latency on this machine, dense against pruned, and where the time went."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from amc.cli import options as opt
from amc.cli.commands.shared import console, input_shape, model_arguments, progress_bar
from amc.cli.from_settings import settings_command
from amc.cli.given import Given
from amc.config import SearchConfig
from amc.reporting.plain_table import plain_table
from amc.utils import formatting

if TYPE_CHECKING:
    from amc.latency.breakdown import Explanation
    from amc.pipeline.measure_networks import Measured, Measurement

_SHOWN_LAYERS = 8


@settings_command(SearchConfig, panels=False)
def measure(
    context: typer.Context,  # noqa: ARG001
    given: Given,
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL-or-RUN", help="A model, the folder of a run, or a .safetensors of ours"
        ),
    ],
    batch: Annotated[int, typer.Option(min=1, help="Examples of one forward")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the runtime")] = 1,
    shape: opt.InputShape = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    repeats: Annotated[int, typer.Option(min=1, help="Fewest forwards of each network")] = 30,
    as_json: opt.AsJson = False,
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Measure latency on this machine: of a run, dense, pruned and finetuned in turns.

    Medians with interquartile ranges, CPU time beside wall time, and a warning where the machine is
    too busy to tell. Where latency fell less than the MACs, a table says where the time went.

        amc measure runs/NAME --backend onnxruntime --batch 1 --threads 1
    """
    from amc.latency.backends import default_backend, make_backend
    from amc.pipeline.measure_networks import measure_subjects, open_subjects

    backend = given.typed.get("latency.backend")
    runtime = (
        make_backend(backend, threads, device) if backend else default_backend(threads, device)
    )
    with progress_bar(quiet=as_json) as bar:
        subjects = open_subjects(
            source,
            input_shape(shape),
            weights=given["model.weights"],
            arguments=model_arguments(given.typed.get("model.arguments", [])),
            allow_factory=allow_factory,
        )
        bar.stage(f"measuring {', '.join(subjects.models)} in {runtime.description}")
        found = measure_subjects(subjects, runtime, batch=batch, repeats=repeats)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        _show(found)


def _show(found: Measurement) -> None:
    console.print(_networks(found))
    shape = "×".join(map(str, (found.batch, *found.shape)))
    _say(f"{found.runtime.description}; input {shape}; {found.rows[0].latency.turns} turns")
    _warn(found.warning)
    if found.explanation is not None:
        _explain(found.explanation)
    elif len(found.rows) > 1 and found.kept_time > found.kept_macs:
        _say(f"{found.runtime.title} does not tell where the time went; another --backend may")


def _networks(found: Measurement) -> Table:
    table = _numbers("", "MACs", "params", "latency", "CPU time", "fewer MACs", "faster")
    for row in found.rows:
        now = row.latency
        table.add_row(
            row.name,
            formatting.count(row.macs),
            formatting.count(row.params),
            f"{formatting.milliseconds(now.median_ms)} ± {now.spread_ms / 2:.2g}",
            f"{formatting.milliseconds(now.cpu_ms)} ± {now.cpu_spread_ms / 2:.2g}",
            *(_against(found, row) if row is not found.rows[0] else ("", "")),
        )
    return table


def _against(found: Measurement, row: Measured) -> tuple[str, str]:
    """How many times fewer MACs than the first network, and how many times as fast."""
    dense = found.rows[0]
    speed = dense.latency.ms(found.clock) / row.latency.ms(found.clock)
    return f"{dense.macs / max(1, row.macs):.2f}×", f"{speed:.2f}×"


def _explain(found: Explanation) -> None:
    _say(
        f"\nMACs fell to {formatting.percent(found.kept_macs)}, time to "
        f"{formatting.percent(found.ms / found.dense_ms)}. That is {_ms(found.missing_ms)} more "
        "than if time followed MACs:"
    )
    _warn(found.warning)
    causes = Table.grid(padding=(0, 2, 0, 2))
    causes.add_column()
    causes.add_column(justify="right")
    for cause, ms in sorted(found.causes().items(), key=lambda item: -item[1]):
        causes.add_row(cause, _ms(ms))
    console.print(causes, "", _layers(found), "", _others(found))


def _layers(found: Explanation) -> Table:
    table = _numbers("layer", "channels", "dense", "now", "MACs", "time", "beyond MACs")
    worst = sorted(found.layers, key=lambda layer: -layer.excess_ms)
    for layer in worst[:_SHOWN_LAYERS]:
        (before_in, before_out), (now_in, now_out) = layer.dense_widths, layer.widths
        table.add_row(
            escape(layer.name),
            f"{before_in}→{before_out}, now {now_in}→{now_out}{'*' if layer.unaligned else ''}",
            _ms(layer.dense_ms),
            _ms(layer.ms),
            formatting.percent(layer.macs / layer.dense_macs),
            formatting.percent(layer.ms / layer.dense_ms) if layer.dense_ms else "",
            _ms(layer.excess_ms),
        )
    rest = worst[_SHOWN_LAYERS:]
    if rest:
        macs, dense_macs = sum(x.macs for x in rest), sum(x.dense_macs for x in rest)
        ms, dense_ms = sum(x.ms for x in rest), sum(x.dense_ms for x in rest)
        table.add_row(
            f"{len(rest)} others",
            "",
            _ms(dense_ms),
            _ms(ms),
            formatting.percent(macs / dense_macs),
            formatting.percent(ms / dense_ms) if dense_ms else "",
            _ms(sum(x.excess_ms for x in rest)),
        )
    if any(layer.unaligned for layer in worst[:_SHOWN_LAYERS]):
        from amc.latency.breakdown import ALIGNED

        table.caption = f"* no multiple of {ALIGNED}: --round-to {ALIGNED} keeps to them"
        table.caption_justify = "left"
    return table


def _others(found: Explanation) -> Table:
    table = _numbers("beside the layers", "dense", "now")
    for other in (*sorted(found.others, key=lambda other: -other.ms), found.overhead):
        table.add_row(escape(other.kind), _ms(other.dense_ms), _ms(other.ms))
    return table


def _numbers(*headings: str) -> Table:
    """A first column of names, and numbers behind it."""
    return plain_table(*headings, right=headings[1:])


def _ms(value: float) -> str:
    return f"{value:.3f} ms".replace("-", "−")


def _warn(message: str) -> None:
    if message:
        _say(f"[yellow]warning[/]: {message}")


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)
