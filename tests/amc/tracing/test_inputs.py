"""Every form of example inputs reaches the forward as its user means it."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amc.errors import ConfigError
from amc.tracing.inputs import Inputs, example_of, map_tensors, outputs_of, tensors_of


class Given(nn.Module):
    """Hands back what it was called with."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs


class OneDict(nn.Module):
    """Takes a batch as loaders collate it."""

    def forward(self, batch: Any) -> Any:
        return batch


class Keywords(nn.Module):
    """As Hugging Face's models."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, *, labels: Any = None):
        return input_ids, attention_mask, labels


class ListAndDict(nn.Module):
    """Two arguments that look like ``(args, kwargs)``."""

    def forward(self, views: list[Tensor], meta: dict[str, Tensor]) -> Any:
        return views, meta


class Encoding(UserDict):
    """As Hugging Face's tokenizers return: a mapping, no dict."""


A, B, C = (torch.full((2, 1), float(n)) for n in range(3))


@pytest.mark.parametrize(
    ("model", "given", "args", "kwargs"),
    [
        (Keywords(), A, (A,), {}),
        (Keywords(), [A, B], (A, B), {}),
        (Keywords(), (A, None), (A, None), {}),
        (Keywords(), {"input_ids": A, "labels": B}, (), {"input_ids": A, "labels": B}),
        (Keywords(), Encoding(input_ids=A), (), {"input_ids": A}),
        (Keywords(), ((A,), {"labels": B}), (A,), {"labels": B}),
        (Keywords(), ([A, B], {}), (A, B), {}),
        (Keywords(), Inputs(A, labels=B), (A,), {"labels": B}),
        (OneDict(), {"image": A}, ({"image": A},), {}),
        (OneDict(), {"batch": A}, (), {"batch": A}),
        (OneDict(), Inputs({"batch": A}), ({"batch": A},), {}),
        (OneDict(), {1: A}, ({1: A},), {}),
        (ListAndDict(), ([A, B], {"size": C}), ([A, B], {"size": C}), {}),
        (Given(), {"x": A}, (), {"x": A}),
        (nn.DataParallel(OneDict()), {"image": A}, ({"image": A},), {}),
    ],
)
def test_each_form_is_the_call_that_is_meant(model, given, args, kwargs):
    found = Inputs.of(given, model)
    assert (found.args, found.kwargs) == (args, kwargs)
    if not isinstance(model, nn.DataParallel):
        assert found.call(Given()) == (args, kwargs)


def test_keywords_come_in_the_order_of_the_signature():
    found = Inputs.of({"labels": A, "attention_mask": B, "input_ids": C}, Keywords())
    assert list(found.kwargs) == ["input_ids", "attention_mask", "labels"]
    assert found.tensors == [C, B, A]


@dataclass
class Result:
    """As Hugging Face's models return."""

    logits: Tensor
    states: tuple[Tensor, ...]
    name: str = ""


class Cache:
    """An object of a model's own, which refers to itself and to what is no output."""

    def __init__(self, *layers: Tensor) -> None:
        self.layers = [{"keys": layer} for layer in layers]
        self.me, self.owner = self, nn.Linear(1, 1)


def test_tensors_are_found_wherever_they_lie():
    assert tensors_of(A) == [A]
    assert tensors_of({"x": [A, None], "y": (B, {"z": C})}) == [A, B, C]
    assert tensors_of((Result(A, (B, C)), Encoding(x=A))) == [A, B, C, A]
    assert tensors_of(Cache(A, B)) == [A, B]
    normal = torch.distributions.Normal(A, B, validate_args=False)
    assert tensors_of(normal) == [normal.loc, normal.scale]


def test_a_change_reaches_all_tensors_and_leaves_the_original():
    given = (A, A, 3, Result(A, (B,), "x"), Encoding(y=B), Cache(C))
    x, again, three, result, encoding, cache = map_tensors(lambda t: t + 10, given)
    assert x is again  # attention asks whether its query is its key
    assert three == 3
    assert (result.logits, result.name) == (x, "x")
    assert type(encoding) is Encoding
    assert torch.equal(torch.cat([encoding["y"], cache.layers[0]["keys"]]), torch.cat([B, C]) + 10)
    assert cache.me is cache is not given[5]
    assert cache.owner is given[5].owner
    assert given[3].logits is A
    assert given[4]["y"] is B
    assert given[5].layers[0]["keys"] is C


def test_a_batch_changes_what_has_one():
    table, scale = torch.arange(9.0).view(3, 3), torch.tensor(2.0)
    given = Inputs(scale, torch.tensor([[1.0], [2.0]]), table=table, flag=True)
    more = given.with_batch(5)
    assert more.tensors[1].flatten().tolist() == [1, 2, 1, 2, 1]
    assert more.args[0] is scale
    assert more.kwargs == {"table": table, "flag": True}
    with pytest.raises(ConfigError, match="a batch needs inputs whose first dimension"):
        Inputs(scale).with_batch(2)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_example_has_the_type_that_the_network_computes_with(kind):
    model = nn.Linear(3, 2).to(kind)
    x = example_of(model, (4, 3))
    assert (x.dtype, x.shape) == (kind, (4, 3))
    assert torch.equal(x, example_of(model, (4, 3)))
    assert example_of(nn.ReLU(), (1,)).dtype is torch.float32


def test_keys_and_values_for_the_next_call_are_no_outputs():
    kind = type("DynamicCache", (Cache,), {"__module__": "transformers.cache_utils"})
    output = {"logits": A, "past": kind(A, B), "encoder": (B, [kind(A, B)])}
    assert outputs_of(output) == [A, B]
    assert tensors_of(output) == [A, A, B, B, A, B]
