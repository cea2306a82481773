"""Comparing certificates of one sensitive class at matched clean accuracy."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from absl import logging

from jaxcert.commands import console
from jaxcert.commands.options import Options, data_dir, folder, option
from jaxcert.errors import InputError
from jaxcert.learning.inputs import parse_selection
from jaxcert.runs.journal import Journal
from studies.asymmetric.attack import Attacks, attack_all
from studies.asymmetric.files import KIND, finish
from studies.asymmetric.methods import FeatureConvex, Method
from studies.asymmetric.report import Result, attack_lines, table, verdict, write_curves
from studies.asymmetric.task import (
    NORM_NAMES,
    TASKS,
    Task,
    TaskData,
    load_task,
    matched_shifts,
)
from studies.asymmetric.training import METHODS, MethodOptions, make_method

_BATCH = 64
_SECONDS_PER_LINE = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of the study `asymmetric`."""

    dataset: str = option(
        "mnist",
        "The task: 3 (sensitive) against 8 of mnist or digits, T-shirt (sensitive) "
        "against shirt of fashion_mnist.",
        choices=tuple(TASKS),
    )
    data_dir: str | None = data_dir()
    output: str = folder("out/asymmetric")
    resume: bool = option(False, "Continue the comparison in --output.")
    methods: tuple[str, ...] = option(METHODS, f"Which of {', '.join(METHODS)}.")
    inputs: str = option(
        "all", "Which test images of the sensitive class (0:100; 3,17; all)."
    )
    epochs: int = option(
        60, "Of the convex network; 60 as published.", least=1, most=10_000
    )
    box_epochs: int = option(
        20,
        "Of the box networks; smoothing trains 3 times as long.",
        least=1,
        most=10_000,
    )
    hidden: int = option(
        64,
        "Hidden neurons of the box networks; smoothing has 4 times as many.",
        least=1,
        most=4096,
    )
    epsilon: float | None = option(
        None,
        "Radius that IBP trains at; default: 0.1 for mnist, 0.02 for fashion_mnist.",
        above=0,
        below=100,
    )
    sigma: float | None = option(
        None,
        "Scale of the noise of smoothing; default: 0.25 for digits, else 0.5.",
        above=0,
        below=100,
    )
    n: int = option(
        10_000, "Noisy copies per certificate of smoothing.", least=10, most=10_000_000
    )
    validation: int = option(
        1000,
        "Training images kept apart to choose the shifts on.",
        least=10,
        most=100_000,
    )
    attacks: int = option(
        1000, "Least number of attacks inside certified radii.", least=1, most=1_000_000
    )
    timeout: float = option(
        120.0, "Seconds per batch of 64 boxes; then what is proved stands.", above=0
    )
    seed: int = option(
        0, "Seed of the split, weights, noise, attacks.", least=0, most=2**31 - 10
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods or len(set(self.methods)) < len(self.methods):
            raise InputError(
                f"methods is {','.join(self.methods)!r}; choose some of "
                f"{', '.join(METHODS)}, each once"
            )

    @property
    def task(self) -> Task:
        return TASKS[self.dataset]

    @property
    def options(self) -> MethodOptions:
        task = self.task
        return MethodOptions(
            epochs=self.epochs,
            box_epochs=self.box_epochs,
            hidden=self.hidden,
            ibp_epsilon=self.epsilon or task.ibp_epsilon,
            sigma=self.sigma or task.sigma,
            samples=self.n,
            time_limit=self.timeout,
            seed=self.seed,
        )


def compare(request: Request) -> int:
    """Trains, matches, certifies, attacks and prints; returns the exit code."""
    folder = console.expand(request.output)
    data = load_task(
        request.dataset,
        request.task,
        request.data_dir,
        request.validation,
        request.seed,
    )
    sensitive = np.flatnonzero(data.test.labels == 1)
    chosen = sensitive[parse_selection(request.inputs, len(sensitive))]
    config = {
        "dataset": request.dataset,
        "validation": request.validation,
        "methods": list(request.methods),
    } | dataclasses.asdict(request.options)
    journal = Journal(KIND, folder, request.resume, config)
    methods = {
        name: make_method(name, request.task, data.fit, request.options, folder)
        for name in request.methods
    }
    names = data.test.class_names
    heading = f"{request.dataset}: {names[1]} (sensitive) against {names[0]}"
    results, target = _compare(methods, data, chosen, journal)
    attacks = _attack(methods, results, data.test.images[chosen], request)
    finish(folder, _summary(results, target, attacks, config))
    write_curves(results, heading, folder / "curves")
    print(table(results, target, heading))
    print()
    print(verdict(results))
    if attacks:
        print(attack_lines(attacks))
    print(f"curves: {folder / 'curves.png'}")
    broken = any(a.found for a in attacks if a.multiple == 1)
    return 3 if broken else 0


def _compare(
    methods: dict[str, Method],
    data: TaskData,
    chosen: np.ndarray,
    journal: Journal,
) -> tuple[list[Result], float]:
    """Returns the result of every method, and the accuracy they are matched at."""
    logging.info("choosing the shifts on %d images", len(data.validation.labels))
    scores = [method.scores(data.validation.images) for method in methods.values()]
    shifts, target = matched_shifts(scores, data.validation.labels)
    results = []
    for k, (name, method) in enumerate(methods.items()):
        shift = shifts[k]
        _certify(name, method, shift, (data, chosen), journal)
        matched = (scores[k] + shift > 0) == data.validation.labels
        right = (method.scores(data.test.images) + shift > 0) == data.test.labels
        sensitive = data.test.labels == 1
        rows = [journal.by_key[name, str(data.index[i])] for i in chosen]
        results.append(
            Result(
                title=method.title,
                norm=method.norm,
                probabilistic=method.probabilistic,
                shift=shift,
                validation=(int(matched.sum()), len(matched)),
                clean=(int(right.sum()), len(right)),
                sensitive=(int(right[sensitive].sum()), int(sensitive.sum())),
                radius=np.array([[row[key] for key in NORM_NAMES] for row in rows]),
                seconds=float(np.mean([row["seconds"] for row in rows])),
            )
        )
    return results, target


def _certify(
    name: str,
    method: Method,
    shift: float,
    inputs: tuple[TaskData, np.ndarray],
    journal: Journal,
) -> None:
    """Certifies what is not done, batch by batch."""
    data, chosen = inputs
    todo = [i for i in chosen if (name, str(data.index[i])) not in journal.by_key]
    if len(todo) < len(chosen):
        logging.info("%s: %d inputs are done already", name, len(chosen) - len(todo))
    said = time.monotonic()
    for start in range(0, len(todo), _BATCH):
        part = np.array(todo[start : start + _BATCH])
        # Filled up, so that the last batch compiles nothing.
        x = data.test.images[np.resize(part, _BATCH)]
        if start == 0:
            method.certify(x, shift)  # compiles
        begin = time.perf_counter()
        found = method.certify(x, shift)
        seconds = (time.perf_counter() - begin) / _BATCH
        journal.append(
            *[
                {
                    "method": name,
                    "input": str(data.index[i]),
                    "score": float(found.score[row]),
                    **dict(zip(NORM_NAMES, found.radius[row].tolist(), strict=True)),
                    "seconds": round(seconds, 9),
                }
                for row, i in enumerate(part)
            ]
        )
        if time.monotonic() - said > _SECONDS_PER_LINE:
            said = time.monotonic()
            logging.info("%s: %d of %d inputs", name, start + len(part), len(todo))


def _attack(
    methods: dict[str, Method],
    results: list[Result],
    x: np.ndarray,
    request: Request,
) -> list[Attacks]:
    """Attacks the certificates of the feature-convex classifier, if it is compared."""
    for method, result in zip(methods.values(), results, strict=True):
        if isinstance(method, FeatureConvex):
            classifier = method.classifier.with_shift(result.shift)
            certified = (result.radius > 0).all(axis=1)
            if not certified.any():
                logging.warning("nothing is certified, so nothing is attacked")
                return []
            logging.info("attacking certified inputs")
            return attack_all(
                classifier,
                x[certified],
                result.radius[certified],
                request.attacks,
                request.seed,
            )
    return []


def _summary(
    results: list[Result], target: float, attacks: list[Attacks], config: dict
) -> dict[str, Any]:
    return {
        "config": config,
        "matched_validation_accuracy": target,
        "methods": [
            {
                "title": result.title,
                "certifies": "all" if result.norm is None else NORM_NAMES[result.norm],
                "probabilistic": result.probabilistic,
                "shift": result.shift,
                "validation": result.validation,
                "clean": result.clean,
                "sensitive": result.sensitive,
                "inputs": len(result.radius),
                "median_radius": dict(
                    zip(NORM_NAMES, np.median(result.radius, axis=0), strict=True)
                ),
                "seconds_per_certificate": result.seconds,
            }
            for result in results
        ],
        "attacks": [dataclasses.asdict(attack) for attack in attacks],
    }
