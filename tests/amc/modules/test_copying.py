"""Copies of networks that hold what nobody can copy."""

from __future__ import annotations

import copy
import functools
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from amc.errors import ModelError
from amc.modules.copying import Copyable, copy_model
from amc.pruning.find_units import find_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify


class Net(nn.Module):
    """A small network, and whatever hangs on it."""

    def __init__(self, **held: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU())
        self.head = nn.Conv2d(6, 4, 1)
        vars(self).update(held)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.net(x)).mean((2, 3))
        return out


class Holder:
    """An object of the user's, with a lock and a table."""

    def __init__(self) -> None:
        self.lock, self.table = threading.Lock(), {"scale": torch.ones(3)}


def scripted_function() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(torch.nn.functional.softsign)


def hooked() -> nn.Module:
    model = Net()
    model.net[0].register_forward_hook(functools.partial(lambda *_: None, threading.Lock()))
    return model


def cached() -> nn.Module:
    model = Net()
    model.seen = [model.net(torch.ones(1, 3, 8, 8))]
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "lock": lambda: Net(lock=threading.Lock()),
    "condition": lambda: Net(condition=threading.Condition()),
    "file": lambda: Net(log=Path(__file__).open()),  # noqa: SIM115
    "scripted function": lambda: Net(act=scripted_function()),
    "generator": lambda: Net(batches=(n for n in range(3))),
    "torch generator": lambda: Net(noise=torch.Generator()),
    "module": lambda: Net(torch=torch),
    "thread": lambda: Net(worker=threading.Thread(target=print)),
    "nested": lambda: Net(settings={"a": [threading.Lock(), {"b": Holder()}], "c": (1, {2})}),
    "hook": hooked,
    "result": cached,
}


@pytest.mark.parametrize("name", MODELS)
def test_what_cannot_be_copied_hinders_nothing(name):
    model, x = MODELS[name](), torch.randn(2, 3, 8, 8)
    units = find_units(model, x)
    widths = [unit.width // 2 for unit in units]
    small = slice_model(model, units, widths)
    assert verify(model, small, units, widths, x) < 1e-5
    assert [small.net[0].out_channels, small.net[2].out_channels] == [4, 3]
    copied = copy_model(small)  # and a copy of the copy trains by itself
    before = {name: y.clone() for name, y in small.state_dict().items()}
    copied(x).sum().backward()
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter -= parameter.grad
    assert all(torch.equal(y, before[name]) for name, y in small.state_dict().items())
    for held in vars(model).values():
        if hasattr(held, "close"):
            held.close()


def test_only_what_must_be_shared_is_shared():
    holder, lock = Holder(), threading.Lock()
    model = Net(holder=holder, both=[lock, {"sizes": [1, 2]}], again=lock)
    copied = copy_model(model)
    assert copied.holder is not holder
    assert copied.holder.lock is holder.lock
    assert copied.holder.table["scale"] is not holder.table["scale"]
    assert copied.both is not model.both
    assert copied.both[0] is copied.again is lock
    assert copied.both[1] == model.both[1]
    assert copied.both[1]["sizes"] is not model.both[1]["sizes"]
    plain = Net()
    assert all(map(torch.equal, copy_model(plain).parameters(), copy.deepcopy(plain).parameters()))


def test_results_are_detached_and_tensors_stay_one():
    model = cached()
    model.same = model.head.weight
    copied = copy_model(model)
    assert torch.equal(copied.seen[0], model.seen[0])
    assert copied.seen[0].grad_fn is None
    assert copied.seen[0].data_ptr() != model.seen[0].data_ptr()
    assert copied.same is copied.head.weight is not model.head.weight


def test_weak_references_follow_the_copy():
    model = Net()
    model.net[0].owner, model.lock = weakref.ref(model), threading.Lock()
    copied = copy_model(model)
    assert copied.net[0].owner() is copied
    assert model.net[0].owner() is model


class Stubborn(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("never\ncopied")


def test_a_part_that_refuses_is_named_on_one_line():
    model = Net(lock=threading.Lock())
    model.last = Stubborn(2, 2)
    with pytest.raises(ModelError) as caught:
        copy_model(model)
    assert "Stubborn" in str(caught.value)
    assert "never copied" in str(caught.value)
    assert str(caught.value).isprintable()


def test_others_code_copies_by_ours():
    model = Net(lock=threading.Lock())
    average = AveragedModel(Copyable(model))
    assert type(average.module) is Net
    assert average.module.lock is model.lock
    assert average.module.head.weight is not model.head.weight


@pytest.mark.parametrize("whole", [True, False])
def test_scripted_networks_are_cut_and_trained(whole):
    x = torch.randn(2, 3, 8, 8)
    model = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if whole:
            model = torch.jit.script(nn.Sequential(model.net, model.head))
        else:
            model.net = torch.jit.script(model.net)
    units = find_units(model, x)
    widths = [unit.width // 2 for unit in units]
    small = slice_model(model, units, widths)
    assert len(units) == 2
    assert verify(model, small, units, widths, x) < 1e-5
    assert sum(p.numel() for p in small.parameters()) == (27 + 1) * 4 + (36 + 1) * 3 + 3 * 4 + 4
    assert all(parameter.is_leaf for parameter in small.parameters())
    torch.optim.SGD(small.parameters(), 0.1)
    small(x).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
