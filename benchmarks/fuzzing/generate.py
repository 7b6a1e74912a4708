"""From a seed to a network: a few inputs, a chain of random blocks, one or several outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from . import (  # noqa: F401 (they enter their blocks in the table)
    attention,
    channels,
    combined,
    constants,
    gates,
    graphs,
    loops,
    plain,
    shapes,
    tokens,
    transformers,
    vision,
    visual_attention,
    weights,
)
from .blocks import CONV, KINDS, Block, Draw, Shape, width
from .live import Kept, Live, add, cat

MAX_CHANNELS = 32
BATCH = 2


@dataclass(frozen=True)
class Spec:
    """What a network is made from; each block has its own seed, so that others may be left out."""

    seed: int
    blocks: tuple[tuple[str, int], ...]
    """Kind and seed of each block of the chain."""


def draw_spec(seed: int) -> Spec:
    """A random chain of three to eight blocks."""
    draw = Draw(seed)
    shape = Network(Spec(seed, ())).shape
    blocks: list[tuple[str, int]] = []
    for _ in range(draw.number(3, 8)):
        names = [name for name, entry in KINDS.items() if entry.fits(shape)]
        entry = (draw.of(*names), draw.number(0, 10**6))
        with torch.random.fork_rng():
            shape = KINDS[entry[0]].make(Draw(entry[1]), shape).out
        if shape.channels > MAX_CHANNELS:
            blocks.append(("plain", entry[1]))
            shape = shape.of(width(Draw(entry[1])))
        else:
            blocks.append(entry)
    return Spec(seed, tuple(blocks))


class Network(nn.Module):
    """One or two inputs, a chain of blocks, a layer at the end, and outputs from the middle."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        draw = Draw(spec.seed + 1)
        domain = draw.of("map", "map", "map", "map", "tokens", "tokens", "words")
        rank = draw.of(1, 2, 2, 2, 3)
        side = {1: 8, 2: draw.of(6, 8), 3: 4}[rank]
        first = width(draw)
        self.vocabulary = 9 if domain == "words" else 0
        self.two = draw.chance(0.15) and domain != "words"
        given = Shape("map", 3, (side,) * rank) if domain == "map" else Shape("tokens", 3, (6,))
        self.given = given
        self.stems = nn.ModuleList()
        for _ in range(2 if self.two else 1):
            if domain == "map":
                self.stems.append(CONV[rank](3, first, 3, padding=1))
            elif domain == "tokens":
                self.stems.append(nn.Linear(3, first))
            else:
                self.stems.append(nn.Embedding(self.vocabulary, first))
        self.join = draw.of("add", "cat")
        shape = given.of(2 * first if self.two and self.join == "cat" else first)
        self.blocks = nn.ModuleList()
        self.taken: list[str] = []
        """Kinds of the blocks that fitted."""
        self.taps: list[int] = []
        for name, seed in spec.blocks:
            entry = KINDS[name]
            if not entry.fits(shape):
                continue
            block: Block = entry.make(Draw(seed), shape)
            self.blocks.append(block)
            self.taken.append(name)
            shape = block.out
        self.shape = shape
        self.end = _end(shape)
        self.form = draw.of("tensor", "tensor", "tensor", "tuple", "dict", "features")
        self.middle = None
        if self.form in ("tuple", "dict") and len(self.blocks) > 1:
            self.tap = draw.number(0, len(self.blocks) - 2)
            self.middle = _end(self.blocks[self.tap].out)  # type: ignore[arg-type]

    def inputs(self, seed: int) -> tuple[Tensor, ...]:
        """Random ones, a batch of two."""
        generator = torch.Generator().manual_seed(seed)
        if self.vocabulary:
            size = (BATCH, self.given.sides[0])
            return (torch.randint(0, self.vocabulary, size, generator=generator),)
        last = self.given.domain != "map"
        shape = (BATCH, *self.given.sides, 3) if last else (BATCH, 3, *self.given.sides)
        return tuple(torch.randn(shape, generator=generator) for _ in self.stems)

    def forward(self, *inputs: Tensor) -> Any:
        parts = [stem(x) for stem, x in zip(self.stems, inputs, strict=True)]
        x = parts[0]
        if self.two and self.join == "cat":
            x = torch.cat(parts, 1 if self.given.domain == "map" else -1)
        elif self.two:
            x = parts[0] + parts[1]
        aside = None
        for number, block in enumerate(self.blocks):
            x = block(x)
            if self.middle is not None and number == self.tap:
                aside = self.middle(x)
        out = self.end(x)
        if aside is not None:
            return (out, aside) if self.form == "tuple" else {"out": out, "aside": aside}
        return (out, [x]) if self.form == "features" else out

    def reference(self, kept: Kept, *inputs: Tensor) -> list[Tensor]:
        """The small network's outputs."""
        parts = [_enter(kept, s, x, self.given) for s, x in zip(self.stems, inputs, strict=True)]
        x = parts[0] if not self.two else (cat if self.join == "cat" else _sum)(parts)
        outputs = []
        for number, block in enumerate(self.blocks):
            x = kept.apply(block, x)
            if self.middle is not None and number == self.tap:
                outputs.append(kept.apply(self.middle, x).whole())
        outputs.insert(0, kept.apply(self.end, x).whole())
        return [*outputs, x.whole()] if self.form == "features" else outputs


def _sum(parts: list[Live]) -> Live:
    return add(*parts)


def _end(shape: Shape) -> nn.Module:
    if shape.domain == "map":
        return CONV[shape.rank](shape.channels, 5, 1)
    return nn.Linear(shape.channels, 5)


def _enter(kept: Kept, stem: Any, x: Tensor, given: Shape) -> Live:
    if isinstance(stem, nn.Embedding):
        index = kept.of(stem.weight, 1)
        return Live(kept.cut(stem.weight)[x], index, stem.embedding_dim, -1)
    dim = 1 if given.domain == "map" else -1
    return kept.apply(stem, Live(x, torch.arange(3), 3, dim))


def build(spec: Spec) -> Network:
    """The network of ``spec``, lively, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        network = Network(spec)
        _enliven(network)
    return network.eval()


def _enliven(network: Network) -> None:
    """Values that show a mistake: no zeros, no ones, no vanishing signal.

    Statistics of BatchNorm are drawn near those of a signal of unit size, which is what weights of
    this size keep up.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            flat = parameter.flatten()
            if bool((flat == flat[0]).all()):
                parameter.uniform_(0.6, 1.4)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.4)
            elif parameter.dim() > 1 and "original" not in name and "weight" in name:
                fan = max(1, parameter[0].numel())
                parameter.normal_(0, 1.3 * fan**-0.5)
        for module in network.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.3)
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 1.5)
