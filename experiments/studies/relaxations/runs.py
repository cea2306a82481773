"""Measuring relaxations on the margins of a real network, image by image."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array

import jaxcert as jc
from jaxcert.bounds.alpha import Layout, layout_of
from jaxcert.bounds.crown import Crown, CrownOptions, bound_layers
from jaxcert.bounds.multineuron import CutOptions, RowOptions, bound_rows
from jaxcert.bounds.tighten import TightenOptions, tighten_layers
from jaxcert.box import Box
from jaxcert.certifier import float64
from jaxcert.commands.audit.boxes import Claim
from jaxcert.commands.audit.decide import Auditor
from jaxcert.model import Model
from jaxcert.network import Network
from jaxcert.oracle.bounds import BoundOracle
from jaxcert.runs.journal import Journal, Kind, Record, Texts
from jaxcert.witness.attack import AttackOptions
from studies.milp_reference.encoding import Encoding
from studies.milp_reference.network import Mlp

METHODS = ("crown", "alpha", "triangle", "krelu2", "krelu3", "complete")
"""In the order of the table."""

LABELS = {
    "crown": "CROWN",
    "alpha": "alpha-CROWN",
    "triangle": "triangle LP",
    "krelu2": "k-ReLU, k = 2",
    "krelu3": "k-ReLU, k = 3",
    "complete": "complete",
}
LINES = "relaxations.jsonl"
KIND = Kind(
    LINES,
    "",
    "results",
    "a result",
    texts=Texts(
        other="{path} holds results with {key} {there!r}, not {here!r}. Choose another "
        "--output; nothing was changed"
    ),
)
"""Every line says the network and epsilon."""
_BLOCK = 4  # images that one compiled call bounds
# What HiGHS may be wrong by, relatively to the numbers of the programme.
_SOLVER_ERROR = 1e-6
_WARM_UP = 40.0  # seconds, most of them compilation


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """What is verified: inputs that are classified correctly, flat index by name."""

    names: Sequence[str]
    x: np.ndarray
    labels: np.ndarray
    epsilon: float

    def box(self, i: int) -> jc.Box:
        """Returns the ball of one input, inside [0, 1], in numpy."""
        x: Any = self.x[i]
        return jc.Box(np.maximum(x - self.epsilon, 0), np.minimum(x + self.epsilon, 1))


def results(folder: Path, config: Mapping[str, Any], resume: bool) -> Journal:
    """Returns the lines of all methods and inputs, begun or continued."""
    return Journal(KIND, folder, resume, config, _check)


def _check(record: Record) -> None:
    _ = record["method"], record["input"], record["status"], record["seconds"]


class Measurement:
    """Answers of every method for the images of one network."""

    def __init__(
        self, network: Network, chain: Mlp, images: Images, time_limit: float
    ) -> None:
        """Takes a network, and the same as a chain of affine maps for programmes."""
        self.network, self.chain, self.images = network, chain, images
        self.time_limit = time_limit
        self.model = network.model

    def run(self, method: str, journal: Journal) -> None:
        """Appends what the method finds to the results, input by input."""
        done = {r["input"] for r in journal.records if r["method"] == method}
        todo = [i for i, name in enumerate(self.images.names) if name not in done]
        for found in self._answers(method, todo):
            journal.append({"method": method, **found})
            logging.info(
                "%s, input %s: %s, %.2f s", LABELS[method], found["input"],
                found["status"], found["seconds"],
            )  # fmt: skip

    def _answers(self, method: str, todo: list[int]) -> Any:
        if not todo:
            return
        if method == "complete":
            yield from self._complete(todo)
        elif method == "triangle":
            yield from self._triangle(todo)
        else:
            yield from self._in_blocks(self._bounder(method), todo)

    def _record(self, i: int, status: str, bound: float, seconds: float) -> Record:
        return {
            "input": self.images.names[i], "status": status, "bound": bound,
            "seconds": seconds,
        }  # fmt: skip

    def _spec(self, label: Any) -> jc.Spec:
        return jc.Spec.classification(
            label, self.network.num_outputs, dtype=jnp.float64
        )

    def _bounder(self, method: str) -> Callable:
        layout = layout_of(self.model.program)

        def by_crown(model: Model, box: jc.Box, label: Array) -> tuple[Array, Array]:
            prover = BoundOracle(Crown(model.f))
            verdict = prover(model.double, box, self._spec(label), box.lo)
            return verdict.bound, verdict.proved

        def by_rows(model: Model, box: jc.Box, label: Array) -> tuple[Array, Array]:
            k = {"alpha": 1, "krelu2": 2, "krelu3": 3}[method]
            options = RowOptions(CutOptions(k=k))
            weights = model.single, model.double
            rows, slack = bound_rows(layout, weights, box, self._spec(label), options)
            return jnp.min(rows), jnp.min(rows) > slack

        one = by_crown if method == "crown" else by_rows
        return jax.jit(jax.vmap(one, (None, 0, 0)))

    def _in_blocks(self, bound: Callable, todo: list[int]) -> Any:
        @float64()
        def ask(chosen: list[int]) -> Any:
            boxes = [self.images.box(i) for i in chosen]
            box = jax.tree.map(lambda *side: np.stack(side), *boxes)
            return jax.device_get(bound(self.model, box, self.images.labels[chosen]))

        ask((todo * _BLOCK)[:_BLOCK])  # compiled before the clock starts
        for start in range(0, len(todo), _BLOCK):
            chosen = todo[start : start + _BLOCK]
            begin = time.monotonic()
            values, proved = ask((chosen * _BLOCK)[:_BLOCK])
            seconds = (time.monotonic() - begin) / _BLOCK
            for i, value, p in zip(chosen, values, proved, strict=False):
                status = "verified" if p else "unknown"
                yield self._record(i, status, float(value), seconds)

    def _triangle(self, todo: list[int]) -> Any:
        """The triangle relaxation over the ranges of alpha-CROWN, by HiGHS."""
        layout = layout_of(self.model.program)
        alpha_ranges = jax.jit(functools.partial(_alpha_ranges, layout))

        @float64()
        def ranges_of(model: Model, box: Box) -> Any:
            return jax.device_get(alpha_ranges(model, box))

        for number, i in enumerate(todo):
            box = self.images.box(i)
            if not number:
                ranges_of(self.model, box)  # compiled before the clock starts
            begin = time.monotonic()
            ranges = ranges_of(self.model, box)
            encoding = Encoding(*(np.ravel(side) for side in (box.lo, box.hi)))
            for (weight, bias), z in zip(self.chain.layers[:-1], ranges, strict=True):
                low, high = z.lo.reshape(-1), z.hi.reshape(-1)
                width = 1e-9 * (1 + np.maximum(np.abs(low), np.abs(high)))
                encoding.append(weight, bias, low - width, high + width)
            weight, bias = self.chain.layers[-1]
            label = int(self.images.labels[i])
            least = np.inf
            for target in np.delete(np.arange(len(bias)), label):
                cost = weight[label] - weight[target]
                value, _ = encoding.minimise(cost, False, self.time_limit)
                least = min(least, value + bias[label] - bias[target])
            seconds = time.monotonic() - begin
            status = "verified" if least > _SOLVER_ERROR else "unknown"
            yield self._record(i, status, float(least), seconds)

    def _complete(self, todo: list[int]) -> Any:
        auditor = Auditor(self.network, 0.0, AttackOptions())

        def decide(i: int, limit: float) -> str:
            box, label = self.images.box(i), int(self.images.labels[i])
            lo, hi = np.asarray(box.lo), np.asarray(box.hi)
            claim = Claim(self.images.names[i], lo, hi)
            found = auditor.decide(claim, label, time.monotonic() + limit)
            names = {"sound": "verified", "broken": "refuted"}
            return names.get(found.verdict, "unknown")

        decide(todo[0], _WARM_UP)
        for i in todo:
            begin = time.monotonic()
            status = decide(i, self.time_limit)
            yield self._record(i, status, np.nan, time.monotonic() - begin)


def _alpha_ranges(layout: Layout, model: Model, box: jc.Box) -> list[jc.Box]:
    """Returns the ranges of all ReLU inputs by alpha-CROWN."""
    values32, values64 = model.values(jnp.float32), model.values(jnp.float64)
    boxes = bound_layers(layout.program, values64, box, CrownOptions()).boxes
    ranges = {i: boxes[i] for i in layout.needed()}
    options = TightenOptions()
    ranges = tighten_layers(layout, values32, values64, box, ranges, options)
    return [ranges[node.inputs[0]] for node in layout.nodes]


def table(records: Sequence[Record]) -> str:
    """Returns a row per method: counts, seconds per image and the mean bound.

    Where methods ran on different inputs, each row says on how many.
    """
    head = "method          images  verified  refuted  unknown  s/image  mean bound"
    lines = [head, "-" * len(head)]
    for row in means(records):
        bound = f"{row['bound']:10.3f}" if np.isfinite(row["bound"]) else " " * 10
        lines.append(
            f"{row['method']:<14} {row['images']:>7} {row['verified']:>9} "
            f"{row['refuted']:>8} {row['unknown']:>8} {row['seconds']:>8.3f}  {bound}"
        )
    return "\n".join(lines)


def means(records: Sequence[Record]) -> list[Record]:
    """Returns what the table shows of every method that ran."""
    rows = []
    for method in METHODS:
        mine = [r for r in records if r["method"] == method]
        if not mine:
            continue
        count = {
            status: sum(r["status"] == status for r in mine)
            for status in ("verified", "refuted", "unknown")
        }
        bounds = [np.nan if r["bound"] is None else r["bound"] for r in mine]
        seconds = float(np.mean([r["seconds"] for r in mine]))
        rows.append(
            {
                "method": LABELS[method], "images": len(mine), **count,
                "seconds": seconds, "bound": float(np.mean(bounds)),
            }
        )  # fmt: skip
    return rows
