"""What TensorBoard is told once a run: pages of charts, and the settings that tell runs apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

Settings = Mapping[str, bool | float | int | str]

_SEARCH = {
    "best reward": "best/reward",
    "best accuracy": "best/accuracy",
    "reward and its moving average": "reward/(episode|moving_average)",
    "kept cost": "cost/kept_.*",
    "exploration": "exploration/.*",
    "losses": "losses/.*",
}
_FINETUNING = {
    "loss": "finetune/loss.*",
    "accuracy": "finetune/accuracy_.*",
    "learning rate": "finetune/learning_rate",
    "images per second": "finetune/images_per_second",
}
_PHASES = {"seconds of every phase": "seconds/.*"}
_LINES_A_CHART = 4
"""A run's lines have one colour in TensorBoard, and differ by their marks only."""


def write_layout(writer: SummaryWriter, units: Sequence[str]) -> None:
    """Describe the tab "Custom Scalars": charts of the search, its units, the finetuning, and where
    time goes; without ``units``, of the finetuning only.

    TensorBoard merges the pages of all runs; a chart that two of them share is there once. What has
    a name of Stable-Baselines3 as well (:mod:`amc.reporting.tensorboard.sb3_names`) is here by
    ours.
    """
    pages = {"Finetuning": _FINETUNING}
    if units:
        keeps = _unit_charts(units)
        pages = {"Search": _SEARCH, "Kept fraction of units": keeps, **pages, "Time": _PHASES}
    writer.add_custom_scalars(
        {
            page: {title: ["Multiline", [f"^{tags}$"]] for title, tags in charts.items()}
            for page, charts in pages.items()
        }
    )


def _unit_charts(units: Sequence[str]) -> dict[str, str]:
    """Patterns of tags by title: neighbours share a chart."""
    charts = {}
    for lines in np.array_split(np.array(units), -(-len(units) // _LINES_A_CHART)):
        title = lines[0] if len(lines) == 1 else f"{lines[0]} to {lines[-1]}"
        charts[title] = f"keep/({'|'.join(map(re.escape, lines))})"
    return charts


def write_settings(writer: SummaryWriter, settings: Settings) -> None:
    """Begin the run's row in the tab "HParams".

    Only the row: no list of columns, which TensorBoard would take from one run for all of them.
    Without it, the columns are the settings of all runs, those that differ first, and the metrics
    are all scalars, of which the first by name are shown: ``best/accuracy``, ``best/kept_macs``,
    ``best/reward``.
    """
    # An empty trial id: runs with the same settings do not share a row.
    writer._get_file_writer().add_summary(hparams_pb(dict(settings), trial_id=""))


def write_end(writer: SummaryWriter) -> None:
    """Note in the run's row that it has ended; one that was killed counts as running."""
    *_, end = hparams({}, {})
    writer._get_file_writer().add_summary(end)
