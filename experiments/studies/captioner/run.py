"""Certifying a captioner through an oracle with measured error; see captioner.py."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array

from jaxcert.commands import console
from jaxcert.commands.options import Options, data_dir, folder, option, seed
from jaxcert.commands.smoothing.counting import Task, count
from jaxcert.learning.data import load_dataset, parse_selection
from jaxcert.runs.journal import Journal, Record, named
from jaxcert.smoothing import (
    Gaussian,
    Generated,
    Smoother,
    SmoothingOptions,
    certify_harmless,
    conclude,
    estimate_oracle_error,
)
from jaxcert.smoothing.sampling import Sampler
from studies.captioner.captions import CLASSES, garbled, judge, oracle
from studies.captioner.model import Generate, TrainOptions, load, save, train
from studies.captioner.table import by_class, fewer_samples, statements

LINES = "captioner.jsonl"
KEYS = (
    "input", "label", "predicted", "selected", "hits", "samples", "wrong", "labelled",
    "eps", "p_lower", "radius", "agreement", "garbled", "garbled_p_upper",
    "garbled_radius", "alpha", "earlier", "seconds",
)  # fmt: skip
_JUDGED, _GARBLED = 2, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of the study `captioner`."""

    data_dir: str | None = data_dir()
    inputs: str = option("0:10000:100", "Indices of test images.")
    sigma: float = option(
        0.25,
        "Scale of the noise, in training and certification.",
        least=0.001,
        most=1000,
    )
    temperature: float = option(
        0.7, "Temperature at which words are sampled.", least=0.001, most=1000
    )
    n0: int = option(100, "Samples that choose the class.")
    n: int = option(10_000, "Samples that bound the probability of that class.")
    labelled: int = option(
        2_000, "Captions per image that the judge labels.", least=1, most=2**30
    )
    alpha: float = option(0.001, "Most probability with which an answer may be false.")
    threshold: float = option(
        0.05, "How often captions may be garbled at most.", above=0, below=1
    )
    epochs: int = option(4, "Passes over the training images.", least=1, most=1000)
    batch_size: int = option(1000, "Noisy images per call; more need more memory.")
    seed: int = seed("training and sampling")
    output: str = folder("out/captioner")
    resume: bool = option(False, "Continue the run in --output.")

    def options(self) -> SmoothingOptions:
        """Returns how is sampled; half of alpha is left for the oracle's error."""
        return SmoothingOptions(
            noise=Gaussian(self.sigma),
            n0=self.n0,
            n=self.n,
            alpha=self.alpha / 2,
            chunk=1000,
            batch_size=self.batch_size,
        )


@dataclasses.dataclass(frozen=True)
class _Both:
    """Answers of oracle and judge to one output: CLASSES + 1 times one, plus other."""

    generate: Generate

    def __call__(self, params: Any, key: Array, x: Array) -> Array:
        caption = self.generate(params, key, x)
        true = judge(caption)
        return oracle(caption) * (CLASSES + 1) + jnp.where(true < 0, CLASSES, true)


def run(request: Request) -> int:
    """Certifies the captions of images; returns the exit code."""
    data = load_dataset("fashion_mnist", "test", request.data_dir)
    chosen = parse_selection(request.inputs, len(data.labels))
    settings = {
        field.name: getattr(request, field.name)
        for field in dataclasses.fields(request)
        if field.name not in ("data_dir", "inputs", "output", "resume", "batch_size")
    }
    output, options = console.expand(request.output), request.options()
    journal = Journal(named(LINES, KEYS), output, request.resume, settings)
    params = _captioner(request)
    todo = [i for i in chosen.tolist() if str(i) not in journal.by_key]
    if len(todo) < len(chosen):
        logging.info("%d images are done", len(chosen) - len(todo))
    marks = tuple(m for m in (options.n // 100, options.n // 10) if m > 0)
    generate = Generate(request.temperature)
    task = Task(
        "captions", journal.settings,
        Smoother(Generated(generate, oracle, CLASSES), params, options),
        [str(i) for i in todo], data.images[todo], jax.random.key(request.seed),
        marks,
    )  # fmt: skip
    for counted in count(task, output):
        begin = time.monotonic()
        keys, x = task.keys(counted.rows), task.x[counted.rows]
        answers = _judged(request, params, _fresh(keys, _JUDGED), x)
        found = _certified(request, params, counted.tally, answers, (keys, x))
        seconds = counted.seconds + (time.monotonic() - begin) / len(x)
        journal.append(
            *(
                {
                    "name": str(todo[row]),
                    "input": str(todo[row]),
                    "label": int(data.labels[todo[row]]),
                    "agreement": _share(answers[at], int(data.labels[todo[row]])),
                    "earlier": {str(k): int(v[at]) for k, v in counted.earlier.items()},
                    "seconds": seconds,
                }
                | {key: values[at].item() for key, values in found.items()}
                for at, row in enumerate(counted.rows)
            )
        )
    done = [journal.by_key[str(i)] for i in chosen.tolist()]
    _print(request, done, data.class_names)
    return 0


def _captioner(request: Request) -> Any:
    """Returns the captioner of these settings, trained here unless it is there."""
    options = TrainOptions(request.sigma, request.epochs, request.seed)
    name = f"captioner-{options.noise:g}-{options.epochs}-{options.seed}.npz"
    path = console.expand(request.output) / name
    if path.exists():
        return load(path)
    data = load_dataset("fashion_mnist", "train", request.data_dir)
    logging.info("training the captioner on %d images", len(data.labels))
    begin = time.monotonic()
    params = train(data, options)
    save(path, params)
    logging.info("trained in %.0f s: %s", time.monotonic() - begin, path)
    return params


def _fresh(keys: Array, stage: int) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, stage)


def _judged(request: Request, params: Any, keys: Array, x: np.ndarray) -> np.ndarray:
    """Returns how often (oracle, judge) answered so: (m, CLASSES, CLASSES + 1)."""
    options = request.options()
    sampler = Sampler(
        _Both(Generate(request.temperature)), CLASSES * (CLASSES + 1), options.noise,
        options.chunk, request.batch_size,
    )  # fmt: skip
    counts = sampler.count(params, keys, jnp.asarray(x), 0, request.labelled)
    return counts.reshape(-1, CLASSES, CLASSES + 1)


def _certified(
    request: Request, params: Any, tally: Any, answers: np.ndarray, inputs: tuple
) -> dict[str, np.ndarray]:
    """Returns the columns of the records that certificates fill."""
    keys, x = inputs
    options, m = request.options(), np.arange(len(x))
    # Wrong in the way that matters: the selected class is named, and is not true.
    named = answers[m, tally.selected]
    wrong = named.sum(axis=1) - named[m, tally.selected]
    error = estimate_oracle_error(wrong, request.labelled, request.alpha / 2)
    captions = conclude(tally, options, error)
    model = Generated(Generate(request.temperature), garbled, 2)
    # The judge itself tells a garbled caption: no oracle, so all of alpha is left.
    whole = dataclasses.replace(options, alpha=request.alpha)
    harm = certify_harmless(
        model, params, _fresh(keys, _GARBLED), x, request.threshold, whole
    )
    return {
        "predicted": captions.predicted,
        "selected": captions.selected,
        "hits": captions.hits,
        "samples": captions.samples,
        "wrong": wrong,
        "labelled": np.full(len(x), request.labelled),
        "eps": np.asarray(error.eps),
        "p_lower": captions.p_lower,
        "radius": captions.radius,
        "alpha": np.full(len(x), captions.alpha),
        "garbled": harm.harmful,
        "garbled_p_upper": harm.p_upper,
        "garbled_radius": np.where(harm.certified, harm.radius, -1.0),
    }


def _share(answers: np.ndarray, label: int) -> float:
    """Returns how often the judge called an output what the image shows."""
    return float(answers[:, label].sum() / answers.sum())


def _print(
    request: Request, records: Sequence[Record], class_names: Sequence[str]
) -> None:
    print(by_class(records, class_names, request.threshold))
    print()
    print(fewer_samples(records, request.options()))
    print()
    print(statements(request.alpha, request.threshold, request.labelled))
    print(f"wrote {console.expand(request.output) / LINES}")
