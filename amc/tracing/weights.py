"""The weight of a layer: stored, or computed from stored tensors in the forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from amc.tracing.ids import Purpose, core
from amc.tracing.labels import Label
from amc.tracing.relations import Along
from amc.tracing.rules import Layer, Tracer


@dataclass(frozen=True)
class Weight:
    """What a layer multiplies with, and where its channels are stored."""

    tensor: Tensor
    out_axis: int
    in_axis: int
    name: str
    """The stored tensor that it is, or that gives it its rows and columns."""
    dims: tuple[int, ...] = (0, 1)
    """Dimensions of the stored tensor whose sizes multiply into the layer's MACs."""
    counted: str = ""
    """Under which name these sizes are counted, where they are not those of the stored tensor."""
    labels: tuple[Label, ...] | None = None
    """None where it is stored as it is used."""

    @property
    def owner(self) -> str:
        """Path of the layer."""
        path, parametrized, _ = self.name.partition(".parametrizations.")
        return path if parametrized else self.name.rpartition(".")[0] or self.name

    @property
    def outputs(self) -> int:
        """Channels that come out, of all groups."""
        return self.tensor.shape[self.out_axis]

    @property
    def inputs(self) -> int:
        """Channels that go in, of one group."""
        return self.tensor.shape[self.in_axis]

    def consume(self, tracer: Tracer, ids: Tensor, place: str, dim: int | None = None) -> None:
        """The layer reads ``ids``, (inputs,), at ``place``, in a product along ``dim`` of its first
        factor; None: in a convolution or linear layer."""
        if self.labels is None:
            tracer.ids.use(self.name, self.in_axis, "in", ids)
        else:
            self._ride(tracer, self.in_axis, ids, "in")
            # What is computed of a removed column need not be zero: the twin leaves it out here.
            tracer.ids.use(place, self.in_axis if dim is None else dim, "statistic", ids)
        self._count(tracer, 1, ids)

    def produce(self, tracer: Tracer, ids: Tensor, purpose: Purpose = "out") -> Tensor:
        """``ids``, (outputs,), that the layer makes; those of an earlier call if it is shared."""
        if self.labels is None:
            return tracer.ids.use(self.name, self.out_axis, purpose, ids)
        self._ride(tracer, self.out_axis, ids, purpose)
        self._count(tracer, 0, ids)
        return ids

    def layer(self, positions: int, **facts: Any) -> Layer:
        """The layer, where each weight is used at so many ``positions``."""
        return Layer(
            name=self.owner,
            macs=positions * self.outputs * self.inputs,
            macs_per_weight=positions,
            tensor=self.name,
            dims=self.dims,
            counted=self.counted,
            **facts,
        )

    def _count(self, tracer: Tracer, dim: int, ids: Tensor) -> None:
        if self.counted:
            tracer.ids.use(self.counted, dim, "count", ids)

    def _ride(self, tracer: Tracer, axis: int, ids: Tensor, purpose: Purpose) -> None:
        assert self.labels is not None
        other = self.in_axis if axis == self.out_axis else self.out_axis
        reason = f"the weight of {self.owner} takes them from several dimensions of {{}}"
        found: dict[str, list[Label]] = {}
        for label in self.labels:
            if _varies(label, axis):
                found.setdefault(label.stored.tensor, []).append(label)
        for tensor, labels in found.items():
            if any(_varies(label, other) for label in labels):
                for label in labels:
                    tracer.ids.freeze(label.ids, reason.format(tensor))
                tracer.ids.freeze(ids, reason.format(tensor))
                continue
            rows = [tracer.ids.along(label.ids, axis) for label in labels]
            tracer.ids.later(Along(rows, ids, reason.format(tensor)))
            if tensor == self.name:
                for label in labels:
                    label.stored.purpose = purpose


def weight_of(tracer: Tracer, tensor: Tensor, out_axis: int, in_axis: int) -> Weight | None:
    """The weight that a layer finds in ``tensor``; None where it is made of activations, or of no
    stored tensor that has both its rows and its columns."""
    name = tracer.name_of(tensor)
    if name is not None:
        return Weight(tensor, out_axis, in_axis, name)
    labels = tracer.labels_of(tensor)
    for main in sorted(labels or (), key=lambda label: -len(label.stored.labels)):
        own = [label for label in labels or () if label.stored.tensor == main.stored.tensor]
        dims: list[int | None] = []
        for axis, other in ((out_axis, in_axis), (in_axis, out_axis)):
            if tensor.shape[axis] == 1:
                continue
            along = [x.stored for x in own if _varies(x, axis) and not _varies(x, other)]
            if not along:
                break
            dims.append(next((x.dim for x in along if len(x.labels) == tensor.shape[axis]), None))
        else:
            name = main.stored.tensor
            whole = tuple(dim for dim in dims if dim is not None)
            if len(whole) == len(dims):
                return Weight(tensor, out_axis, in_axis, name, whole, "", labels)
            counted = f"the weight at {tracer.where()} ({len(tracer.layers)})"
            return Weight(tensor, out_axis, in_axis, name, (0, 1), counted, labels)
    return None


def _varies(label: Label, axis: int) -> bool:
    return core(label.ids).shape[axis] > 1
