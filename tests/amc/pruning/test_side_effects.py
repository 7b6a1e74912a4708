"""Looking at a network, slicing and proving it leaves it, and the process, as they were."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc.errors import AMCError, ModelError, VerificationError
from amc.pruning.find_units import find_units, read_units
from amc.pruning.slicing.masking import masked
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify
from amc.tracing.trace import trace
from tests.families import lively

NAMES = ("resnet20_a", "swin", "encoder", "maxvit", "unet", "waves", "timm_vit4", "gru")


def state(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that looking at it must not change, bit by bit."""
    found: dict[str, Any] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[f"tensor {name}"] = (
            id(tensor),
            tensor.data_ptr(),
            type(tensor),
            tensor.detach().clone(),
            tensor.requires_grad,
            tensor.is_inference(),
            tensor.device,
            None if tensor.grad is None else (id(tensor.grad), tensor.grad.clone()),
        )
    for path, module in model.named_modules():
        found[f"class {path}"] = type(module)
        found[f"attributes {path}"] = {
            name: (type(value), id(value) if not isinstance(value, int) else int(value))
            for name, value in vars(module).items()
        }
        for name, value in vars(module).items():
            if name.startswith("_") and isinstance(value, dict):
                found[f"{name} of {path}"] = {key: id(part) for key, part in value.items()}
    return found


def surroundings() -> dict[str, Any]:
    """What of the process a library could disturb."""
    return {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002 (the user's own)
        "python": random.getstate(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "attention": torch.backends.mha.get_fastpath_enabled(),
        "type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert same(value, after[key]), key


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def lived_in(name: str) -> tuple[nn.Module, Any, Counter[str]]:
    """A model as it comes out of a user's training script: flags mixed, gradients, hooks."""
    model, inputs, _ = lively(name)
    calls: Counter[str] = Counter()
    generator = np.random.default_rng(0)
    for number, module in enumerate(model.modules()):
        module.training = bool(generator.integers(2))
        if number % 3 == 0:
            module.register_forward_hook(lambda *_: calls.update(["forward"]))
            module.register_forward_pre_hook(lambda *_: calls.update(["before"]))
            module.register_full_backward_hook(lambda *_: calls.update(["backward"]))
    for parameter in model.parameters():
        parameter.requires_grad_(bool(generator.integers(2)))
        if generator.integers(2):
            parameter.grad = torch.full_like(parameter, 0.5)
    model.notes = {"epoch": 3, "scores": [1, 2, 3], "sizes": (12, 8), "nested": [[4], (5, 6)]}
    model.epoch, model.milestones = 7, [30, 60]
    return model, inputs, calls


def look(model: nn.Module, inputs: Any) -> nn.Module:
    """The whole path; the sliced network."""
    units = find_units(model, inputs)
    widths = [max(1, unit.width // 2) for unit in units]
    small = slice_model(model, units, widths)
    verify(model, small, units, widths, inputs)
    return small


@pytest.mark.parametrize("name", NAMES)
def test_the_model_and_the_process_are_as_before(name):
    model, inputs, _ = lived_in(name)
    before, around = state(model), surroundings()
    given = copy.deepcopy(inputs)
    look(model, inputs)
    assert_same(before, state(model))
    assert_same(around, surroundings())
    assert all(map(torch.equal, inputs, given))


MIDDLE = {
    "unet": "bottom.0",
    "swin": "features.3.0.mlp.0",
    "encoder": "encoder.layers.1.linear1",
    "timm_vit4": "blocks.4.mlp.fc1",
}
"""A module half way, called once in each forward."""


@contextmanager
def failing(model: nn.Module, name: str, at: int) -> Iterator[None]:
    """The ``at``-th forward of the model, its copies included, fails half way."""
    calls = iter(range(10_000))

    def fail(*_: Any) -> None:
        if next(calls) == at:
            raise ZeroDivisionError("in the forward")

    handle = model.get_submodule(MIDDLE[name]).register_forward_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("at", "error"),
    [(0, ModelError), (1, ZeroDivisionError), (2, None), (3, ZeroDivisionError)],
    ids=["trace", "twin", "slice", "second twin"],
)
@pytest.mark.parametrize("name", MIDDLE)
def test_a_forward_that_fails_half_way_changes_nothing(name, at, error):
    model, inputs, _ = lived_in(name)
    before, around = state(model), surroundings()
    # A slice that fails once is proven again, by halves.
    with failing(model, name, at), pytest.raises(error) if error else nullcontext():
        look(model, inputs)
    assert_same(before, state(model))
    assert_same(around, surroundings())


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_interruption_changes_nothing(error):
    model, inputs, _ = lived_in("swin")
    units = read_units(model, inputs)
    widths = [1 for _ in units]
    before, around = state(model), surroundings()

    def interrupt(*_: Any) -> None:
        raise error

    for start in (
        lambda: trace(model, inputs),
        lambda: verify(model, model, units, widths, inputs),
    ):
        handle = model.features[3].register_forward_pre_hook(interrupt)
        with pytest.raises((error, AMCError)):
            start()
        handle.remove()
        assert_same(before, state(model))
        assert_same(around, surroundings())
    with pytest.raises(error), masked(model, units, widths):
        raise error
    handles = {key for key in before if key.startswith("tensor")}
    after = state(model)
    for key in handles:  # inside the twin weights were written to, and back
        assert same(before[key][3], after[key][3])


def test_hooks_run_with_the_model_only():
    """Once a forward of the model itself, or of its copy; never backward; none is left behind."""
    model, inputs, calls = lived_in("unet")
    hooked = sum(1 for number, _ in enumerate(model.modules()) if number % 3 == 0)
    units = find_units(model, inputs)
    assert calls["forward"] == calls["before"] > 0
    assert calls["forward"] % hooked == 0  # whole forwards: the trace, twins and slices
    calls.clear()
    widths = [max(1, unit.width // 2) for unit in units]
    small = slice_model(model, units, widths)
    assert not calls
    verify(model, small, units, widths, inputs)
    # Twin and slice, and both again with weights that hide nothing.
    assert calls["forward"] == calls["before"] >= 2 * hooked
    assert calls["forward"] % (2 * hooked) == 0
    for ours, theirs in zip(model.modules(), small.modules(), strict=True):
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            assert len(getattr(ours, kind)) == len(getattr(theirs, kind))


@pytest.mark.parametrize("name", NAMES)
def test_slices_keep_flags_and_share_nothing(name):
    model, inputs, _ = lived_in(name)
    small = look(model, inputs)
    flags = {n: (p.requires_grad, p.dtype, p.is_leaf) for n, p in model.named_parameters()}
    assert {n: (p.requires_grad, p.dtype, p.is_leaf) for n, p in small.named_parameters()} == flags
    assert all(p.grad is None and not p.is_inference() for p in small.parameters())
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    ours = {t.data_ptr() for t in [*model.parameters(), *model.buffers()] if t.numel()}
    theirs = {t.data_ptr() for t in [*small.parameters(), *small.buffers()] if t.numel()}
    assert not ours & theirs
    assert small.notes == model.notes
    assert small.notes is not model.notes
    assert (small.epoch, small.milestones) == (7, [30, 60])
    assert type(small.epoch) is int


def test_the_users_modes_hold_inside_and_after():
    """Called under autocast, without gradients, in double precision by default."""
    model, inputs, _ = lively("unet")
    plain = look(model, inputs)
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            around = surroundings()
            small = look(model, inputs)
            assert_same(around, surroundings())
        assert all(map(torch.equal, small.state_dict().values(), plain.state_dict().values()))
    torch.set_default_dtype(torch.float64)
    try:
        small = look(model, inputs)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in small.parameters()} == {torch.float32}


def test_a_network_in_double_precision():
    model, (x,), _ = lively("unet")
    model, x = model.double(), x.double()
    units = find_units(model, x)
    widths = [max(1, unit.width // 2) for unit in units]
    small = slice_model(model, units, widths)
    assert verify(model, small, units, widths, x, tolerance=1e-12) < 1e-12


class Recorder(nn.Module):
    """Remembers its input, as feature extractors do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.calls = 5

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.b(self.a(x))
        return out


def test_a_counter_in_the_model_stays_a_plain_number():
    model = Recorder()
    look(model, torch.ones(1, 3, 4, 4))
    assert type(model.calls) is int


def test_tied_embeddings_stay_tied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.hidden = nn.Embedding(20, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 20, bias=False)
            self.head.weight = self.words.weight

        def forward(self, words: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(self.hidden(self.words(words))))
            return out

    model, words = Tied(), torch.arange(6).view(2, 3)
    before = state(model)
    small = look(model, words)
    assert small.head.weight is small.words.weight
    assert small.head.in_features == small.words.embedding_dim == small.hidden.out_features == 4
    assert_same(before, state(model))


def test_a_graph_from_before_can_still_be_walked_back():
    """A forward, then a look at the network, then the backward of that forward."""
    model, inputs, _ = lively("unet")
    loss = model(*inputs).square().mean()
    look(model, inputs)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def living(kind: type) -> Counter[type]:
    return Counter(type(x) for x in gc.get_objects() if issubclass(type(x), kind))


@pytest.mark.parametrize("name", ["waves", "encoder"])
def test_a_hundred_slices_leave_nothing_alive(name):
    model, inputs, _ = lively(name)
    units = find_units(model, inputs)
    generator = np.random.default_rng(0)

    def one() -> list[Callable[[], Any]]:
        widths = generator.integers(1, units.dense_widths, endpoint=True).tolist()
        small = slice_model(model, units, widths)
        verify(model, small, units, widths, inputs)
        return [weakref.ref(x) for x in (*small.modules(), *small.parameters())]

    one()
    gc.collect()
    modules, tensors = living(nn.Module), living(Tensor)
    gc.disable()  # reference counts alone must do: cycles would pile up between collections
    try:
        alive = [ref for _ in range(100) for ref in one() if ref() is not None]
    finally:
        gc.enable()
    assert alive == []
    assert living(nn.Module) == modules
    assert living(Tensor) == tensors


@pytest.mark.parametrize("name", ["waves", "swin", "encoder", "gru"])
def test_a_model_can_be_forgotten_while_its_units_are_kept(name):
    model, inputs, _ = lively(name)
    units = find_units(model, inputs)
    gc.collect()
    seen = [weakref.ref(x) for x in (*model.modules(), *model.parameters(), *model.buffers())]
    del model
    gc.collect()
    assert [x for x in seen if x() is not None] == []
    assert len(units) > 0


def test_failed_proofs_leave_nothing_alive():
    """Errors carry the frames that they came through, and with them whole networks."""
    model, inputs, _ = lively("waves")
    units = find_units(model, inputs)
    widths = [1 for _ in units]
    alive = []
    for _ in range(20):
        small = slice_model(model, units, widths)
        with torch.no_grad():
            next(small.parameters()).add_(1)
        with pytest.raises(VerificationError):
            verify(model, small, units, widths, inputs)
        alive.append(weakref.ref(small))
        del small
    gc.collect()
    assert [x for x in alive if x() is not None] == []
