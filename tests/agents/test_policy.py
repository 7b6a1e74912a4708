from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from amc.agents.policy import Policy, Reached, TrainedOn, Training
from amc.agents.policy_network import Ensemble, make_single
from amc.envs.observation import FEATURES, FEATURES_VERSION
from amc.errors import ConfigError
from tests.fakes import drawn

LIBRARY = Path(__file__).parents[2] / "runs" / "policies"


def make_policy(*, ensemble: bool) -> Policy:
    actor = drawn(Ensemble((32, 16), 3) if ensemble else make_single((32, 16)), std=1.0)
    reached = Reached(kept={"macs": 0.5, "params": 0.66}, quality={"kl": 0.6})
    training = Training(network="amc:resnet20", units=10, episodes=150, reached=(reached,))
    budget = {"macs": (0.3, 0.8)}
    return Policy(actor, "projection", TrainedOn(budget=budget, networks=(training,)))


@pytest.fixture
def policy() -> Policy:
    return make_policy(ensemble=True)


def edit(folder: Path, **values: object) -> None:
    path = folder / "policy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("ensemble", [True, False])
def test_round_trip_is_exact(tmp_path: Path, ensemble: bool) -> None:
    policy = make_policy(ensemble=ensemble)
    policy.save(tmp_path / "policy")
    state = torch.random.get_rng_state()
    loaded = Policy.load(tmp_path / "policy")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (loaded.constraint, loaded.trained_on) == (policy.constraint, policy.trained_on)
    observations = np.random.default_rng(0).uniform(-1, 1, (50, len(FEATURES)))
    for observation in observations.astype(np.float32):
        action = policy.act(observation)
        assert action.shape == (1,)
        assert action.dtype == np.float32
        assert -1 <= action[0] <= 1
        np.testing.assert_array_equal(loaded.act(observation), action)


def test_beyond_the_end_of_the_actions_is_as_far_as_it_goes() -> None:
    actor = Ensemble((16,), 3)
    with torch.no_grad():
        actor.biases[-1].fill_(1.5)  # all agree
    observations = np.random.default_rng(0).uniform(-1, 1, (9, len(FEATURES))).astype(np.float32)
    policy = Policy(actor, "projection")
    with torch.no_grad():
        wanted = actor(torch.from_numpy(observations))[:, 0].numpy()
    assert wanted.max() > 1 > wanted.min()
    acts = [policy.act(observation)[0] for observation in observations]
    np.testing.assert_allclose(acts, np.clip(wanted, -1, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"format": "amc.policy/2"},
            r"format: Input should be 'amc.policy/1' \(got 'amc.policy/2'\)",
        ),
        (
            {"features_version": 99},
            f"version 99 of the features, this is version {FEATURES_VERSION}",
        ),
        ({"features": ["position"]}, "train the policy again"),
        ({"hidden": [32, 17]}, "do not fit policy.json"),
        ({"members": None}, "do not fit policy.json"),
        ({"members": 4}, "do not fit policy.json"),
        ({"members": 10**9, "hidden": [10**6]}, "do not fit policy.json"),
        ({"members": 1}, "members: Input should be greater than or equal to 2"),
        ({"constraint": "clip"}, "constraint"),
        ({"surprise": 1}, "surprise"),
        ({"trained_on": {"budget": {"macs": "half"}}}, "trained_on.budget.macs"),
        ({"trained_on": {"networks": [{"units": 3}]}}, "trained_on.networks.0.episodes"),
    ],
)
def test_tampered_description(
    policy: Policy, tmp_path: Path, values: dict[str, object], message: str
) -> None:
    policy.save(tmp_path)
    edit(tmp_path, **values)
    with pytest.raises(ConfigError, match=message):
        Policy.load(tmp_path)


def test_tampered_weights(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    path = tmp_path / "actor.safetensors"
    weights = load_file(path)
    weights["biases.0"][2, 0, 3] = torch.nan
    save_file(weights, path)
    with pytest.raises(ConfigError, match=r"biases\.0 holds .* not finite float32"):
        Policy.load(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="not a readable safetensors"):
        Policy.load(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="not a readable safetensors"):
        Policy.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_not_a_description(policy: Policy, tmp_path: Path, text: str) -> None:
    policy.save(tmp_path)
    (tmp_path / "policy.json").write_text(text)
    with pytest.raises(ConfigError, match=r"policy\.json"):
        Policy.load(tmp_path)


@pytest.mark.parametrize(
    "folder", sorted(LIBRARY.glob("*/policy.json")), ids=lambda f: f.parent.name
)
def test_the_library_is_of_this_version(folder: Path) -> None:
    chosen = Policy.load(folder.parent)
    assert chosen.trained_on.networks
    assert sum(f.stat().st_size for f in folder.parent.iterdir()) < 10**6
