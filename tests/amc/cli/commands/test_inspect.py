"""What ``amc inspect`` prints, as a table and as JSON."""

import json

from tests.amc.cli.test_app import run


def test_inspect_prints_the_same_numbers_as_json(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "inspect", "amc:resnet20", "--json")
    description = json.loads(out)
    assert code == 0
    # 40,551,040: conv MACs of He et al.'s ResNet-20 at 32 px, and its 640-weight classifier.
    assert description["macs"] == 40_551_040
    assert description["params"] == 269_722
    assert description["prunable_macs_share"] == 1.0
    # A stream is of two parts where its shortcut pads: what comes from before, and what does not.
    widths = [16, 16, 16, 16, 32, 8, 8, 32, 32, 64, 16, 16, 64, 64]
    assert [u["width"] for u in description["units"]] == widths
    code, out, _ = run(monkeypatch, capsys, "inspect", "amc:resnet20")
    assert "40,551,040" in out
    assert "network output" in out
    assert "layer1.{0..2}.conv1" in out
    _, out, _ = run(monkeypatch, capsys, "inspect", "amc:resnet20", "--all")
    assert "layer1.{0..2}.conv1" not in out
    assert "layer1.1.conv1" in out


def test_inspect_takes_every_bound(monkeypatch, capsys):
    bounds = ("--min-keep", "0.2", "--min-width", "6", "--gentle-ends", "--exclude", "layer2.0.*1")
    multiples = ("--round-to", "4", "--round-to", "stream=8")
    _, out, _ = run(monkeypatch, capsys, "inspect", "amc:resnet20", *bounds, *multiples, "--json")
    units = {unit["name"]: unit for unit in json.loads(out)["units"]}
    assert {name: unit["least_width"] for name, unit in units.items()} == {
        "conv1": 8,
        **dict.fromkeys(("layer1.0.conv1", "layer1.1.conv1", "layer1.2.conv1"), 8),
        **dict.fromkeys(("layer2.1.conv1", "layer2.2.conv1"), 8),
        **dict.fromkeys(("layer3.0.conv1", "layer3.1.conv1", "layer3.2.conv1"), 16),
        **dict.fromkeys(("layer3.0.conv2", "layer3.0.conv2#2"), 8),
    }
    assert {unit["multiple"] for unit in units.values()} == {4, 8}


OWN = """
import torch
from torch import nn

class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.meta, self.head = nn.Linear(3, 8), nn.Linear(4, 8), nn.Linear(8, 2)
    def forward(self, *, image, meta=None):
        return {"scores": self.head((self.image(image) + self.meta(meta)).relu())}

def net():
    return Keywords()

def inputs():
    return {"meta": torch.randn(1, 4), "image": torch.randn(1, 3)}

def nothing():
    return {}

def fails():
    raise ValueError("no data")
"""


def test_inspect_takes_inputs_from_a_file(monkeypatch, capsys, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    model = ("inspect", f"{file}:net", "--json")
    code, out, _ = run(monkeypatch, capsys, *model, "--inputs", f"{file}:inputs")
    assert code == 0
    description = json.loads(out)
    assert description["macs"] == 3 * 8 + 4 * 8 + 8 * 2
    assert [unit["members"] for unit in description["units"]] == [["image", "meta"]]
    for name, message in (
        ("nothing", "returned dict without a tensor; it must return what the network is called"),
        ("fails", "raised ValueError: no data"),
        ("absent", "has no function 'absent'"),
    ):
        code, _, error = run(monkeypatch, capsys, *model, "--inputs", f"{file}:{name}")
        assert code == 1
        assert message in error
    _, _, error = run(monkeypatch, capsys, *model, "--inputs", "own")
    assert "must be path/to/file.py:function" in error
    both = ("--inputs", f"{file}:inputs", "--input", "3,8,8")
    _, _, error = run(monkeypatch, capsys, *model, *both)
    assert "--input and --inputs: give one of them" in error
