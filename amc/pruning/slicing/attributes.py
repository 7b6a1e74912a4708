"""Integers of a network's modules that state a number of channels and that its forward never reads.

``in_channels`` of a block, the list ``channels`` of a backbone: a later method, which merges
branches or adds a head, reads them. Where the sizes of the module's own layers leave no doubt what
such an integer counts, it shrinks with them;
where they do, it is reported. As the forward does not read it, what was proven stays proven.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from amc.pruning.slicing.stated_sizes import Size, StatedSizes
from amc.tracing.attribute_reads import integer_attributes
from amc.tracing.deformable import deformable_layers
from amc.tracing.units import Counted, Unclear, Units

_WORDS: dict[str, str] = {
    "groups": "group groups cardinality",
    "heads": "head heads nhead nheads",
    "other": "kernel image img patch window class classes token tokens seq vocab position "
    "positions resolution depth ratio scale factor reduction index idx",
    "in": "in inp input inplanes cin inchannels infeatures",
    "out": "out oup output outplanes cout outchannels outfeatures",
    "hidden": "hidden mid middle inner inter intermediate expand expanded bottleneck squeeze mlp "
    "ffn",
    "channels": "channel channels chan chans ch chs feature features feat feats dim dims plane "
    "planes filter filters embed embedding embd model nf ngf ndf",
}
"""What a word in an attribute's name says of it; the first kind that is met counts."""
_KINDS = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_SIZED = {"hidden", "intermediate", "inner", "mid", "embed", "embedding", "model"}
"""With these a ``size`` is a number of channels; otherwise it is an image's, as often as not."""


def follow_attributes(model: nn.Module, units: Units, read: Iterable[str]) -> Units:
    """``units`` with what the attributes of ``model``'s own modules count, where that is clear.

    ``read`` are the attributes that the traced forward reads: these are left as they are. What a
    name says of channels, but the layers of its module do not decide, comes in ``Units.unclear``.
    """
    known = StatedSizes(model, units)
    followed: dict[str, Counted] = {}
    unclear = []
    for kind, path, name, value in _attributes(model, read):
        above = path.rpartition(".")[0]
        for element, number, stage in _elements(path, value, known.children(above)):
            if element in units.counted:
                continue
            size, places = None, set()
            for module in (above, *stage):
                near = known.near(module, number, kind, name)
                as_kind = "out" if module in stage and kind == "channels" else kind
                size = size or _decided(near, number, as_kind, name)
                places |= {x.place for x in near if x.shrinks and x.says(number, kind, name)}
            if kind == "groups" and not near:  # no convolution has them: one for each channel
                size = _agreed(known.attributes(above, number))
            if size is not None:
                known.add(path, replace(size, roles=frozenset({name})))
                if size.shrinks:
                    followed[element] = Counted(*size.place, size.ratio)
            elif places:
                unclear.append(Unclear(element, number, frozenset(places)))
    return replace(units, followed=followed, unclear=tuple(reversed(unclear)))


def _attributes(
    model: nn.Module, read: Iterable[str]
) -> Iterator[tuple[str, str, str, int | Sequence[int]]]:
    """Kind, path, name and value of those to decide: children first, and groups last."""
    read = set(read)
    found = [
        (_kind_of(name), path, name, value)
        for path, owner, name, value in reversed(list(integer_attributes(model)))
        if path not in read and not _is_stated(owner, name)
    ]
    for groups in (False, True):
        yield from (x for x in found if x[0] and (x[0] == "groups") == groups)


def _elements(
    path: str, value: Any, children: Sequence[Sequence[str]]
) -> Iterator[tuple[str, int, list[str]]]:
    """Each number of an attribute, its path, and the modules that a list of them goes with.

    ``channels=[64, 128]`` beside two ``stages`` says what comes out of each.
    """
    if isinstance(value, int):
        yield path, value, []
        return
    stages = [child for child in children if len(child) == len(value)]
    for n, number in enumerate(value):
        yield f"{path}.{n}", number, [child[n] for child in stages]


def stale(units: Units, widths: Sequence[int]) -> list[str]:
    """Attributes that may still state a number of the dense channels, as ``block.channels=64``."""
    shrunk = {
        (slot.tensor, slot.dim)
        for unit, width in zip(units, widths, strict=True)
        for slot in unit.slots
        if width < unit.width
    }
    return [f"{x.attribute}={x.value}" for x in units.unclear if shrunk & x.places]


def _kind_of(name: str) -> str:
    """What an attribute's name says of it; nothing, where no word of it is known."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    said = {_KINDS[word] for word in words if word in _KINDS}
    if "size" in words and not _SIZED & {*words}:
        return ""
    found = next((kind for kind in _WORDS if kind in said), "")
    return "" if found == "other" else found


def _is_stated(module: nn.Module, name: str) -> bool:
    """Whether slicing sets it anyway: on layers of PyTorch's and kinds of them."""
    layers = (_ConvNd, nn.Linear, nn.Embedding, _NormBase, *deformable_layers())
    return isinstance(module, layers) and name in _STATED


_STATED = ("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features")


def _decided(near: list[Size], value: int, kind: str, name: str) -> Size | None:
    """The size that an attribute states, where those which it may state leave no doubt."""
    alike = [size for size in near if size.says(value, kind, name)]
    found = (_agreed(chosen) for chosen in _narrowed(near, alike, kind, name))
    return next((size for size in found if size is not None), None)


def _agreed(sizes: list[Size]) -> Size | None:
    """The size that all of them are at any widths."""
    return sizes[0] if len({size.form for size in sizes}) == 1 else None


def _narrowed(near: list[Size], alike: list[Size], kind: str, name: str) -> Iterator[list[Size]]:
    """The sizes in question, and then fewer and fewer of them as the attribute's name suggests."""
    yield alike
    yield [size for size in alike if name in size.roles]
    ran = [size.order for size in near if size.order is not None]
    if not ran or kind in ("groups", "heads"):
        return
    enters = [size for size in alike if size.order == min(ran) and "in" in size.roles]
    leaves = [size for size in alike if size.order == max(ran) and "out" in size.roles]
    ends = {size.form for size in (*enters, *leaves)}
    yield {
        "in": enters,
        "out": leaves,
        "channels": [*enters, *leaves] if enters and leaves else [],
        "hidden": [size for size in alike if size.form not in ends],
    }[kind]
