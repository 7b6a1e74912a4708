"""``amc measure``: of a name and of a saved network, as a table and as JSON."""

import json
import math
from pathlib import Path

import pytest
import torch

from amc.config import ModelConfig
from amc.cost.table import CostTable
from amc.latency.breakdown import Explanation, LayerChange, OtherChange
from amc.latency.measurement import Latency
from amc.models.factory import build_model
from amc.models.weights import weights_sha256
from amc.pipeline import measure_networks
from amc.pruning.checkpoint import save_model
from amc.pruning.find_units import find_units
from amc.pruning.plan import plan_of
from amc.pruning.slicing.slice import slice_model
from tests.amc.cli.test_app import run

SPEC, SHAPE = "amc:smallcnn", (1, 1, 8, 8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file that holds a third of a small network, and its plan."""
    path = tmp_path_factory.mktemp("saved") / "small.safetensors"
    config = ModelConfig(spec=SPEC)
    model = build_model(config)
    units = find_units(model, torch.randn(SHAPE))
    cost, widths = CostTable(units), [max(1, unit.width // 3) for unit in units]
    plan = plan_of(
        cost,
        widths,
        weights_sha256=weights_sha256(model),
        model=config,
        example_inputs=torch.zeros(SHAPE),
    )
    save_model(slice_model(model, units, widths), plan, path)
    return path, plan


def test_a_saved_network_beside_the_dense_one(monkeypatch, capsys, saved):
    path, plan = saved
    arguments = ("measure", str(path), "--backend", "onnxruntime", "--batch", "3", "--json")
    code, out, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0
    found = json.loads(out)
    dense, pruned = found["networks"]
    assert (dense["name"], dense["macs"], dense["params"]) == (
        "dense",
        plan.dense_costs["macs"],
        plan.dense_costs["params"],
    )
    assert (pruned["name"], pruned["macs"], pruned["params"]) == (
        "pruned",
        plan.costs["macs"],
        plan.costs["params"],
    )
    assert found["format"] == "amc.measure/1"
    assert found["runtime"]["runtime"] == "onnxruntime"
    assert (found["batch"], found["shape"]) == (3, [1, 8, 8])
    assert found["kept_macs"] == plan.costs["macs"] / plan.dense_costs["macs"]
    by_clock = "median_ms" if found["clock"] == "wall" else "cpu_ms"
    assert found["kept_time"] == pruned[by_clock] / dense[by_clock]
    assert (found["explanation"] is not None) == (found["kept_time"] > found["kept_macs"])
    if found["explanation"]:
        causes = found["explanation"]["causes_ms"]
        assert math.isclose(sum(causes.values()), found["explanation"]["missing_ms"], abs_tol=1e-9)


def fixed_measurement(monkeypatch):
    """Half the MACs in three quarters of the time, on a busy machine."""

    latencies = [Latency(30, 5, 10, 0.2, 30), Latency(20, 5, 7.5, 0.2, 30)]
    monkeypatch.setattr(measure_networks, "measure", lambda *_, **__: latencies)
    unaligned = LayerChange("conv2", 800, 200, 8.0, 5.0, (16, 64), (16, 27))
    explanation = Explanation(
        10.0, 7.5, (unaligned,), (OtherChange("Relu", 1, 1),), OtherChange("overhead", 1, 1.5)
    )
    monkeypatch.setattr(measure_networks, "explain", lambda *_: explanation)


def test_the_table_says_what_was_measured_and_where_the_time_went(monkeypatch, capsys, saved):
    path, plan = saved
    fixed_measurement(monkeypatch)
    code, out, _ = run(monkeypatch, capsys, "measure", str(path), "--backend", "torch")
    assert code == 0
    lines = {line.split()[0]: " ".join(line.split()) for line in out.splitlines() if line.strip()}
    assert "30.0 ms ± 2.5 10.0 ms ± 0.1" in lines["dense"]
    # By CPU time, because forwards waited: 10 / 7.5.
    assert lines["pruned"].endswith(f"{plan.dense_costs['macs'] / plan.costs['macs']:.2f}× 1.33×")
    assert f"PyTorch {torch.__version__.partition('+')[0]}, 1 thread, float32" in out
    assert "input 1×1×8×8; 30 turns" in out
    assert "waited for a processor (3.0 times their CPU time)" in lines["warning:"]
    assert "MACs fell to 25.0%, time to 75.0%. That is 5.000 ms more" in out
    assert "layers with widths that are no multiple of 8 3.000 ms" in lines["layers"]
    assert "16→64, now 16→27* 8.000 ms 5.000 ms 25.0% 62.5% 3.000 ms" in lines["conv2"]
    assert lines["overhead"] == "overhead 1.000 ms 1.500 ms"
    assert "--round-to 8" in lines["*"]


def test_a_name_is_measured_by_itself(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "measure", SPEC, "--repeats", "5", "--input", "1,12,12")
    assert code == 0
    assert "input 1×1×12×12" in out
    assert "dense" in out
    assert "pruned" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((SPEC, "--backend", "tvm"), "choose from onnxruntime, torch, torch-compile, openvino"),
        ((SPEC, "--backend", "openvino", "--device", "cuda"), "it runs on cpu"),
        ((SPEC, "--input", "1,8"), "does not take inputs of shapes [(1, 1, 8)]"),
        ((SPEC, "--input", "3,8,8"), "does not take inputs of shapes [(1, 3, 8, 8)]"),
        ((SPEC, "--input", "8x8"), "C,H,W"),
        (("amc:resnet21",), "resnet20"),
        ((".",), "config.toml"),
        (("absent.safetensors",), "absent.safetensors: no such file"),
        (("SAVED", "--weights", "other.pth"), "has weights and arguments of its own"),
        (("bessel.py:make", "--input", "4"), "operator aten::special_bessel_j0"),
        (
            ("whole.py:make", "--batch", "3", "--input", "1,8,8"),
            "does not take inputs of shapes [(3, 1, 8, 8)]",
        ),
    ],
)
def test_what_a_user_gets_wrong(monkeypatch, capsys, tmp_path, saved, arguments, words):
    monkeypatch.chdir(tmp_path)
    head = "import torch\nclass Net(torch.nn.Module):\n def forward(self, x): return "
    Path("bessel.py").write_text(f"{head}torch.special.bessel_j0(x)\nmake = Net\n")
    Path("whole.py").write_text(f"{head}x.view(1, 64)\nmake = Net\n")
    given = [str(saved[0]) if argument == "SAVED" else argument for argument in arguments]
    code, _, error = run(monkeypatch, capsys, "measure", *given)
    assert code == 1
    assert words in " ".join(error.split())
    assert "Traceback" not in error
