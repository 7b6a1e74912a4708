"""Attention modules of ours against the libraries' own: nothing removed, and heads removed."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from amc.pruning.find_units import find_units
from amc.pruning.slicing.masking import masked
from amc.pruning.slicing.slice import slice_model, state_sizes
from amc.pruning.slicing.verification import verify
from amc.tracing.attention import SlicedMultiheadAttention
from amc.tracing.torchvision_attention import (
    SlicedRelativeAttention,
    SlicedWindowAttention,
    SlicedWindowAttentionV2,
)
from tests.families import subject

HEADS, SIZE, WIDTH, TARGETS, SOURCES = 4, 3, 12, 5, 7
KEPT = [0, 2, 3]
"""Heads that stay where one is removed."""


def attention(**options: Any) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(WIDTH, HEADS, **options).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return module


def as_sliced(module: nn.MultiheadAttention) -> SlicedMultiheadAttention:
    """An equal copy, with nothing removed."""
    ours = copy.deepcopy(module)
    ours.__class__ = SlicedMultiheadAttention
    return ours


def without_heads(module: nn.MultiheadAttention) -> nn.Module:
    """A copy from which one head has been cut by hand."""
    ours = copy.deepcopy(module)
    rows = torch.cat([torch.arange(SIZE) + SIZE * head for head in KEPT])
    thrice = torch.cat([rows + part * WIDTH for part in range(3)])
    ours.in_proj_weight = nn.Parameter(module.in_proj_weight[thrice])
    if module.in_proj_bias is not None:
        ours.in_proj_bias = nn.Parameter(module.in_proj_bias[thrice])
    ours.out_proj.weight = nn.Parameter(module.out_proj.weight[:, rows])
    state_sizes(ours)
    assert type(ours) is SlicedMultiheadAttention
    return ours


def with_heads_unread(module: nn.MultiheadAttention) -> nn.MultiheadAttention:
    """A copy whose output projection does not read the removed head."""
    theirs = copy.deepcopy(module)
    with torch.no_grad():
        columns = theirs.out_proj.weight.view(WIDTH, HEADS, SIZE)
        columns[:, [head for head in range(HEADS) if head not in KEPT]] = 0
    return theirs


MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "padding": {"key_padding_mask": bool},
    "float padding": {"key_padding_mask": float},
    "2-D": {"attn_mask": (bool, 2)},
    "2-D float": {"attn_mask": (float, 2)},
    "3-D": {"attn_mask": (bool, 3)},
    "3-D float": {"attn_mask": (float, 3)},
    "2-D and padding": {"attn_mask": (bool, 2), "key_padding_mask": bool},
    "3-D float and padding": {"attn_mask": (float, 3), "key_padding_mask": float},
}


def call(
    layout: str, mask: str, crossed: bool, heads: int = HEADS
) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor]]:
    """Inputs and masks for two sentences, or for one without a batch."""
    generator = torch.Generator().manual_seed(1)
    batch, sources = (1 if layout == "unbatched" else 2), SOURCES if crossed else TARGETS

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def masking(kind: type, *shape: int) -> Tensor:
        hidden = draw(*shape) > 0.5
        hidden[..., 0] = False  # every token looks at something
        return hidden if kind is bool else hidden * draw(*shape)

    query = draw(batch, TARGETS, WIDTH)
    key, value = (draw(batch, sources, WIDTH) for _ in range(2)) if crossed else (query, query)
    masks = {}
    for name, kind in MASKS[mask].items():
        if name == "key_padding_mask":
            masks[name] = masking(kind, batch, sources)
            if layout == "unbatched":
                masks[name] = masks[name][0]
        else:
            kind, rank = kind
            masks[name] = masking(kind, *[batch * heads] * (rank - 2), TARGETS, sources)
    if layout == "unbatched":
        return (query[0], key[0], value[0]), masks
    if layout == "batch second":
        return (query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)), masks
    return (query, key, value), masks


layouts = pytest.mark.parametrize("layout", ["batch first", "batch second", "unbatched"])
masks = pytest.mark.parametrize("mask", MASKS)
asked = pytest.mark.parametrize("asked", ["mean", "each head", "none"])
WEIGHTS = {
    "mean": {},
    "each head": {"average_attn_weights": False},
    "none": {"need_weights": False},
}


@layouts
@masks
@asked
def test_with_nothing_removed_it_is_pytorchs_attention(layout, mask, asked):
    for crossed, bias in itertools.product((False, True), (False, True)):
        theirs = attention(bias=bias, batch_first=layout == "batch first")
        inputs, masking = call(layout, mask, crossed)
        with no_mask_advice():
            expected = theirs(*inputs, **masking, **WEIGHTS[asked])
        actual = as_sliced(theirs)(*inputs, **masking, **WEIGHTS[asked])
        torch.testing.assert_close(actual, expected)


@layouts
@masks
@asked
def test_with_a_head_removed_it_is_pytorchs_attention_that_does_not_read_it(layout, mask, asked):
    for crossed, bias in itertools.product((False, True), (False, True)):
        dense = attention(bias=bias, batch_first=layout == "batch first")
        inputs, masking = call(layout, mask, crossed)
        batch = 1 if layout == "unbatched" else 2
        with no_mask_advice():
            expected = with_heads_unread(dense)(*inputs, **masking, **WEIGHTS[asked])[0]
            _, weights = dense(*inputs, **masking, average_attn_weights=False)
        if mask.startswith("3-D"):
            heads = masking["attn_mask"].view(batch, HEADS, TARGETS, -1)[:, KEPT]
            masking["attn_mask"] = heads.flatten(0, 1)
        actual, found = without_heads(dense)(*inputs, **masking, **WEIGHTS[asked])
        torch.testing.assert_close(actual, expected)
        kept = weights[..., KEPT, :, :]
        if asked == "none":
            assert found is None
        else:
            torch.testing.assert_close(found, kept.mean(-3) if asked == "mean" else kept)


class no_mask_advice(warnings.catch_warnings):
    """PyTorch advises against masks of two kinds, and goes on."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", "Support for mismatched")


def test_what_attends_to_itself_causally_needs_no_mask_of_its_own():
    """With a hint and a mask, as ``nn.Transformer`` gives them, the mask counts."""
    theirs = attention(batch_first=True)
    (x, _, _), _ = call("batch first", "none", False)
    mask = nn.Transformer.generate_square_subsequent_mask(TARGETS)
    for need in (True, False):
        expected, _ = theirs(x, x, x, attn_mask=mask, is_causal=True, need_weights=need)
        actual, _ = as_sliced(theirs)(x, x, x, attn_mask=mask, is_causal=True, need_weights=need)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_acts_in_training_only(need_weights):
    ours = without_heads(attention(dropout=0.5, batch_first=True))
    (x, _, _), _ = call("batch first", "none", False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (ours(x, x, x, need_weights=need_weights)[0] for _ in range(2))
        assert torch.equal(first, second)
        ours.train()
        first, second = (ours(x, x, x, need_weights=need_weights)[0] for _ in range(2))
        assert not torch.allclose(first, second)
        dropped = torch.stack([ours(x, x, x, need_weights=need_weights)[0] for _ in range(2000)])
    ours.eval()
    torch.testing.assert_close(dropped.mean(0), ours(x, x, x)[0], atol=0.15, rtol=0)


def test_dense_attention_keeps_its_class_and_the_stream_alone_changes_it():
    module = attention()
    state_sizes(module)
    assert type(module) is nn.MultiheadAttention
    narrow = copy.deepcopy(module)
    narrow.in_proj_weight = nn.Parameter(module.in_proj_weight[:, :10])
    narrow.out_proj.weight = nn.Parameter(module.out_proj.weight[:10])
    narrow.out_proj.bias = nn.Parameter(module.out_proj.bias[:10])
    state_sizes(narrow)
    assert type(narrow) is SlicedMultiheadAttention
    assert (narrow.embed_dim, narrow.num_heads, narrow.head_dim) == (10, HEADS, SIZE)
    assert narrow(*[torch.ones(2, 3, 10)] * 3)[0].shape == (2, 3, 10)


def encoder(**options: Any) -> tuple[nn.TransformerEncoder, Tensor, Tensor]:
    """Two layers as PyTorch builds them by default, words, and what of them is padding."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 10, batch_first=True)
    module = nn.TransformerEncoder(layer, 2, **options).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    padding = torch.arange(6) >= torch.tensor([[6], [4]])
    return module, torch.randn(2, 6, WIDTH, generator=generator), padding


class Headed(nn.Module):
    """An encoder whose stream can shrink: something reads it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.embed, self.encoder = nn.Linear(WIDTH, WIDTH), module
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(x), src_key_padding_mask=padding))
        return out


@contextmanager
def fast_path(enabled: bool) -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


PLANS = {"stream": [7, 4, 10, 4, 10], "heads": [12, 3, 10, 4, 10], "one layer": [12, 4, 3, 1, 10]}
PLANS["all"] = [5, 1, 3, 3, 9]


@pytest.mark.parametrize("widths", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("padded", [False, True])
def test_a_sliced_encoder_takes_no_shortcut(widths, padded):
    """In evaluation PyTorch runs a layer as one operation, which knows nothing of removed heads."""
    module, x, padding = encoder(enable_nested_tensor=False)
    model = Headed(module).eval()
    inputs = (x, padding) if padded else (x,)
    units = find_units(model, inputs)
    assert units.dense_widths == (12, 4, 10, 4, 10)
    small = slice_model(model, units, widths)
    with fast_path(False), torch.inference_mode(), masked(model, units, widths) as twin:
        expected = twin(*inputs)
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with context():
            torch.testing.assert_close(small(*inputs), expected)
    assert verify(model, small, units, widths, inputs) < 1e-5


def test_an_encoder_with_nested_tensors_and_padding():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors is in prototype")
        module, x, padding = encoder()
        model = Headed(module).eval()
        units = find_units(model, (x, padding))
        assert units.dense_widths == (12, 4, 10, 4, 10)
        small = slice_model(model, units, PLANS["all"])
        assert verify(model, small, units, PLANS["all"], (x, padding)) < 1e-5


WINDOWS = {
    "fits": ([4, 4], (8, 12)),
    "padded": ([3, 3], (7, 11)),
    "covers": ([5, 5], (5, 5)),
    "covers one side": ([4, 3], (4, 8)),
    "larger than the map": ([6, 6], (4, 5)),
    "oblong": ([2, 5], (9, 6)),
}


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        (ShiftedWindowAttention, SlicedWindowAttention),
        (ShiftedWindowAttentionV2, SlicedWindowAttentionV2),
    ],
)
def test_windows_are_those_of_torchvision(kind, ours, windows, shifted):
    window, size = windows
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind(8, window, [w // 2 for w in window] if shifted else [0, 0], 2)
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        x = torch.randn(2, *size, 8)
    expected = module.eval()(x)
    module.__class__ = ours
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("option", ["attention_dropout", "dropout"])
@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        (ShiftedWindowAttention, SlicedWindowAttention),
        (ShiftedWindowAttentionV2, SlicedWindowAttentionV2),
    ],
)
def test_windows_drop_in_training_as_torchvisions_do(kind, ours, option):
    x = torch.randn(2, 6, 6, 8, generator=torch.Generator().manual_seed(0))
    results = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind(8, [3, 3], [1, 1], 2, **{option: 0.5}).train()
        for swapped in (kind, ours):
            module.__class__ = swapped
            torch.manual_seed(1)
            results.append(module(x))
    torch.testing.assert_close(results[1], results[0])
    assert not torch.allclose(module.eval()(x), results[0])


def test_maxvits_attention_is_torchvisions():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = RelativePositionalMultiHeadAttention(12, 4, 9).eval()
        nn.init.normal_(module.relative_position_bias_table)
        x = torch.randn(2, 5, 9, 12)
    expected = module(x)
    module.__class__ = SlicedRelativeAttention
    torch.testing.assert_close(module(x), expected)


SLICED = {
    "swin": SlicedWindowAttention,
    "swin_v2": SlicedWindowAttentionV2,
    "maxvit": SlicedRelativeAttention,
    "vit": SlicedMultiheadAttention,
}


@pytest.mark.parametrize("name", SLICED)
def test_only_attention_whose_sizes_no_longer_agree_is_swapped(name):
    s = subject(name)
    sliced = SLICED[name]
    dense = [type(m) for m in s.model.modules()]
    assert sliced not in dense
    widths = list(s.units.dense_widths)
    heads = [number for number, unit in enumerate(s.units) if unit.kind == "heads"]
    widths[heads[1]] = 1
    small = slice_model(s.model, s.units, widths)
    assert [type(m) for m in small.modules()].count(sliced) == 1
    assert small.state_dict().keys() == s.model.state_dict().keys()
    widths[0] -= 1  # the first stage's stream, or its stem
    again = slice_model(s.model, s.units, widths)
    assert [type(m) for m in s.model.modules()] == dense
    assert verify(s.model, again, s.units, widths, s.inputs) < 1e-5


def test_the_scale_of_the_scores_is_that_of_the_dense_head():
    """It is not recomputed from a width that has changed."""
    module = attention(batch_first=True)
    ours = without_heads(module)
    x = torch.eye(WIDTH)[None]
    _, weights = ours(x, x, x, average_attn_weights=False)
    q, k, _ = (module.in_proj_weight @ x[0] + module.in_proj_bias[:, None]).chunk(3)
    for place, head in enumerate(KEPT):
        rows = slice(head * SIZE, (head + 1) * SIZE)
        scores = q[rows].T @ k[rows] / math.sqrt(SIZE)
        torch.testing.assert_close(weights[0, place], scores.softmax(-1))
