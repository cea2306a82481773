"""What relaxations.py does: it draws, compares random networks, or measures one."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
from absl import logging

from jaxcert.commands import console
from jaxcert.commands.inputs import select_inputs
from jaxcert.commands.options import Options, data_dir, folder, option, seed
from jaxcert.errors import InputError
from jaxcert.learning.data import DATASETS, SPLITS
from jaxcert.learning.models import load_network
from studies.milp_reference.network import read_mlp
from studies.relaxations import pictures
from studies.relaxations.laws import compare
from studies.relaxations.runs import (
    LABELS,
    METHODS,
    Images,
    Measurement,
    means,
    results,
    table,
)

BROKEN = 3
"""Exit code of a comparison in which a law of relaxations is broken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of the study `relaxations`."""

    model: str = option("", "Fully connected network, .onnx.")
    dataset: str = option("mnist", "Data set.", choices=DATASETS)
    split: str = option("test", "Split of it.", choices=SPLITS)
    data_dir: str | None = data_dir()
    inputs: str = option("0:100", "Indices, such as 0:100 or 3,5.")
    epsilon: float = option(0.026, "Radius of the balls.", above=0, below=1)
    methods: tuple[str, ...] = option(
        METHODS, f"Which of {', '.join(METHODS)}, in this order."
    )
    timeout: float = option(
        10.0, "Seconds per image (complete) or programme (triangle).", above=0
    )
    laws: int = option(0, "Random networks to compare methods on.", least=0)
    seed: int = seed("these networks")
    output: str = folder("out/relaxations")
    resume: bool = option(False, "Continue the results in --output.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for method in self.methods:
            if method not in LABELS:
                raise InputError(
                    f"--methods names {method!r}; choose from {', '.join(METHODS)}"
                )


def answer(request: Request) -> int:
    """Does what is asked; returns the exit code."""
    if request.laws:
        return _laws(request.laws, request.seed)
    if request.model:
        return _measure(request)
    folder = console.expand(request.output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in pictures.DRAWINGS.items():
        draw(folder / name)
        print(f"wrote {folder / name}")
    return 0


def _measure(request: Request) -> int:
    """Verifies balls around images by every method, and prints a table."""
    folder, path = console.expand(request.output), str(console.expand(request.model))
    network, chain = load_network(path), read_mlp(path)
    chosen = select_inputs(
        request.inputs, network, request.dataset, request.split, request.data_dir
    )
    if chosen.labels is None:
        raise InputError("--inputs must be indices into --dataset, which has labels")
    logits = jax.vmap(functools.partial(network.apply, network.params))(chosen.x)
    right = np.argmax(logits, axis=1) == chosen.labels
    names = [name for name, r in zip(chosen.names, right, strict=True) if r]
    print(f"{len(names)} of {len(right)} images are classified correctly")
    images = Images(names, chosen.x[right], chosen.labels[right], request.epsilon)
    measurement = Measurement(network, chain, images, request.timeout)
    config = {"network": network.content_hash, "epsilon": request.epsilon}
    journal = results(folder, config, request.resume)
    for method in request.methods:
        measurement.run(method, journal)
    print(table(journal.records))
    shown = [row for row in means(journal.records) if np.isfinite(row["bound"])]
    title = f"{network.name}, epsilon {request.epsilon:g}"
    pictures.draw_time(folder / "time.png", title, shown)
    print(f"wrote {folder / 'time.png'}")
    return 0


def _laws(count: int, seed: int) -> int:
    """Prints how loose every method is, and every law that is broken."""
    lost: dict[str, float] = {}
    broken = 0
    for number, comparison in enumerate(compare(count, seed), 1):
        for method, bound in comparison.bounds.items():
            away = float(np.sum(comparison.bounds["exact"] - bound))
            lost[method] = lost.get(method, 0.0) + away
        for text in comparison.violations:
            broken += 1
            print(f"network {number} of seed {seed}: {text}")
        if number % 100 == 0:
            logging.info("%d of %d networks, %d laws broken", number, count, broken)
    for method, total in lost.items():
        print(f"{method:<10} {total / count / 2:10.4f} below the exact bound (mean)")
    print(f"{count} networks, {broken} laws broken")
    return BROKEN if broken else 0
