"""What version 0.1.0 wrote before costs were held by quantity still loads, and means the same."""

import json
from pathlib import Path

from amc.agents.policy import Policy, Reached
from amc.comparison.jobs import read_outcomes
from amc.config import FinetuneConfig
from amc.pruning.plan import Plan
from amc.records.episode import Episode, read_episodes
from amc.records.results import Results
from amc.task import Epoch

ROOT = Path(__file__).parents[3]
EPISODE = {
    "number": 1,
    "widths": [8, 16],
    "proposed_keep": [0.5, 1.0],
    "executed_keep": [0.5, 1.0],
    "macs": 300,
    "params": 40,
    "kept_macs": 0.3,
    "kept_params": 0.1,
    "quality": {"kl": 0.25},
    "reward": -0.25,
    "seconds": {"evaluate": 0.5},
    "budget": {"macs": 300.0},
    "latency_us": None,
    "kept_latency_us": None,
}
PLAN = {
    "format": "amc.plan/1",
    "weights_sha256": "0",
    "units": [{"name": "a", "width": 2, "kept": [0]}],
    "macs": 300,
    "params": 40,
    "dense_macs": 1000,
    "dense_params": 400,
}


def test_episodes(tmp_path):
    timed = {**EPISODE, "number": 2, "latency_us": 12.5, "kept_latency_us": 0.5}
    path = tmp_path / "episodes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (EPISODE, timed)))
    first, second = read_episodes(path)
    assert (first.costs, first.kept) == ({"macs": 300, "params": 40}, {"macs": 0.3, "params": 0.1})
    assert second.costs == {"macs": 300, "params": 40, "latency_us": 12.5}
    assert second.kept["latency_us"] == 0.5
    assert Episode.from_json(EPISODE) == first
    path.write_text(json.dumps(first.to_json()) + "\n")
    assert read_episodes(path) == (first,)


def test_plans(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN | {"latency_us": 60.0, "dense_latency_us": 100.0}))
    plan = Plan.load(path)
    assert plan.costs == {"macs": 300, "params": 40, "latency_us": 60.0}
    assert plan.kept == {"macs": 0.3, "params": 0.1, "latency_us": 0.6}
    plan.save(path)
    assert Plan.load(path) == plan
    path.write_text(json.dumps(PLAN | {"latency_us": None, "dense_latency_us": None}))
    assert Plan.load(path).kept == {"macs": 0.3, "params": 0.1}


def test_results(tmp_path):
    path = tmp_path / "results.json"
    row = {"name": "dense", "macs": 1000, "params": 400, "latency_ms": 1.5}
    path.write_text(
        json.dumps({"format": "amc.results/1", "rows": [row], "device": "cpu", "verified_error": 0})
    )
    (found,) = Results.load(path).rows
    assert (found.costs, found.latency_ms) == ({"macs": 1000, "params": 400}, 1.5)


def test_results_of_a_finetuning_before_it_chose_the_best_weights(tmp_path):
    path = tmp_path / "results.json"
    row = {"name": "finetuned", "test_accuracy": 0.9, "costs": {"macs": 1000, "params": 400}}
    epoch = {"number": 1, "train_loss": 0.5, "test_accuracy": 0.9, "lr": 0.01, "seconds": 2.0}
    recipe = {"epochs": 1, "lr": 0.05, "bf16": True, "distill_temperature": 4.0}
    values = {"format": "amc.results/1", "rows": [row], "device": "cpu", "verified_error": 0}
    path.write_text(json.dumps(values | {"epochs": [epoch], "recipe": recipe}))
    found = Results.load(path)
    assert found.epochs == (Epoch(1, 0.5, 0.9, 0.01, 2.0),)
    assert found.recipe == FinetuneConfig(
        epochs=1, lr=0.05, precision="bf16", distill_temperature=(4.0,)
    )
    assert (found.kept, found.accuracies, found.notes, found.images) == (None, {}, (), {})
    found.save(path)
    assert Results.load(path) == found


def test_policies_and_comparisons():
    """The files of the library and of the benchmarks were written before."""
    library = ROOT / "runs" / "policies" / "cifar-resnets"
    assert "kept_macs" in (library / "policy.json").read_text()
    reached = [one for net in Policy.load(library).trained_on.networks for one in net.reached]
    assert reached
    assert all(0 < one.kept["macs"] <= 1 and 0 < one.kept["params"] <= 1 for one in reached)
    assert Reached.parse({"kept_macs": 0.5, "kept_params": 0.4, "quality": {}}).kept == {
        "macs": 0.5,
        "params": 0.4,
    }
    outcomes = read_outcomes(ROOT / "benchmarks" / "results" / "compare-resnet20" / "runs.jsonl")
    assert len(outcomes) > 10
    assert all(outcome.kept["macs"] <= 0.5 for outcome in outcomes)
