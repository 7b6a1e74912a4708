"""``amc replay`` and ``amc search --model A --model B``, to what they leave."""

import json

import pytest

from amc.pruning.checkpoint import load_model
from amc.pruning.plan import Plan
from amc.records.pareto_front import Front
from tests.amc.cli.test_app import run

DIGITS = ("--data", "digits", "--images", "40")
QUICK = ("--calibration-images", "32", "--threads", "1")


@pytest.fixture
def amc(monkeypatch, capsys, tmp_path):
    """Runs ``amc`` in a folder of its own; what it prints, which must be no error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0):
        found, out, error = run(monkeypatch, capsys, *arguments)
        assert found == code, error
        return " ".join((out if code == 0 else error).split())

    return call


def test_a_policy_of_two_networks_is_replayed_adapted_and_applied(amc, tmp_path, weights):
    two = ("--model", f"amc:smallcnn@{weights}") * 2
    out = amc("search", *two, *DIGITS, *QUICK, "--episodes", "16", "--run", "runs/policies/small")
    assert "amc replay runs/policies/small MODEL --budget flops=0.5" in out
    trained = tmp_path / "runs" / "policies" / "small"
    described = json.loads((trained / "policy" / "policy.json").read_text())["trained_on"]
    assert [one["episodes"] for one in described["networks"]] == [8, 8]
    plans = Front.load(trained / "networks" / "smallcnn-1" / "front.json").plans
    assert all(plan.costs["macs"] <= 0.8 * plan.dense_costs["macs"] for plan in plans)
    amc("search", "--resume", "runs/policies/small", "--episodes", "18", "--threads", "1")
    lines = (trained / "networks" / "smallcnn-2" / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == 9

    onto = ("small", "amc:smallcnn", "--weights", weights, *DIGITS, *QUICK)
    amc("replay", *onto, "--budget", "flops=0.45")
    path = tmp_path / "runs" / "smallcnn-macs0.45-replay-seed0"
    (episode,) = (json.loads(line) for line in (path / "episodes.jsonl").read_text().splitlines())
    model, card = load_model(path / "pruned.safetensors")
    assert (
        card.plan.costs["macs"] == episode["costs"]["macs"] <= 0.45 * card.plan.dense_costs["macs"]
    )
    assert sum(p.numel() for p in model.parameters()) == card.plan.costs["params"]
    assert "amc replay small amc:smallcnn" in (path / "report.html").read_text()
    amc("replay", *onto, "--budget", "flops=0.45", "--episodes", "4", "--run", "adapted")
    lines = (tmp_path / "adapted" / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert json.loads(lines[0])["widths"] == episode["widths"]
    amc("search", "--resume", "adapted", "--episodes", "5")

    plan = str(path / "plan.json")
    out = amc("replay", plan, "amc:smallcnn", "--data", "none", "--run", "unscored")
    assert "not scored" in out
    again = Plan.load(tmp_path / "unscored" / "plan.json")
    assert again.widths() == Plan.load(path / "plan.json").widths()
    assert load_model(tmp_path / "unscored" / "pruned.safetensors")[1].plan == again


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("replay", "absent", "amc:smallcnn", "--budget", "flops=0.5"), "absent: neither a policy"),
        (("search", "amc:smallcnn", "--model", "amc:smallcnn"), "without MODEL, --weights"),
        (("search", "--model", "amc:smallcnn"), "needs two"),
        (("search", "--model", "amc:a/b", "--model", "amc:c"), "write MODEL or MODEL@WEIGHTS"),
    ],
)
def test_what_is_wrong_is_said(amc, arguments, words):
    assert words in amc(*arguments, code=1)
