"""The page and the terminal's table, against the numbers of made-up runs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from amc.config import DataConfig, FinetuneConfig, ModelConfig, SearchConfig
from amc.errors import PlanError, RunError
from amc.pruning.plan import Plan, UnitPlan
from amc.records.episode import Episode, read_episodes
from amc.records.pareto_front import Front, nondominated
from amc.records.results import Results, Row
from amc.records.run_folder import RunFolder
from amc.reporting.report import write_report
from amc.reporting.terminal import front_table, results_table
from amc.task import Epoch
from amc.utils.settings import save_toml

DENSE = {"macs": 40_813_184, "params": 270_896}


def make_config(**changes: Any) -> SearchConfig:
    values: dict[str, Any] = {
        "model": ModelConfig(spec="amc:resnet20", weights="models/resnet20.safetensors"),
        "data": DataConfig(spec="imagefolder:data/cifar10"),
        "budget": {"macs": 0.5},
    }
    return SearchConfig.parse(values | changes)


def make_episodes(count: int, widths: list[int], rng: np.random.Generator) -> list[Episode]:
    """Plans that get better with time: a random walk of keeps, and a quality that follows."""
    episodes = []
    for number in range(1, count + 1):
        skill = 1 - np.exp(-number / (0.3 * count))
        keeps = np.clip(rng.normal(0.7, 0.2, len(widths)), 0.15, 1.0)
        kept = tuple(max(1, round(k * w)) for k, w in zip(keeps, widths, strict=True))
        kl = float(0.75 + (1 - skill) * 1.6 + abs(rng.normal(0, 0.25)) * (1.2 - skill))
        kept_macs, kept_params = 0.5 - rng.random() * 0.004, 0.3 + 0.35 * rng.random()
        episodes.append(
            Episode(
                number=number,
                widths=kept,
                proposed_keep=tuple(keeps.tolist()),
                executed_keep=tuple(k / w for k, w in zip(kept, widths, strict=True)),
                costs={
                    "macs": round(kept_macs * DENSE["macs"]),
                    "params": round(kept_params * DENSE["params"]),
                },
                kept={"macs": kept_macs, "params": kept_params},
                quality={"accuracy": float(0.9 * np.exp(-0.45 * kl)), "kl": kl},
                reward=-kl,
                seconds={
                    "project": 0.001,
                    "evaluate": 0.4 + 0.1 * float(rng.random()),
                    "agent": 0.1,
                },
            )
        )
    return episodes


def make_results(best: Episode, epochs: int, rng: np.random.Generator) -> Results:
    curve = 0.912 - 0.12 * np.exp(-np.arange(1, epochs + 1) / 3) + rng.normal(0, 0.002, epochs)
    small = {"macs": best.costs["macs"], "params": best.costs["params"]}
    rows = [
        Row(name="dense", test_accuracy=0.9183, latency_ms=3.1, latency_spread_ms=0.12, **DENSE),
        Row(name="pruned", test_accuracy=0.5937, latency_ms=2.0, latency_spread_ms=0.1, **small),
    ]
    if epochs:
        rows.append(
            Row(name="finetuned", test_accuracy=float(curve[-1]), latency_ms=1.984, **small)
        )
    return Results(
        rows=tuple(rows),
        device="cpu",
        epochs=tuple(
            Epoch(number, 1.2 / number, float(accuracy), 0.05, 41.0)
            for number, accuracy in enumerate(curve, start=1)
        ),
        recipe=FinetuneConfig(epochs=epochs) if epochs else None,
        verified_error=3.1e-7,
    )


def make_run(
    path: Path,
    *,
    config: SearchConfig | None = None,
    names: list[str] | None = None,
    episodes: int = 150,
    epochs: int = 15,
    results: bool = True,
) -> Results | None:
    """A run folder; returns its results."""
    rng = np.random.default_rng(7)
    names = names or [f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in (0, 1, 2)]
    widths = [16 * 2 ** (3 * number // len(names)) for number in range(len(names))]
    path.mkdir(parents=True)
    save_toml(
        config or make_config(),
        path / "config.toml",
        versions={"amc": "0.1.0", "torch": "2.15.0"},
    )
    history = make_episodes(episodes, widths, rng)
    lines = [json.dumps(episode.to_json()) + "\n" for episode in history]
    (path / "episodes.jsonl").write_text("".join(lines))
    if not history:
        return None
    best = max(history, key=lambda episode: episode.reward)
    Plan(
        weights_sha256="0" * 64,
        units=tuple(
            UnitPlan(name=name, width=width, kept=tuple(range(kept)))
            for name, width, kept in zip(names, widths, best.widths, strict=True)
        ),
        costs=best.costs,
        dense_costs=DENSE,
        quality=best.quality,
    ).save(path / "plan.json")
    if not results:
        return None
    found = make_results(best, epochs, rng)
    found.save(path / "results.json")
    return found


class Page(HTMLParser):
    """What a browser would make of the page, as far as the tests ask."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._table = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append((tag, values))
        self._open.append(tag)
        if tag == "table":
            self._table = values["class"]
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("th", "td"):
            self.tables[self._table][-1].append("")
        elif tag == "small":
            self.tables[self._table][-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.texts.append(data)
        if "th" in self._open or "td" in self._open:
            self.tables[self._table][-1][-1] += data

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def attributes(self, *names: str) -> list[str]:
        return [values[name] for _, values in self.tags for name in names if name in values]


def quantity(cell: str) -> float:
    """The number that a cell states: ``20.4 M`` is 20.4e6, ``91.24% ...`` is 91.24."""
    words = cell.replace("−", "-").replace(",", "").split()
    factor = {"k": 1e3, "M": 1e6, "G": 1e9}.get(words[1] if len(words) > 1 else "", 1.0)
    return float(words[0].rstrip("%")) * factor


def test_results_table_states_the_run_s_numbers(tmp_path: Path) -> None:
    results = make_run(tmp_path / "run")
    page = Page(write_report(tmp_path / "run"))
    head, accuracy, macs, params, latency = page.tables["results"]
    assert head == ["", "Dense", "Pruned", "Finetuned"]
    assert results is not None
    dense = results.rows[0]
    for column, row in enumerate(results.rows, start=1):
        assert row.test_accuracy is not None
        assert quantity(accuracy[column]) == pytest.approx(100 * row.test_accuracy, abs=0.006)
        assert quantity(macs[column]) == pytest.approx(row.costs["macs"], rel=5e-3)
        assert quantity(params[column]) == pytest.approx(row.costs["params"], rel=5e-3)
        assert quantity(latency[column]) == pytest.approx(row.latency_ms, abs=0.006)
    for column, row in enumerate(results.rows[1:], start=2):
        points = 100 * ((row.test_accuracy or 0) - (dense.test_accuracy or 0))
        assert accuracy[column].split(" ", 1)[1] == f"{points:.2f} points".replace("-", "−")
        change = f"{100 * (row.costs['macs'] / dense.costs['macs'] - 1):.1f}%".replace("-", "−")
        assert macs[column].split()[2] == change
    assert "spread 0.12" in latency[1]
    assert latency[3].split()[2] == "−36.0%"


def test_latency_says_in_what_and_by_which_clock(tmp_path: Path) -> None:
    results = make_run(tmp_path / "run")
    assert results is not None
    folder = RunFolder(tmp_path / "run")
    assert "in eager PyTorch on cpu." in Page(write_report(folder.path)).text
    times = (2.0, 1.5, 1.0)
    rows = tuple(
        row.model_copy(update={"cpu_ms": ms}) for row, ms in zip(results.rows, times, strict=True)
    )
    quiet = results.model_copy(update={"rows": rows, "runtime": "ONNX Runtime 1, AMD EPYC"})
    quiet.save(folder.results)
    page = Page(write_report(folder.path))
    assert "the networks in turns, in ONNX Runtime 1, AMD EPYC." in page.text
    assert "1.56 times as fast" in page.text
    assert [row[0] for row in page.tables["results"]][-1] == "Latency, batch 1"
    quiet.model_copy(update={"clock": "cpu", "noise": "it is busy"}).save(folder.results)
    page = Page(write_report(folder.path))
    assert "in ONNX Runtime 1, AMD EPYC; it is busy." in page.text
    assert "2.00 times as fast" in page.text
    cpu = page.tables["results"][-1]
    assert cpu[0] == "CPU time, batch 1"
    assert [quantity(cell) for cell in cpu[1:]] == [2.0, 1.5, 1.0]
    assert cpu[2].endswith("−25.0%")


def test_a_finetuning_is_told_and_what_was_chosen(tmp_path: Path) -> None:
    results = make_run(tmp_path / "run")
    assert results is not None
    epochs = tuple(
        replace(epoch, test_accuracy=None, search_val_accuracy=0.5, ema_accuracy=0.6)
        for epoch in results.epochs
    )
    dense, *_, last = results.rows
    told = {
        "rows": (dense, last.model_copy(update={"test_accuracy": 0.8})),
        "epochs": epochs,
        "kept": "ema",
        "accuracies": {"ema": 0.6, "last": 0.5},
        "notes": ("lr 0.02 lost least on 200 steps; --lr <x> takes another",),
        "images": {"train": 45_000, "test": 10_000},
    }
    results.model_copy(update=told).save(tmp_path / "run" / "results.json")
    page = Page(write_report(tmp_path / "run"))
    assert "Kept: the moving average (search-val 60.0%; last epoch 50.0%)." in page.text
    assert "Note: lr 0.02 lost least on 200 steps; --lr <x> takes another" in page.text
    assert "Images used: train 45,000, test 10,000." in page.text
    assert "Lost: 11.8 points against dense; what helps: longer (--epochs 60)" in page.text
    assert "search-val, average" in page.text  # in the picture


def test_what_the_budget_bounds_is_drawn(tmp_path: Path) -> None:
    make_run(tmp_path / "run", config=make_config(budget={"params": 0.7}))
    page = Page(write_report(tmp_path / "run"))
    assert "of the parameters. The best is episode" in page.text
    assert "parameters kept" in page.text
    assert "MACs kept" not in page.text  # the parameters tell plans apart
    make_run(tmp_path / "pinned", config=make_config(budget={"macs": 0.5}))
    page = Page(write_report(tmp_path / "pinned"))
    assert "MACs kept" in page.text
    assert "parameters kept" in page.text


def test_headline_says_the_result_in_words(tmp_path: Path) -> None:
    results = make_run(tmp_path / "run")
    plan = Plan.load(tmp_path / "run" / "plan.json")
    assert results is not None
    assert (
        f"Keeps {plan.costs['macs'] / plan.dense_costs['macs']:.1%} of the MACs and "
        f"{plan.costs['params'] / plan.dense_costs['params']:.1%} of the parameters; test accuracy "
        f"{results.rows[2].test_accuracy:.1%} against 91.8% dense; 1.56 times as fast."
    ) in Page(write_report(tmp_path / "run")).text


def test_plan_table_lists_every_unit(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    plan = Plan.load(tmp_path / "run" / "plan.json")
    page = Page(write_report(tmp_path / "run"))
    expected = [
        [unit.name, str(unit.width), str(len(unit.kept)), f"{len(unit.kept) / unit.width:.0%}", ""]
        for unit in plan.units
    ]
    assert page.tables["plan"][1:] == expected
    assert ["budget.macs", "0.5"] in page.tables["pairs"]


def test_page_is_self_contained_and_sound(tmp_path: Path) -> None:
    make_run(tmp_path / "run", names=[f"stages.{number}.conv" for number in range(40)])
    path = write_report(tmp_path / "run")
    page = Page(path)
    document = path.read_text(encoding="utf-8")
    assert not {"script", "link", "img", "iframe", "image", "object"} & {t for t, _ in page.tags}
    assert not page.attributes("src", "srcset", "onload", "onclick")
    for outside in ("http:", "https:", "@import", "url(//"):
        assert outside not in document
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    references = page.attributes("href", "xlink:href") + [
        part.split(")")[0] for part in document.split("url(")[1:]
    ]
    assert references
    assert {reference.lstrip("#") for reference in references} <= set(ids)
    assert sum(tag == "svg" for tag, _ in page.tags) == 6  # the plan twice, wide and narrow
    assert "#1f8f84" not in document  # colours are the page's, so that dark mode reaches them


def test_same_run_gives_the_same_page(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    first = write_report(tmp_path / "run").read_bytes()
    assert write_report(tmp_path / "run").read_bytes() == first
    assert not list((tmp_path / "run").glob("*.tmp*"))


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    evil = '</style></svg><script>alert("&amp;")</script>--> $x$'
    config = make_config(
        model=ModelConfig(spec=f"{evil}:net", arguments={"a": evil}), exclude=(evil,)
    )
    make_run(tmp_path / "run", config=config, names=[evil, "b"])
    page = Page(write_report(tmp_path / "run"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert f"{evil}:net" in page.text
    assert page.tables["plan"][1][0] == evil


@pytest.mark.parametrize(
    ("kind", "said", "tables"),
    [
        ({"episodes": 0}, "No episode has finished yet", {"pairs"}),
        ({"episodes": 63, "results": False}, "Stopped after 63 of 150", {"pairs", "plan"}),
        ({"results": False}, "Not measured yet", {"pairs", "plan"}),
        ({"epochs": 0}, "Not finetuned", {"pairs", "plan", "results"}),
        ({"episodes": 1, "epochs": 1}, "Stopped after 1 of 150", {"pairs", "plan", "results"}),
    ],
)
def test_page_of_an_unfinished_run(
    tmp_path: Path, kind: dict[str, Any], said: str, tables: set[str]
) -> None:
    make_run(tmp_path / "run", **kind)
    page = Page(write_report(tmp_path / "run"))
    assert said in page.text
    assert set(page.tables) == tables
    assert ("before finetuning" in page.text) == ("plan" in tables)


def make_front(path: Path, config: SearchConfig) -> Front:
    """``front.json`` of a run whose episodes are there."""
    episodes = read_episodes(path / "episodes.jsonl")
    plan = Plan.load(path / "plan.json")
    front = Front(
        dense_quality={"accuracy": 0.925, "kl": 0.007},
        plans=tuple(
            plan.model_copy(
                update={"macs": e.costs["macs"], "params": e.costs["params"], "quality": e.quality}
            )
            for e in nondominated(episodes, config)
        ),
    )
    front.save(path / "front.json")
    return front


def test_plans_of_a_range_are_drawn_and_listed(tmp_path: Path) -> None:
    config = make_config(budget={"macs": (0.3, 0.8)})
    make_run(tmp_path / "run", config=config)
    assert "front" not in Page(write_report(tmp_path / "run")).tables
    front = make_front(tmp_path / "run", config)
    page = Page(write_report(tmp_path / "run"))
    head, dense, *rows = page.tables["front"]
    assert head == ["", "MACs", "Parameters", "Accuracy", "KL"]
    assert dense == ["dense", "40.8 M", "271 k", "92.5%", "0.007"]
    assert [row[1] for row in rows] == [
        f"{plan.costs['macs'] / plan.dense_costs['macs']:.1%}" for plan in reversed(front.plans)
    ]
    assert [row[3] for row in rows] == [f"{p.quality['accuracy']:.1%}" for p in front.plans[::-1]]
    assert "MACs ≤ 30% to 80%" in page.text
    assert f"amc finetune {tmp_path / 'run'} --budget flops=0.42" in page.text
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(front_table(front))
    shown = console.export_text()
    assert all(cell in shown for row in page.tables["front"] for cell in row)


def test_a_floor_is_said_to_be_held_or_not(tmp_path: Path) -> None:
    for floor, held in ((0.5, "An accuracy of 0.5 on search-val is held;"), (0.99, "by none of")):
        path = tmp_path / str(floor)
        make_run(path, config=make_config(budget={}, min_accuracy=floor))
        text = Page(write_report(path)).text
        assert held in text
        assert f"accuracy ≥ {floor:.1%} ·" in text


def test_run_from_python_objects_has_a_page(tmp_path: Path) -> None:
    make_run(tmp_path / "run", config=SearchConfig(budget={"params": 1_200_000}))
    page = Page(write_report(tmp_path / "run"))
    assert "no command line describes it" in page.text
    assert "parameters ≤ 1.20 M" in page.text


def test_torn_last_line_is_skipped_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "run", episodes=4)
    path = tmp_path / "run" / "episodes.jsonl"
    whole = path.read_text()
    assert [episode.number for episode in read_episodes(path)] == [1, 2, 3, 4]
    path.write_text(whole[: whole.rindex("{") - 40])
    lines = path.read_text().splitlines()
    assert [episode.number for episode in read_episodes(path)] == [1, 2, 3]
    path.write_text("\n".join([lines[0], lines[3], lines[2]]))
    with pytest.raises(RunError, match=r"line 2: .*remove the line"):
        read_episodes(path)
    path.write_text(lines[0].replace('"number": 1', '"number": "one"'))
    with pytest.raises(RunError, match=r"line 1: .*number.*'one'"):
        read_episodes(path)


def test_missing_and_damaged_files_are_errors(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match="not the folder of a run"):
        write_report(run)
    make_run(run)
    (run / "results.json").write_text('{"format": "amc.results/2"}')
    with pytest.raises(RunError, match=r"format.*amc.results/1"):
        write_report(run)
    with pytest.raises(RunError, match="no such file"):
        Results.load(run / "other.json")
    (run / "plan.json").write_text("{")
    with pytest.raises(PlanError, match="not a sound plan"):
        write_report(run)
    (run / "plan.json").unlink()
    with pytest.raises(PlanError, match="150 episodes are recorded; put it back"):
        write_report(run)


def test_results_come_back_as_saved(tmp_path: Path) -> None:
    results = make_run(tmp_path / "run")
    assert Results.load(tmp_path / "run" / "results.json") == results


def test_terminal_table_shows_the_page_s_cells(tmp_path: Path) -> None:
    results = make_run(tmp_path / "run")
    assert results is not None
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(results_table(results))
    shown = console.export_text()
    for row in Page(write_report(tmp_path / "run")).tables["results"][1:]:
        for cell in row:
            assert all(word in shown for word in cell.split())
