"""Interval bounds and CROWN in plain torch: the baseline that always works.

Batched over boxes, first layer by intervals, undecided neurons alone by
back-substitution (those that are undecided in any box of the batch), as few and as
large products as that allows.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch.nn import functional

from studies.throughput.networks import Graph, Layer

# Back-substituted coefficients of a batch that are held at once (1 GiB in float32).
_MOST_ENTRIES = 1 << 28


@dataclasses.dataclass(frozen=True)
class Interval:
    """lo <= value <= hi, tensors of shape (boxes, *shape)."""

    lo: torch.Tensor
    hi: torch.Tensor


class TorchBounds:
    """Lower bounds of rows over the outputs of a Graph, for batches of boxes.

    With `meet` the bounds of CROWN are met with those of intervals, in every layer and
    at the end, as jaxcert does; without they stand alone, as in auto_LiRPA.
    """

    def __init__(
        self,
        graph: Graph,
        params: Any,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        meet: bool = True,
    ) -> None:
        self.layers, self.meet = graph.layers, meet
        self.weights = [
            tuple(torch.tensor(w, dtype=dtype, device=device) for w in pair)
            for pair in params
        ]
        self.magnitudes = [tuple(w.abs() for w in pair[:1]) for pair in self.weights]

    def ibp(self, box: Interval, rows: torch.Tensor) -> torch.Tensor:
        """Returns lower bounds (boxes, rows) of `rows`, (boxes, rows, outputs)."""
        return self._rows_by_interval(self._forward(box, crown=False), rows)

    def crown(
        self, box: Interval, rows: torch.Tensor, inner: bool = True
    ) -> torch.Tensor:
        """Returns the same by CROWN; `inner` tightens the inner layers by it, too."""
        ranges = self._forward(box, crown=inner)
        bound = self._pull(len(self.layers), rows, ranges)
        if not self.meet:
            return bound
        return torch.maximum(bound, self._rows_by_interval(ranges, rows))

    def _forward(self, box: Interval, crown: bool) -> list[Interval]:
        ranges = [box]
        mixed = {0: False}  # whether a ReLU lies before a value
        for index, layer in enumerate(self.layers, 1):
            mixed[index] = layer.kind == "relu" or any(mixed[i] for i in layer.inputs)
            if layer.kind == "relu" and crown and mixed[layer.inputs[0]]:
                ranges[layer.inputs[0]] = self._tighten(layer.inputs[0], ranges)
            ranges.append(self._interval(index, layer, ranges))
        return ranges

    def _interval(self, index: int, layer: Layer, ranges: list[Interval]) -> Interval:
        first = ranges[layer.inputs[0]]
        match layer.kind:
            case "relu":
                return Interval(first.lo.relu(), first.hi.relu())
            case "flatten":
                return Interval(first.lo.flatten(1), first.hi.flatten(1))
            case "add":
                other = ranges[layer.inputs[1]]
                return Interval(first.lo + other.lo, first.hi + other.hi)
        center, radius = (first.lo + first.hi) / 2, (first.hi - first.lo) / 2
        weight, bias = self.weights[index - 1]
        (magnitude,) = self.magnitudes[index - 1]
        if layer.kind == "dense":
            center = torch.addmm(bias, center, weight.T)
            radius = radius @ magnitude.T
        else:
            how = {"stride": layer.stride, "padding": layer.padding}
            center = functional.conv2d(center, weight, bias, **how)
            radius = functional.conv2d(radius, magnitude, **how)
        return Interval(center - radius, center + radius)

    def _tighten(self, value: int, ranges: list[Interval]) -> Interval:
        lo, hi = ranges[value].lo, ranges[value].hi
        shape, boxes = lo.shape[1:], len(lo)
        lo, hi = lo.flatten(1).clone(), hi.flatten(1).clone()
        wanted = (lo < 0) & (hi > 0)
        undecided = wanted.any(dim=0).nonzero()[:, 0]
        widest = max(r.lo[0].numel() for r in ranges[: value + 1])
        step = max(1, _MOST_ENTRIES // (2 * boxes * widest))
        for index in undecided.split(step):
            units = functional.one_hot(index, lo.shape[1]).to(lo.dtype)
            units = torch.cat([units, -units]).reshape(1, -1, *shape)
            units = units.expand(boxes, *units.shape[1:])
            least, negated = self._pull(value, units, ranges).chunk(2, dim=1)
            if self.meet:
                # A box must not depend on what is undecided in others.
                low, high, mine = lo[:, index], hi[:, index], wanted[:, index]
                least = torch.where(mine, torch.maximum(low, least), low)
                negated = torch.where(mine, torch.maximum(-high, negated), -high)
            lo[:, index], hi[:, index] = least, -negated
        hi = torch.maximum(lo, hi)
        return Interval(lo.reshape(boxes, *shape), hi.reshape(boxes, *shape))

    def _pull(
        self, value: int, rows: torch.Tensor, ranges: list[Interval]
    ) -> torch.Tensor:
        """Returns lower bounds of rows (boxes, rows, *shape) over a value."""
        pending, const = {value: rows}, 0.0
        for index in range(value, 0, -1):
            if index not in pending:
                continue
            layer, rows = self.layers[index - 1], pending.pop(index)
            source = layer.inputs[0]
            match layer.kind:
                case "dense":
                    weight, bias = self.weights[index - 1]
                    const, rows = const + rows @ bias, rows @ weight
                case "conv":
                    const = const + rows.sum((-2, -1)) @ self.weights[index - 1][1]
                    rows = self._conv_transposed(index, layer, rows, ranges)
                case "relu":
                    rows, offset = _through_relu(rows, ranges[source])
                    const = const + offset
                case "flatten":
                    rows = rows.reshape(*rows.shape[:2], *ranges[source].lo.shape[1:])
                case "add":
                    _add(pending, layer.inputs[1], rows)
            _add(pending, source, rows)
        return const + _least(pending[0], ranges[0])

    def _conv_transposed(
        self, index: int, layer: Layer, rows: torch.Tensor, ranges: list[Interval]
    ) -> torch.Tensor:
        (weight, _), shape = self.weights[index - 1], ranges[layer.inputs[0]].lo.shape
        kernel = weight.shape[-1]
        used = (rows.shape[-1] - 1) * layer.stride + kernel - 2 * layer.padding
        pulled = functional.conv_transpose2d(
            rows.flatten(0, 1), weight, stride=layer.stride, padding=layer.padding,
            output_padding=shape[-1] - used,
        )  # fmt: skip
        return pulled.reshape(*rows.shape[:2], *shape[1:])

    def _rows_by_interval(
        self, ranges: list[Interval], rows: torch.Tensor
    ) -> torch.Tensor:
        """Returns bounds of rows from the last ranges, folded into the last layer."""
        weight, bias = self.weights[-1]
        return rows @ bias + _least(rows @ weight, ranges[self.layers[-1].inputs[0]])


def _add(pending: dict[int, torch.Tensor], value: int, rows: torch.Tensor) -> None:
    pending[value] = pending[value] + rows if value in pending else rows


def _through_relu(rows: torch.Tensor, z: Interval) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns rows over a ReLU's input, and what is to be added to their constants."""
    lo, hi = z.lo.clamp(max=0), z.hi.clamp(min=0)
    upper = hi / (hi - lo).clamp(min=torch.finfo(lo.dtype).tiny)
    lower = torch.where(z.lo >= 0, 1.0, torch.where(hi > -lo, 1.0, 0.0))
    lower = torch.where(z.hi <= 0, 0.0, lower)
    upper = torch.where(z.lo >= 0, 1.0, upper)
    offset = torch.where(z.lo >= 0, 0.0, -upper * lo)
    negative = rows.clamp(max=0)
    count = math.prod(rows.shape[2:])
    const = negative.reshape(*rows.shape[:2], count) @ offset.reshape(-1, count, 1)
    slopes = rows.clamp(min=0) * lower[:, None] + negative * upper[:, None]
    return slopes, const[..., 0]


def _least(rows: torch.Tensor, box: Interval) -> torch.Tensor:
    """Returns the least values of rows (boxes, rows, *shape) over the boxes."""
    rows = rows.flatten(2)
    center = ((box.lo + box.hi) / 2).flatten(1)[..., None]
    radius = ((box.hi - box.lo) / 2).flatten(1)[..., None]
    return (rows @ center - rows.abs() @ radius)[..., 0]


class GraphModule(torch.nn.Module):
    """A Graph as a torch module, for tools that take one."""

    def __init__(self, graph: Graph, params: Any) -> None:
        super().__init__()
        self.layers = graph.layers
        self.steps = torch.nn.ModuleList(
            _module(layer, pair)
            for layer, pair in zip(graph.layers, params, strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits (batch, classes)."""
        values = [x]
        for layer, step in zip(self.layers, self.steps, strict=True):
            operands = [values[i] for i in layer.inputs]
            if layer.kind == "add":
                values.append(operands[0] + operands[1])
            else:
                values.append(step(*operands))
        return values[-1]


def _module(layer: Layer, pair: Any) -> torch.nn.Module:
    match layer.kind:
        case "dense":
            module: Any = torch.nn.Linear(pair[0].shape[1], pair[0].shape[0])
        case "conv":
            out, channels, kernel = pair[0].shape[:3]
            module = torch.nn.Conv2d(channels, out, kernel, layer.stride, layer.padding)
        case "relu":
            return torch.nn.ReLU()
        case "flatten":
            return torch.nn.Flatten()
        case "add":
            return torch.nn.Identity()
    module.weight.data, module.bias.data = (torch.tensor(w) for w in pair)
    return module
