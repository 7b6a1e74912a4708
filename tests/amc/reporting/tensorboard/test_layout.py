"""What TensorBoard's own readers make of the layout and of several runs' settings."""

from __future__ import annotations

import itertools
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context
from torch.utils.tensorboard.writer import SummaryWriter

from amc.reporting.tensorboard.layout import write_end, write_layout, write_settings

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # of a library that TensorBoard brings along
    from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin

CONTEXT = RequestContext()


def read(folder: Path) -> TBContext:
    """What a server on ``folder`` would show."""
    runs = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    return TBContext(data_provider=MultiplexerDataProvider(runs, str(folder)), logdir=str(folder))


def charts(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Patterns by title and page."""
    layout = json.loads(CustomScalarsPlugin(read(folder)).layout_impl(CONTEXT, ""))
    return {
        page["title"]: {chart["title"]: chart["multiline"]["tag"] for chart in page["chart"]}
        for page in layout["category"]
    }


@pytest.mark.parametrize("count", [1, 4, 5, 31])
def test_each_unit_is_in_one_chart_of_a_few(tmp_path: Path, count: int) -> None:
    names = [f"layer{number}.conv" for number in range(count)]
    with SummaryWriter(str(tmp_path)) as writer:
        write_layout(writer, names)
    pages = charts(tmp_path)
    assert list(pages) == ["Search", "Kept fraction of units", "Finetuning", "Time"]
    matched = [
        [name for name in names if re.match(pattern, f"keep/{name}")]
        for (pattern,) in pages["Kept fraction of units"].values()
    ]
    assert list(itertools.chain(*matched)) == names  # each once, neighbours together
    assert all(1 <= len(chart) <= 4 for chart in matched)
    for (pattern,) in pages["Kept fraction of units"].values():
        assert not re.match(pattern, "keep/layer1xconv")
    titles = [a[0] if len(a) == 1 else f"{a[0]} to {a[-1]}" for a in matched]
    assert list(pages["Kept fraction of units"]) == titles


def test_the_first_page_shows_the_search(tmp_path: Path) -> None:
    for run in ("a", "b"):  # the same layout in two runs is there once
        with SummaryWriter(str(tmp_path / run)) as writer:
            write_layout(writer, ["conv"])
    tags = ["best/reward", "best/accuracy", "best/kept_macs", "reward/episode", "losses/critic"]
    tags += ["reward/moving_average", "cost/kept_macs", "cost/kept_params", "exploration/std"]
    shown = {
        title: [tag for tag in tags if re.match(pattern, tag)]
        for title, (pattern,) in charts(tmp_path)["Search"].items()
    }
    assert shown == {
        "best reward": ["best/reward"],
        "best accuracy": ["best/accuracy"],
        "reward and its moving average": ["reward/episode", "reward/moving_average"],
        "kept cost": ["cost/kept_macs", "cost/kept_params"],
        "exploration": ["exploration/std"],
        "losses": ["losses/critic"],
    }


def test_each_number_has_one_chart_and_those_of_a_finetuning_a_page(tmp_path: Path) -> None:
    parts = ("loss", "loss_kd", "learning_rate", "images_per_second", "accuracy_test")
    parts += ("accuracy_search_val", "accuracy_search_val_ema", "accuracy_train")
    with SummaryWriter(str(tmp_path / "with a search")) as writer:
        write_layout(writer, ["conv"])
    with SummaryWriter(str(tmp_path / "alone")) as writer:
        write_layout(writer, [])
    pages = charts(tmp_path / "with a search")
    assert charts(tmp_path / "alone") == {"Finetuning": pages["Finetuning"]}
    patterns = [(page, x) for page, found in pages.items() for (x,) in found.values()]
    for tag in [f"finetune/{part}" for part in parts]:
        assert [page for page, x in patterns if re.match(x, tag)] == ["Finetuning"]
    for tag in ("rollout/ep_rew_mean", "train/actor_loss", "time/fps"):  # charts have them by ours
        assert not [x for _, x in patterns if re.match(x, tag)]


def test_a_row_for_each_run_and_what_differs_first(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {
        "finished": {"agent": "ddpg", "budget/macs": 0.5, "seed": 1},
        "killed": {"agent": "ddpg", "budget/params": 0.4, "seed": 2, "rank": True},
        "same": {"agent": "ddpg", "budget/macs": 0.5, "seed": 1},
    }
    for number, (run, settings) in enumerate(runs.items()):
        writer = SummaryWriter(str(tmp_path / run))
        write_settings(writer, settings)
        for tag in ("best/reward", "best/accuracy", "best/kept_macs", "cost/kept_macs"):
            writer.add_scalar(tag, -1.0, 1)
            writer.add_scalar(tag, number, 2)
        if run != "killed":
            write_end(writer)
        writer.flush()
    shown = read(tmp_path)
    context = Context(shown)
    metadata = context.hparams_metadata(CONTEXT, "")
    columns = context.experiment_from_metadata(CONTEXT, "", True, metadata, [])
    assert columns.hparam_infos[0].name == "seed"
    assert {one.name for one in columns.hparam_infos} == set().union(*runs.values())
    metrics = [one.name.tag for one in columns.metric_infos]
    assert metrics[:3] == ["best/accuracy", "best/kept_macs", "best/reward"]
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=api_pb2.Status.values(), slice_size=9
    )
    answer = list_session_groups.Handler(CONTEXT, context, "", request).run()
    rows = {row.name: row for row in answer.session_groups}
    assert {name: MessageToDict(row)["hparams"] for name, row in rows.items()} == runs
    ended = {name for name, row in rows.items() if row.sessions[0].status == api_pb2.STATUS_SUCCESS}
    assert ended == {"finished", "same"}
    for number, name in enumerate(runs):
        assert [value.value for value in rows[name].metric_values] == [number] * 4
