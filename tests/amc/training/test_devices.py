"""Two processes that share each batch do what one does, and go on from checkpoints like one."""

from __future__ import annotations

import copy
import socket
from typing import Any

import pytest
import torch
from torch import multiprocessing, nn

from amc.errors import ConfigError
from amc.training.devices import Devices, SeveralDevices, devices
from amc.training.distillation.features import ProjectedFeatures
from amc.vision.data import ImageData
from tests.amc.training import two_processes as they

pytest.importorskip("accelerate")
Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    """What each of two processes has come to."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(they.run, args=(folder, port), nprocs=2)
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    return first, second


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same_training(one: Found, other: Found) -> None:
    """To rounding."""
    assert one["lr"] == other["lr"]
    assert one["kept"] == other["kept"]
    assert len(one["epochs"]) == len(other["epochs"])
    for epochs in zip(one["epochs"], other["epochs"], strict=True):
        mine, theirs = ({**e.pop("losses"), **e} for e in copy.deepcopy(epochs))
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert value == (value if value is None else pytest.approx(theirs[name], rel=1e-4))
    for name, tensor in one["state"].items():
        torch.testing.assert_close(tensor, other["state"][name], rtol=1e-4, atol=1e-5)


def assert_same_bits(one: Found, other: Found) -> None:
    assert one["epochs"] == other["epochs"]
    assert one["kept"] == other["kept"]
    assert one["state"].keys() == other["state"].keys()
    assert all(torch.equal(one["state"][name], other["state"][name]) for name in one["state"])


def test_two_processes_train_as_one(
    found: tuple[Found, Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The recipe has all defaults: augmentation, moving average, a rate by trials.
    monkeypatch.setattr(ProjectedFeatures, "forward", ProjectedFeatures.forward)
    they.linear_in_the_batch()
    alone = they.trained(they.WHOLE, norm=False)
    assert set(alone["epochs"][0]["losses"]) == {"labels", "kd", "features"}
    assert alone["epochs"][-1]["train_loss"] < 0.97 * alone["epochs"][0]["train_loss"]
    assert alone["kept"] != "pruned"
    assert_same_training(found[0]["whole"], alone)
    assert_same_bits(found[0]["whole"], found[1]["whole"])


def test_what_one_process_cannot_read_does_not_count(found: tuple[Found, Found]) -> None:
    data, team = they.images(), Devices()
    part = ImageData(**{**vars(data), "train": they.Unreadable(data.train, team, 3)})
    alone = they.trained(they.SHORT, norm=False, data=part)
    assert_same_training(found[0]["short"], alone)
    assert_same_bits(found[0]["short"], found[1]["short"])


def test_an_interrupted_training_of_two_ends_with_the_same_bits(
    found: tuple[Found, Found],
) -> None:
    # With BatchNorm, whose statistics each process has of its part: the first one's count.
    assert any("goes on after step" in note for note in found[0]["resumed"]["notes"])
    for first, second in [(f["whole run"], f["resumed"]) for f in found]:
        assert_same_bits(first, second)
    assert_same_bits(found[0]["resumed"], found[1]["resumed"])


def test_both_end_with_the_same_error(found: tuple[Found, Found]) -> None:
    assert "EvaluationError" in found[0]["diverging"]
    assert "the loss is not finite" in found[0]["diverging"]
    assert "batches of 2 images are too small for 2 processes" in found[0]["tiny"]
    for kind in ("diverging", "tiny"):
        assert found[0][kind] == found[1][kind]


def test_a_process_that_ends_is_not_waited_for(found: tuple[Found, Found]) -> None:
    assert "do not see the same checkpoints" in found[1]["lost"]
    assert "process 1 of 2 has lost the others" in found[0]["lost"]


def test_each_draws_its_own_numbers(found: tuple[Found, Found]) -> None:
    torch.manual_seed(7)
    assert torch.equal(found[0]["drawn"][0], torch.rand(3))  # as alone
    (one, again, later) = found[1]["drawn"]
    assert torch.equal(one, again)
    assert not torch.equal(one, found[0]["drawn"][0])
    assert not torch.equal(one, later)


def test_the_first_one_decides(found: tuple[Found, Found]) -> None:
    first, second = found
    assert first["agreed"] == second["agreed"] == (0.0, 0.1)
    expected = they.network(0, norm=True)[1:3].state_dict()
    for one in (first, second):
        assert one["shared"].pop("flag").tolist() == [True, True, False]
        assert one["shared"].keys() == expected.keys()
        assert all(torch.equal(one["shared"][name], expected[name]) for name in expected)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_parts_make_up_the_batch(count: int) -> None:
    team = Devices()
    team.count = count
    for images in range(40):
        seen: list[int] = []
        sizes = set()
        for rank in range(count):
            team.rank = rank
            mine = list(range(images))[team.part(images)]
            seen += mine
            sizes.add(len(mine))
        assert seen == list(range(images))
        assert max(sizes) - min(sizes) <= 1


class _Activated(nn.BatchNorm2d):
    """As timm has it: more than a BatchNorm."""


def test_synchronised_is_a_copy_with_the_same_names() -> None:
    # On GPUs, in a team that was not started: what it computes needs several of them.
    team = SeveralDevices.__new__(SeveralDevices)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2), _Activated(2)))
    model[1][0].running_mean.fill_(3)
    team.device = "cpu"
    assert team.synchronised(model) is model
    team.device = "cuda:0"
    copied = team.synchronised(model)
    kinds = [type(module) for module in copied.modules()]
    assert nn.SyncBatchNorm in kinds
    assert nn.BatchNorm2d not in kinds
    assert _Activated in kinds
    assert copied.state_dict().keys() == model.state_dict().keys()
    model.load_state_dict({k: v + 1 for k, v in copied.state_dict().items()})
    assert model[1][0].running_mean.tolist() == [4, 4]
    assert copied[1][0].running_mean.tolist() == [3, 3]
    assert type(model[1][0]) is nn.BatchNorm2d


def test_several_processes_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert type(devices()) is Devices
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(ConfigError, match=r"amc-agent\[distributed\]"):
        devices()
