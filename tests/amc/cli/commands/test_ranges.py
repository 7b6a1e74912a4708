"""``amc search`` over a range of budgets, with a floor on accuracy, and with another's policy."""

import json
import warnings

import pytest

from amc.pruning.checkpoint import load_model
from amc.pruning.plan_evaluator import PlanEvaluator
from amc.records.pareto_front import Front
from tests.amc.cli.test_app import SMALL, run


@pytest.fixture
def search(monkeypatch, capsys, tmp_path, weights):
    """Runs ``amc search`` with few plans in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return run(monkeypatch, capsys, *SMALL, "--weights", weights, *arguments)

    return call


def test_a_range_a_plan_of_it_and_its_policy_elsewhere(
    search, monkeypatch, capsys, tmp_path, weights
):
    arguments = ("--agent", "ddpg", "--episodes", "6")
    code, out, error = search("--budget", "flops=0.3:0.8", *arguments)
    assert code == 0, error
    folder = tmp_path / "runs" / "smallcnn-macs0.3-0.8-ddpg-seed0"
    plans = Front.load(folder / "front.json").plans
    for plan in plans:
        assert f"{plan.costs['macs'] / plan.dense_costs['macs']:.1%}" in out

    limit = plans[0].kept["macs"] + 1e-4
    code, out, error = run(monkeypatch, capsys, "apply", str(folder), "--budget", f"flops={limit}")
    assert code == 0, error
    model, card = load_model(folder / f"macs{limit}" / "pruned.safetensors")
    assert card.plan == plans[0]
    assert sum(p.numel() for p in model.parameters()) == plans[0].costs["params"]
    code, _, error = run(monkeypatch, capsys, "finetune", str(folder), "--budget", "flops=0.01")
    assert code == 1
    assert "is within this budget; the least: " in error
    code, _, error = run(
        monkeypatch, capsys, "apply", str(folder / "plan.json"), "--budget", "flops=0.5"
    )
    assert "is one plan; give the run's folder" in error

    onto = ("amc:smallcnn", "--weights", weights, "--data", "digits", "--images", "40")
    with warnings.catch_warnings():  # elsewhere in the tests they are errors
        warnings.simplefilter("default")
        code, out, error = run(
            monkeypatch, capsys, "replay", str(folder), *onto, "--budget", "flops=0.2"
        )
    assert code == 0, error
    assert "warning: the policy was trained at 30.0% to 80.0% of the macs, and is asked" in error
    lines = (tmp_path / "runs/smallcnn-macs0.2-replay-seed0/episodes.jsonl").read_text()
    assert 0.15 < json.loads(lines)["kept"]["macs"] <= 0.2  # one line


def test_a_floor_that_no_plan_holds_ends_in_an_error(search, monkeypatch, tmp_path):
    def like_the_kept_share(self, widths):
        kept = sum(widths) / sum(self._units.dense_widths)
        return {"accuracy": kept, "kl": 1 - kept, "cross_entropy": 1.0}

    monkeypatch.setattr(PlanEvaluator, "__call__", like_the_kept_share)
    few = ("--agent", "random", "--episodes", "4")
    code, _, error = search("--min-accuracy", "0.95", "--budget", "flops=0.3", *few)
    assert code == 1
    assert "none of the 4 plans has an accuracy of 0.95; the best has 0." in error
    path = tmp_path / "runs" / "smallcnn-macs0.3-accuracy0.95-random-seed0"
    episodes = [json.loads(line) for line in (path / "episodes.jsonl").read_text().splitlines()]
    best = max(episodes, key=lambda episode: episode["quality"]["accuracy"])
    assert json.loads((path / "plan.json").read_text())["costs"] == best["costs"]
    assert (path / "report.html").is_file()
    code, _, error = search("--min-accuracy", "0.5", *few)
    assert code == 0, error
    monkeypatch.undo()


def test_a_floor_above_the_dense_network_is_said_at_once(search):
    code, _, error = search("--min-accuracy", "0.999")
    assert code == 1
    assert "min_accuracy 0.999: the dense network itself has 0." in error
