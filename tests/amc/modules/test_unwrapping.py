"""Networks inside of wrappers, and such as have not all their tensors yet."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import amc
from amc.errors import ModelError
from amc.modules.checks import check_prunable
from amc.modules.completing import initialise_lazy_, ordinary_
from amc.modules.unwrapping import unwrapped
from amc.pruning.find_units import find_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, 6, 3),
        nn.Flatten(),
        nn.Linear(96, 4),
    )


def parts(wrap):
    model = net()
    model[0] = wrap(model[0])
    return model


WRAPPED = {
    "DataParallel": lambda: nn.DataParallel(net()),
    "OptimizedModule": lambda: torch.compile(net()),
    "AveragedModel": lambda: AveragedModel(torch.compile(net())),
    "part in parallel": lambda: parts(nn.DataParallel),
    "part compiled": lambda: parts(torch.compile),
    "compiled in place": lambda: (lambda m: (m.compile(), m)[1])(net()),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(net()),
}


def cut(model: nn.Module) -> tuple[list[str], nn.Module]:
    units = find_units(model, X)
    widths = [unit.width // 2 for unit in units]
    small = slice_model(model, units, widths)
    assert verify(model, small, units, widths, X) < 1e-5
    return [unit.name for unit in units], small


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_network_is_cut_like_the_network_itself(name):
    names, small = cut(WRAPPED[name]())
    expected, same = cut(net())
    assert names == expected
    assert type(small) is nn.Sequential
    assert all(map(torch.equal, small.parameters(), same.parameters()))
    task = amc.Task(WRAPPED[name](), X, evaluate=lambda _: {"accuracy": 1.0})
    assert [*dict(task.model.named_parameters())] == [*dict(net().named_parameters())]
    assert len(task.notes) == (name not in ("compiled in place", "SyncBatchNorm"))


def test_unwrapping_shares_the_tensors_and_leaves_the_original():
    model = parts(nn.DataParallel)
    plain, (note,) = unwrapped(model)
    assert "DataParallel" in note
    assert type(model[0]) is nn.DataParallel
    assert plain[0][0].weight is model[0].module[0].weight
    assert unwrapped(plain) == (plain, ())


def test_parameters_of_inference_mode_become_ordinary():
    with torch.inference_mode():
        model = net()
        model.append(nn.Linear(4, 4))
        model[4].weight, tied = model[3].weight, model[3].weight
    assert tied.is_inference()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    ordinary_(model)
    assert model[4].weight is model[3].weight
    tensors = model.state_dict(keep_vars=True)
    assert all(torch.equal(x, before[name]) for name, x in tensors.items())
    assert not any(x.is_inference() for x in tensors.values())
    model[:4](X).sum().backward()
    with torch.inference_mode():
        model = net()
    cut(model)[1](X).sum().backward()


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(4))


@pytest.mark.parametrize("inference", [False, True])
def test_lazy_layers_get_their_sizes_from_the_example(inference):
    with torch.inference_mode(inference):
        model = lazy()
    state = torch.get_rng_state()
    names, small = cut(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert names == ["0"]
    assert small[0].out_channels == 4
    again = amc.Task(lazy(), X, evaluate=lambda _: {"accuracy": 1.0}).model
    assert all(map(torch.equal, again.parameters(), model.parameters()))
    assert all(not isinstance(m, nn.modules.lazy.LazyModuleMixin) for m in again)


def test_lazy_layers_with_weights_of_a_file_keep_them():
    sized, model = lazy(), lazy()
    sized(X)
    model.load_state_dict(sized.state_dict())
    initialise_lazy_(model, lambda: model(X))
    assert all(map(torch.equal, model.parameters(), sized.parameters()))
    assert model[0].in_channels == 3


def test_lazy_layers_that_stay_so_are_named():
    with pytest.raises(ModelError, match=r"0 is lazy, and the forward"):
        find_units(lazy(), X[0, 0, 0])
    model = net()
    model.unused = nn.LazyLinear(3)
    model.forward = lambda x: nn.Sequential.forward(model[:4], x)
    with pytest.raises(ModelError, match="unused is lazy, and the example inputs do not reach it"):
        find_units(model, X)


def test_what_is_no_network_to_prune_is_refused_on_one_line():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear})
        prepared = net().train()
        prepared.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
        torch.ao.quantization.prepare_qat(prepared, inplace=True)
        frozen = torch.jit.freeze(torch.jit.script(net().eval()))
        exported = torch.export.export(net().eval(), (X,)).module()
    sums = net()
    sums.add = torch.ao.nn.quantized.FloatFunctional()  # in float networks, to be quantised later
    check_prunable(sums)
    for model, reason in (
        (quantised, "3 is quantised"),
        (prepared, "prepared for it"),
        (frozen, "a frozen script"),
        (exported, "no evaluation mode"),
    ):
        with pytest.raises(ModelError, match=reason) as caught:
            find_units(model, X)
        assert str(caught.value).isprintable()
