"""The roles of units in hand-written networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Embedding, Linear

from amc.pruning.find_units import read_units
from amc.tracing.roles import roles


def found(model: nn.Module, inputs: Tensor) -> dict[str, tuple[str, ...]]:
    units = read_units(model, inputs)
    return {unit.name: names for unit, names in zip(units, roles(units), strict=True)}


class Cnn(nn.Module):
    """A stem, an excited convolution, a residual block, two summed branches, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv2d(3, 6, 1)
        self.excited = Conv2d(6, 5, 1)
        self.squeeze = Conv2d(5, 2, 1)
        self.excite = Conv2d(2, 5, 1)
        self.before = Conv2d(5, 8, 1)
        self.inside = Conv2d(8, 7, 1)
        self.after = Conv2d(7, 8, 1)
        self.left, self.right = Conv2d(8, 9, 1), Conv2d(8, 9, 1)
        self.hidden = Linear(9, 12)
        self.head = Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.excited(self.stem(x))
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = self.before(x)
        x = x + self.after(self.inside(x))
        x = self.left(x) + self.right(x)
        y: Tensor = self.head(self.hidden(x.mean((2, 3))))
        return y


def test_a_convolutional_network():
    assert found(Cnn(), torch.ones(2, 3, 4, 4)) == {
        "stem": ("stem",),
        "excited": ("tied",),
        "squeeze": ("inner",),
        "before": ("residual",),
        "inside": ("inner",),
        "left": ("tied",),
        "hidden": ("last", "MLP hidden"),
    }


class Language(nn.Module):
    """Two tables of embeddings, attention, a gated MLP, a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = Embedding(11, 8), Embedding(5, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.gate, self.up, self.down = Linear(8, 12), Linear(8, 12), Linear(12, 8)
        self.head = Linear(8, 11)

    def forward(self, words: Tensor) -> Tensor:
        x = self.layer(self.words(words) + self.places(torch.arange(5)))
        x = x + self.down(torch.sigmoid(self.gate(x)) * self.up(x))
        y: Tensor = self.head(x)
        return y


def test_a_transformer_whose_residual_stream_is_both_ends():
    assert found(Language(), torch.ones(1, 5, dtype=torch.int64)) == {
        "words": ("stem", "last", "residual"),
        "layer.self_attn": ("attention",),
        "layer.linear1": ("MLP hidden",),
        "gate": ("MLP hidden",),
    }


def test_a_single_embedding_is_a_unit_of_its_own():
    model = nn.Sequential(Embedding(9, 6), Linear(6, 4), Linear(4, 2))
    assert found(model, torch.zeros(1, 3, dtype=torch.int64)) == {
        "0": ("stem",),
        "1": ("last", "MLP hidden"),
    }
