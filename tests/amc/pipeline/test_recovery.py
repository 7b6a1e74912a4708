"""From a finished search to a finetuned network on disk, on the embedded digits."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from amc.config import DataConfig, EvaluateConfig, FinetuneConfig, LatencyConfig, ModelConfig
from amc.cost.budget import parse_budget
from amc.errors import ModelError, PlanError, RunError
from amc.latency.backends import make_backend
from amc.models.factory import build_model
from amc.pipeline.opening import apply_file, choose, open_task
from amc.pipeline.recovery import recover
from amc.pipeline.search import make_config, search
from amc.pruning.checkpoint import load_model
from amc.pruning.plan import Plan
from amc.records.pareto_front import Front
from amc.records.results import Results
from amc.records.run_folder import RunFolder
from amc.registry import BACKENDS
from amc.utils.settings import save_toml
from amc.vision.task import image_task
from tests.amc.latency.predictor.fake_backend import FakeRuntime
from tests.fakes import registered

DATA = DataConfig(spec="digits")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three random plans on an untrained CNN, trained for eight epochs."""
    path = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    save_file(build_model(ModelConfig(spec="amc:smallcnn")).state_dict(), path / "w.safetensors")
    model = ModelConfig(spec="amc:smallcnn", weights=str(path / "w.safetensors"))
    settings = EvaluateConfig(images=60, calibration_images=60)
    config = make_config(
        "flops=0.5", model=model, data=DATA, evaluate=settings, agent="random", episodes=3
    )
    task = image_task(model, DATA, settings, progress=False)
    search(task, config=config, run=path / "run")
    folder = RunFolder.open(path / "run")
    recipe = FinetuneConfig(epochs=8, lr=0.1, batch_size=64, distill_weight=0)
    results = recover(task, Plan.load(folder.plan), recipe, folder)
    return folder, task, results


def test_the_rows_are_what_the_networks_measure(finished):
    folder, task, results = finished
    saved, card = load_model(folder.finetuned)
    by_name = {row.name: row for row in results.rows}
    assert list(by_name) == ["dense", "pruned", "finetuned"]
    assert by_name["dense"].test_accuracy == task.test(task.model)
    assert by_name["finetuned"].test_accuracy == task.test(saved)
    assert by_name["finetuned"].costs["params"] == sum(p.numel() for p in saved.parameters())
    assert by_name["finetuned"].costs["macs"] <= by_name["dense"].costs["macs"] / 2
    assert by_name["finetuned"].test_accuracy > by_name["pruned"].test_accuracy + 0.2
    assert by_name["finetuned"].test_accuracy == results.epochs[-1].test_accuracy
    assert results.verified_error < 1e-4
    assert results.runtime == make_backend("onnxruntime").description
    assert all(row.latency_ms and row.cpu_ms for row in results.rows)
    assert card.finetuned_epochs == 8
    assert Results.load(folder.results) == results
    assert folder.report.is_file()


def test_applying_again_keeps_the_finetuned_network(finished):
    folder, task, results = finished
    before = folder.finetuned.read_bytes()
    recover(task, Plan.load(folder.plan), FinetuneConfig(epochs=0), folder)
    assert folder.finetuned.read_bytes() == before
    assert Results.load(folder.results) == results
    pruned, card = load_model(folder.pruned)
    assert task.test(pruned) == results.rows[1].test_accuracy
    assert card.finetuned_epochs == 0


def test_a_run_is_reopened_from_its_folder(finished):
    folder, task, _ = finished
    again = open_task(folder, progress=False)
    assert torch.equal(again.model(again.example_inputs), task.model(task.example_inputs))
    quality = task.evaluate(build_model(task.config))
    assert again.evaluate(build_model(task.config)) == quality


def test_a_bare_plan_is_applied_to_the_weights_it_names(finished, tmp_path):
    folder, _, _ = finished
    assert apply_file(folder.plan, tmp_path / "small.safetensors") < 1e-4
    small, card = load_model(tmp_path / "small.safetensors")
    assert sum(p.numel() for p in small.parameters()) == card.plan.costs["params"]


def test_a_bare_plan_refuses_other_weights(finished, tmp_path):
    folder, task, _ = finished
    other = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    other["conv1.weight"][0, 0, 0, 0] += 1
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(PlanError, match="other weights"):
        apply_file(
            folder.plan, tmp_path / "small.safetensors", weights=str(tmp_path / "other.safetensors")
        )


def test_a_python_file_is_not_run_because_a_plan_names_it(finished, tmp_path):
    folder, _, _ = finished
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    plan = Plan.load(folder.plan)
    evil = ModelConfig(spec=f"{tmp_path / 'evil.py'}:make")
    plan.model_copy(update={"model": evil}).save(tmp_path / "plan.json")
    with pytest.raises(ModelError, match="--allow-factory"):
        apply_file(tmp_path / "plan.json", tmp_path / "small.safetensors")


def test_a_plan_of_a_front_gets_a_folder_of_its_own(finished, tmp_path):
    run, task, _ = finished
    folder = RunFolder(tmp_path)
    shutil.copy(run.config, folder.config)
    plan = Plan.load(run.plan)
    with pytest.raises(PlanError, match="only a search over a range"):
        choose(folder, ["flops=0.5"])
    assert choose(folder, []) is folder
    other = plan.model_copy(update={"costs": {**plan.costs, "macs": plan.dense_costs["macs"] // 4}})
    Front(dense_quality={}, plans=(other, plan)).save(folder.front)
    chosen = choose(folder, ["flops=0.3", "params=0.99"])
    assert chosen.path == tmp_path / "macs0.3-params0.99"
    assert Plan.load(chosen.plan) == other
    results = recover(task, other, FinetuneConfig(epochs=0), RunFolder.open(chosen.path))
    assert Results.load(chosen.results) == results
    assert chosen.network() == chosen.pruned
    assert "before finetuning" in chosen.report.read_text()
    choose(folder, ["flops=0.3", "params=0.99"])
    assert chosen.network().is_file()  # what is there stays


def test_where_latency_is_bounded_the_results_are_measured(finished, tmp_path, monkeypatch):
    run, task, _ = finished
    registered(monkeypatch, BACKENDS, "fake", FakeRuntime)
    there = LatencyConfig(backend="fake", batch=3, threads=2)
    aim = {"budget": parse_budget("latency=0.5"), "latency": there}
    folder = RunFolder(tmp_path)
    save_toml(run.load_config().model_copy(update=aim), folder.config)
    results = recover(task, Plan.load(run.plan), FinetuneConfig(epochs=0), folder)
    runtime = FakeRuntime(threads=2)
    assert (results.runtime, results.batch) == (runtime.description, 3)
    pruned, _ = load_model(folder.pruned)
    for row, model in zip(results.rows, (task.model, pruned), strict=True):
        forward = runtime.load(model, (task.example_inputs.repeat(3, 1, 1, 1),))
        assert row.latency_ms == pytest.approx(1e3 * runtime.time(forward)[0])


def test_a_runs_network_is_the_finetuned_one_where_there_is_one(finished, tmp_path):
    folder, _, _ = finished
    assert folder.network() == folder.finetuned
    bare = RunFolder(tmp_path)
    with pytest.raises(RunError, match="no network yet; cut it first: amc apply"):
        bare.network()
    bare.pruned.touch()
    assert bare.network() == bare.pruned


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunError, match="not the folder of a run"):
        RunFolder.open(tmp_path)
