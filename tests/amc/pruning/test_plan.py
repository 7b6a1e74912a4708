"""The plan file: what goes in comes out, and nothing unsound comes in."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from amc.config import ModelConfig
from amc.errors import PlanError
from amc.models.weights import weights_sha256
from amc.pruning.find_units import read_units
from amc.pruning.plan import Plan, plan_of
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify


def plan_for(s, seed: int = 0) -> tuple[Plan, list[int]]:
    """A plan of random widths for a subject."""
    widths = np.random.default_rng(seed).integers(1, s.units.dense_widths).tolist()
    plan = plan_of(
        s.cost,
        widths,
        weights_sha256=weights_sha256(s.model),
        model=s.config,
        quality={"accuracy": 0.5, "kl": 1.25},
        example_inputs=s.inputs,
    )
    return plan, widths


@pytest.fixture
def saved(subject, tmp_path):
    plan, _ = plan_for(subject("resnet20"))
    path = tmp_path / "plan.json"
    plan.save(path)
    return path


def test_a_plan_survives_its_file_and_replaces_an_older_one(subject, tmp_path):
    s = subject("mobilenet_v2")
    path = tmp_path / "plan.json"
    plan_for(s, seed=1)[0].save(path)
    plan, widths = plan_for(s)
    plan.save(path)
    found = Plan.load(path)
    assert found == plan
    assert found.widths() == tuple(widths)
    assert found.model == s.config
    assert json.loads(path.read_text())["format"] == "amc.plan/2"
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_the_same_plan_gives_the_same_bits_whatever_ranked_the_channels(subject):
    s = subject("resnet20")
    plan, widths = plan_for(s)
    small = slice_model(s.model, s.units, widths)
    # Units fresh from a trace: in the order of their channels, with frozen ones not yet told apart.
    again = plan.order(read_units(s.model, s.inputs))
    twin = slice_model(s.model, again, plan.widths())
    assert small.state_dict().keys() == twin.state_dict().keys()
    assert all(map(torch.equal, small.state_dict().values(), twin.state_dict().values()))
    assert verify(s.model, twin, again, plan.widths(), s.inputs) < 1e-5
    assert plan_for(s)[0].model_dump_json() == plan.model_dump_json()


def test_ordering_ranks_the_kept_groups_first_and_drops_units_kept_whole(subject):
    s = subject("resnet20")
    plan, widths = plan_for(s)
    part = plan.model_copy(update={"units": plan.units[2:4]})
    units = part.order(s.units)
    assert [unit.name for unit in units] == [unit.name for unit in s.units[2:4]]
    for unit, dense, width in zip(units, s.units[2:4], widths[2:4], strict=True):
        assert unit.kept(width).tolist() == dense.kept(width).tolist()
        assert sorted(unit.order) == list(range(unit.width))


def test_a_plan_of_another_network_is_refused(subject):
    plan, _ = plan_for(subject("resnet20"))
    with pytest.raises(PlanError, match=r"unit 'conv1' \(width 16\) does not fit.*no such unit"):
        plan.order(subject("vgg11_bn").units)
    with pytest.raises(PlanError, match=r"unit 'conv1' \(width 16\).*has it with width 32"):
        plan.order(subject("smallcnn").units)


def edit(data: dict, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for key in parents:
        data = data[int(key)] if isinstance(data, list) else data[key]
    if value is ...:
        del data[last]
    else:
        data[int(last) if isinstance(data, list) else last] = value


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("format", "amc.plan/3"),
        ("format", 1),
        ("model", "amc:resnet20"),
        ("model.spec", ...),
        ("model.extra", 1),
        ("weights_sha256", ...),
        ("weights_sha256", None),
        ("input_shape", "1,3,32,32"),
        ("units", ...),
        ("units", {}),
        ("units.0.name", ...),
        ("units.0.name", "layer1.0.conv1"),  # twice
        ("units.0.width", 0),
        ("units.0.width", "wide"),
        ("units.0.kept", [0, 0]),
        ("units.0.kept", [16]),
        ("units.0.kept", [-1]),
        ("units.0.kept", [0.5]),
        ("units.0.more", 1),
        ("costs", ...),
        ("costs.macs", ...),
        ("costs.macs", "many"),
        ("costs.params", None),
        ("dense_costs.macs", 1.5),
        ("dense_costs.params", []),
        ("quality", {"accuracy": "good"}),
        ("quality", [0.5]),
        ("surplus", 1),
    ],
)
def test_each_field_is_checked_on_loading(saved, where, value):
    data = json.loads(saved.read_text())
    edit(data, where, value)
    saved.write_text(json.dumps(data))
    with pytest.raises(PlanError, match=r"plan\.json: not a sound plan: ") as caught:
        Plan.load(saved)
    if where != "units.0.name" and not where.startswith("units.0.kept"):
        assert where.split(".")[-1] in str(caught.value)


@pytest.mark.parametrize(
    ("where", "value"),
    [("units.3.name", "layer9.conv"), ("units.3.width", 999)],
)
def test_a_unit_that_does_not_fit_is_found_on_applying(saved, subject, where, value):
    data = json.loads(saved.read_text())
    edit(data, where, value)
    saved.write_text(json.dumps(data))
    with pytest.raises(PlanError, match=r"does not fit.*was the plan made for another model"):
        Plan.load(saved).order(subject("resnet20").units)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"format": 1}'])
def test_files_that_are_no_plan(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=r"plan\.json: not a (sound )?plan"):
        Plan.load(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(PlanError, match=r"missing\.json: no such file"):
        Plan.load(tmp_path / "missing.json")
    with pytest.raises(PlanError, match="cannot be read: Is a directory"):
        Plan.load(tmp_path)


def test_truncated_files_are_never_a_plan(saved):
    text = saved.read_text().rstrip()
    for length in range(0, len(text), 97):
        saved.write_text(text[:length])
        with pytest.raises(PlanError):
            Plan.load(saved)


def test_a_plan_needs_no_factory(subject):
    s = subject("smallcnn")
    plan = plan_of(s.cost, s.units.dense_widths, weights_sha256="0" * 64)
    assert plan.model is None
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert plan.model != ModelConfig(spec="amc:smallcnn")


def test_the_hash_sees_every_tensor_and_its_name(subject):
    s = subject("smallcnn")
    model = copy.deepcopy(s.model)
    dense = weights_sha256(model)
    assert dense == weights_sha256(s.model)
    assert len(dense) == 64
    assert dense == weights_sha256(model.train())  # flags are no weights
    seen = {dense}
    for tensor in model.state_dict().values():
        before = tensor.clone()
        tensor.view(-1)[-1] += 1
        seen.add(weights_sha256(model))
        tensor.copy_(before)
    assert weights_sha256(model) == dense
    assert len(seen) == 1 + len(model.state_dict())
    seen.add(weights_sha256(copy.deepcopy(model).half()))
    model.other = model.__dict__["_modules"].pop("linear")
    seen.add(weights_sha256(model))
    assert len(seen) == 3 + len(model.state_dict())
