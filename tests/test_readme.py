"""The README's Python example runs as it stands, on smaller things."""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from amc.config import ModelConfig
from amc.models.factory import build_model

README = Path(__file__).parent.parent / "README.md"
SMALLER = {
    '"amc:resnet20"': '"amc:smallcnn"',
    '"imagefolder:cifar10"': '"digits"',
    '"resnet20.safetensors"': '"smallcnn.safetensors"',
    "episodes=150": 'episodes=2, agent="random"',
    "epochs=15": "epochs=1",
}


def test_the_example_in_python_runs_and_saves_what_it_trained(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(example.split("\n\n")[1].splitlines()) <= 10
    for ours, smaller in SMALLER.items():
        assert ours in example
        example = example.replace(ours, smaller)
    monkeypatch.chdir(tmp_path)
    save_file(build_model(ModelConfig(spec="amc:smallcnn")).state_dict(), "smallcnn.safetensors")
    names: dict[str, object] = {}
    exec(example, names)
    task, pruned, loaded = names["task"], names["pruned"], names["model"]
    assert torch.equal(loaded(task.example_inputs), pruned.model(task.example_inputs))
    assert sum(p.numel() for p in loaded.parameters()) == names["result"].plan.costs["params"]
