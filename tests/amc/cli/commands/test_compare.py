"""What ``amc compare`` prints, and that it goes on."""

import json
import re

from tests.amc.cli.test_app import run


def test_compare_prints_tables_or_json_and_goes_on(monkeypatch, capsys, tmp_path, weights):
    monkeypatch.chdir(tmp_path)
    command = ("compare", "amc:smallcnn", "--data", "digits", "--images", "40", "--jobs", "1")
    given = ("--weights", weights, "--evaluations", "2,3", "--run", "both")
    code, out, _ = run(monkeypatch, capsys, *command, *given, "--agents", "random", "--seeds", "1")
    assert code == 0
    assert re.search(r"random +│ +1 │", out)
    assert "both/compare.md" in out
    line = (tmp_path / "both/runs.jsonl").read_text()
    command = (*command, *given, "--agents", "random,uniform", "--seeds", "2", "--json")
    code, out, error = run(monkeypatch, capsys, *command)
    assert code == 0
    assert error == ""
    told = json.loads(out)
    seeds = {one["agent"]: one["seeds"] for one in told["agents"]}
    assert seeds == {"random": [0, 1], "uniform": [0]}
    lines = (tmp_path / "both/runs.jsonl").read_text()
    assert lines.startswith(line)
    best = [min(json.loads(x)["quality"]["kl"]) for x in lines.splitlines()[::2]]
    assert told["agents"][0]["least"][-1] == min(best)
