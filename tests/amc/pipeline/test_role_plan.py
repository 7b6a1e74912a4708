"""Plans by role: onto the same network exactly, onto siblings by kind, stage and relative depth."""

import json

import numpy as np
import pytest
import torch

from amc.config import ModelConfig
from amc.errors import ModelError, PlanError
from amc.models.factory import build_model
from amc.pipeline.role_plan import RolePlan, positions_of
from amc.pruning.find_units import read_units
from amc.pruning.plan import plan_of

INPUTS = (1, 3, 32, 32)


@pytest.fixture(scope="module")
def source(subject):
    """A plan of ResNet-20 whose keeps differ from unit to unit, and its units."""
    network = subject("resnet20")
    keeps = np.linspace(0.25, 0.9, len(network.units))
    widths = [
        max(1, round(keep * unit.width)) for keep, unit in zip(keeps, network.units, strict=True)
    ]
    cost = network.cost
    plan = plan_of(
        cost,
        widths,
        weights_sha256="0" * 64,
        model=ModelConfig(spec="amc:resnet20", weights="gone.safetensors"),
        example_inputs=torch.zeros(INPUTS),
    )
    return plan, network.units


def units_of(spec, **arguments):
    model = build_model(ModelConfig(spec=spec, arguments=arguments))
    return read_units(model, torch.zeros(INPUTS))


def test_on_its_own_network_a_plan_is_what_it_was(source):
    plan, units = source
    keeps = RolePlan.traced(plan, "plan.json").keeps(units)
    assert [round(k * u.width) for k, u in zip(keeps, units, strict=True)] == list(plan.widths())
    assert keeps == tuple(w / u.width for w, u in zip(plan.widths(), units, strict=True))


def test_a_deeper_sibling_gets_each_stage_at_the_same_relative_depth(source):
    plan, units = source
    own = {u.name: w / u.width for w, u in zip(plan.widths(), units, strict=True)}
    deep = units_of("amc:resnet56")
    keeps = dict(
        zip([u.name for u in deep], RolePlan.traced(plan, "plan.json").keeps(deep), strict=True)
    )
    stream = next(u.name for u in units if u.kind == "stream")
    assert keeps[stream] == own[stream]
    for stage in (1, 2, 3):
        three = [own[f"layer{stage}.{i}.conv1"] for i in range(3)]
        nine = [keeps[f"layer{stage}.{i}.conv1"] for i in range(9)]
        # The middles of thirds lie at 1/6, 1/2 and 5/6; those of ninths at 1/18, 3/18, ...
        expected = np.interp((np.arange(9) + 0.5) / 9, (np.arange(3) + 0.5) / 3, three)
        assert nine == pytest.approx(expected)
        assert (nine[1], nine[4], nine[7]) == pytest.approx(three)


def test_other_kinds_get_the_mean_and_other_stages_the_nearest(source):
    plan, units = source
    by_role = RolePlan.traced(plan, "plan.json")
    own = [w / u.width for w, u in zip(plan.widths(), units, strict=True)]
    vgg = units_of("amc:vgg11_bn")
    roles = positions_of(vgg)
    assert [role.stage for role in roles] == sorted(role.stage for role in roles)
    assert (roles[0].stage, roles[-1].stage) == (0, 1)
    convs = [k for k, u in zip(own, units, strict=True) if u.kind == "conv"]
    for keep, unit in zip(by_role.keeps(vgg), vgg, strict=True):
        if unit.kind == "conv":
            assert min(convs) <= keep <= max(convs)
        else:
            assert keep == pytest.approx(np.mean(own))


def test_what_is_kept_with_a_run_needs_no_network(source, tmp_path):
    plan, _ = source
    by_role = RolePlan.traced(plan, "plan.json")
    by_role.save(tmp_path / "role-plan.json")
    loaded = RolePlan.load(tmp_path / "role-plan.json")
    assert loaded == by_role
    values = json.loads((tmp_path / "role-plan.json").read_text())
    for change in ({"format": "amc.role-plan/2"}, {"units": []}, {"kept_macs": 2}, {"more": 1}):
        (tmp_path / "bad.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(PlanError, match=next(iter(change))):
            RolePlan.load(tmp_path / "bad.json")
    with pytest.raises(PlanError, match="no such file"):
        RolePlan.load(tmp_path / "absent.json")


def test_a_plan_without_its_network_is_refused(source):
    plan, _ = source
    with pytest.raises(PlanError, match="names no factory"):
        RolePlan.traced(plan.model_copy(update={"model": None}), "mine.json")
    foreign = plan.model_copy(update={"model": ModelConfig(spec="nets/evil.py:make")})
    with pytest.raises(ModelError, match=r"mine\.json names nets/evil\.py:make"):
        RolePlan.traced(foreign, "mine.json")
    other = plan.model_copy(update={"model": ModelConfig(spec="amc:vgg11_bn")})
    with pytest.raises(PlanError, match="'conv1' is none of its network's"):
        RolePlan.traced(other, "mine.json")
