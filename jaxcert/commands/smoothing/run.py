"""Certifying smoothed classifiers on a data set; see smoothing.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxcert.certificate.smoothed import write_smoothed
from jaxcert.checks import check_labels
from jaxcert.commands import console
from jaxcert.commands.inputs import Selection, select_inputs
from jaxcert.commands.options import DATASET, Options, data_dir, folder, option, seed
from jaxcert.commands.smoothing.counting import Counted, Task, count
from jaxcert.commands.smoothing.page import write_page
from jaxcert.commands.smoothing.table import (
    accuracy_table,
    draw_accuracy,
    samples_table,
    statement,
)
from jaxcert.errors import InputError
from jaxcert.learning.data import SPLITS
from jaxcert.learning.models import checkpoint_metadata, load_network
from jaxcert.network import Network
from jaxcert.report.answers import data_fact
from jaxcert.runs.files import file_stem
from jaxcert.runs.journal import Journal, Record, named
from jaxcert.smoothing import (
    Gaussian,
    Laplace,
    Noise,
    SmoothedCertificates,
    Smoother,
    SmoothingOptions,
    Stopping,
    Uniform,
    conclude,
    lower_bound,
    scaling,
)

NOISES: dict[str, type[Noise]] = {
    "gaussian": Gaussian, "laplace": Laplace, "uniform": Uniform
}  # fmt: skip
LINES, CHART, GROUP = "smoothing.jsonl", "accuracy", 50
KEYS = (
    "model", "input", "label", "clean", "predicted", "selected", "hits", "samples",
    "p_lower", "radius", "norm", "alpha", "earlier", "seconds",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `jaxcert smoothing`."""

    model: tuple[str, ...] = option((), "Checkpoints or ONNX files, with commas.")
    sigma: tuple[float, ...] = option(
        (), "Scale of the noise, one per model; as trained if empty."
    )
    noise: str = option("gaussian", "Kind of noise.", choices=tuple(NOISES))
    dataset: str = option("fashion_mnist", DATASET)
    split: str = option("test", "Split.", choices=SPLITS)
    data_dir: str | None = data_dir()
    inputs: str = option(
        "0:100", "Indices (0:100; 3,17; all), or a file of inputs with labels."
    )
    n0: int = option(100, "Samples that choose the class.")
    n: int = option(10_000, "Samples that bound the probability of that class.")
    alpha: float = option(0.001, "Most probability with which an answer may be false.")
    union: bool = option(
        False, "Let all answers hold at once with probability 1 - alpha."
    )
    stop_radius: float | None = option(None, "Stop counting once this is certified.")
    radii: tuple[float, ...] = option((0.0, 0.25, 0.5, 1.0), "Radii of the table.")
    batch_size: int | None = option(
        None, "Noisy inputs per call; default: 250 on a CPU, else what memory allows."
    )
    seed: int = seed("the noise")
    output: str = folder("out/smoothing")
    resume: bool = option(False, "Continue the run in --output.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise InputError("name the networks with --model=A.npz,B.npz")
        if self.sigma and len(self.sigma) != len(self.model):
            raise InputError(
                f"there are {len(self.sigma)} --sigma for {len(self.model)} --model: "
                "give one each, or none"
            )
        if not all(radius >= 0 for radius in self.radii):
            given = ",".join(f"{radius:g}" for radius in self.radii)
            raise InputError(f"a radius is at least 0, got {given}")

    def options(self, scale: float, inputs: int) -> SmoothingOptions:
        """Returns the options for a model; alpha is shared if a union is asked for."""
        stop = self.stop_radius
        options = SmoothingOptions(
            noise=NOISES[self.noise](scale),
            n0=self.n0,
            n=self.n,
            alpha=self.alpha,
            stopping=None if stop is None else Stopping(stop),
            batch_size=self.batch_size,
        )
        return options.shared_by(inputs) if self.union else options


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network, its noise and its inputs.

    Attributes:
      title: unique in the run, for the table.
    """

    title: str
    network: Network
    scale: float
    chosen: Selection

    @property
    def labels(self) -> np.ndarray:
        """The labels; `_subjects` refuses inputs without."""
        return np.asarray(self.chosen.labels)


def smooth(request: Request) -> int:
    """Certifies what is asked about, prints the tables; returns the exit code."""
    subjects = list(_subjects(request))
    for subject in subjects:
        request.options(subject.scale, len(subject.chosen.names)).check_samples()
    norm = NOISES[request.noise].norm
    settings = {
        "noise": request.noise, "n0": request.n0, "n": request.n,
        "alpha": request.alpha, "stop_radius": request.stop_radius,
        "union_over": len(subjects[0].chosen.names) if request.union else None,
        "seed": request.seed, "inputs": subjects[0].chosen.source,
        "models": {s.title: [s.network.content_hash, s.scale] for s in subjects},
    }  # fmt: skip
    output, stopped = console.expand(request.output), False
    journal = Journal(named(LINES, KEYS), output, request.resume, settings)
    try:
        _certify(subjects, request, journal)
    except KeyboardInterrupt:
        stopped = True
    groups = {s.title: _records_of(s, journal) for s in subjects}
    groups = {title: found for title, found in groups.items() if found}
    if groups:
        print(accuracy_table(groups, request.radii))
        for subject in subjects:
            found = groups.get(subject.title, [])
            if table := _fewer_samples(subject, found, request):
                print(f"\n{subject.title}: the first samples alone\n{table}")
        print()
        inputs = len(subjects[0].chosen.names)
        said = statement(request.alpha, norm, inputs, request.union)
        print(said)
        draw_accuracy(groups, norm, output / CHART)
        print(_proofs(subjects, groups, request, output / "proofs"))
        print(f"wrote {output / LINES} and {CHART}.png")
        facts = {"command": request.command("smoothing"), "radii": request.radii}
        facts |= {
            f"{s.title}, network content hash": s.network.content_hash for s in subjects
        }
        facts |= data_fact(subjects[0].chosen.x)
        page = write_page(output / "report.html", groups, facts, said, norm)
        print(f"report: {page}")
    if stopped:
        logging.warning("stopped by Ctrl-C; continue with --resume")
    return 130 if stopped else 0


def _subjects(request: Request) -> Iterator[Subject]:
    titles: set[str] = set()
    for index, name in enumerate(request.model):
        path = console.expand(name)
        network = load_network(path)
        for note in network.notes:
            logging.warning("%s", note)
        scale = _scale(request, index, path)
        chosen = select_inputs(
            request.inputs, network, request.dataset, request.split, request.data_dir
        )
        if chosen.labels is None:
            raise InputError(
                f"{request.inputs} has no labels: certified accuracy needs them"
            )
        check_labels(
            chosen.labels, len(chosen.names), network.num_outputs, chosen.names
        )
        title = f"{path.stem[:16]} {scale:g}"
        while title in titles:
            title += "'"
        titles.add(title)
        yield Subject(title, network, scale, chosen)


def _scale(request: Request, index: int, path: Path) -> float:
    if request.sigma:
        return request.sigma[index]
    trained: Any = 0.0
    if path.suffix == ".npz":
        trained = checkpoint_metadata(path).get("train", {}).get("noise", 0.0)
    if not (isinstance(trained, float) and trained > 0):
        raise InputError(
            f"{path} was not trained with noise: say with --sigma how much to add"
        )
    return trained


def _certify(subjects: list[Subject], request: Request, journal: Journal) -> None:
    """Certifies what is not yet in the records, some inputs of every network in turn.

    The network with most left comes first: so a run that is stopped has something to
    show of each, and goes on with the group that it was stopped in.
    """
    todo = {
        s.title: [i for i, name in enumerate(s.chosen.names)
                  if f"{s.title}/{name}" not in journal.by_key]
        for s in subjects
    }  # fmt: skip
    for subject in subjects:
        done = len(subject.chosen.names) - len(todo[subject.title])
        if done:
            logging.info("%s: %d inputs are done", subject.title, done)
    while any(todo.values()):
        subject = max(subjects, key=lambda s: len(todo[s.title]))
        _run(subject, todo[subject.title][:GROUP], request, journal)
        del todo[subject.title][:GROUP]


def _records_of(subject: Subject, journal: Journal) -> list[Record]:
    keys = (f"{subject.title}/{name}" for name in subject.chosen.names)
    return [journal.by_key[key] for key in keys if key in journal.by_key]


def _run(subject: Subject, todo: list[int], request: Request, journal: Journal) -> None:
    """Certifies some inputs of a network."""
    names = subject.chosen.names
    options = request.options(subject.scale, len(names))
    network, x = subject.network, subject.chosen.x[todo].astype(np.float32)
    logits = jax.vmap(network.apply, (None, 0))(network.params, x)
    clean = np.argmax(np.asarray(logits), axis=1) == subject.labels[todo]
    marks = () if options.stopping else (options.n // 100, options.n // 10)
    task = Task(
        subject.title,
        journal.settings,
        Smoother(network.apply, network.params, options),
        [names[i] for i in todo],
        x,
        jax.random.key(request.seed),
        tuple(mark for mark in marks if mark > 0),
    )
    for counted in count(task, journal.folder, GROUP):
        certificates = conclude(counted.tally, options)
        journal.append(
            *(
                _record(subject, todo[row], bool(clean[row]), counted, at)
                | {
                    "predicted": int(certificates.predicted[at]),
                    "p_lower": float(certificates.p_lower[at]),
                    "radius": float(certificates.radius[at]),
                    "norm": certificates.norm,
                    "alpha": certificates.alpha,
                }
                for at, row in enumerate(counted.rows)
            )
        )


def _record(
    subject: Subject, index: int, clean: bool, counted: Counted, at: int
) -> Record:
    name, tally = subject.chosen.names[index], counted.tally
    return {
        "name": f"{subject.title}/{name}",
        "model": subject.title,
        "input": name,
        "label": int(subject.labels[index]),
        "clean": clean,
        "selected": int(tally.selected[at]),
        "hits": int(tally.hits[at]),
        "samples": int(tally.samples[at]),
        "earlier": {str(k): int(hits[at]) for k, hits in counted.earlier.items()},
        "seconds": counted.seconds,
    }


def _proofs(
    subjects: list[Subject],
    groups: Mapping[str, list[Record]],
    request: Request,
    folder: Path,
) -> str:
    """Writes a file of answers per network; returns what the checker says of them."""
    held = told = 0
    for subject in subjects:
        records = groups.get(subject.title, [])
        options = request.options(subject.scale, len(subject.chosen.names))
        names = ("predicted", "selected", "hits", "samples", "p_lower", "radius")
        columns = {name: np.array([r[name] for r in records]) for name in names}
        found = SmoothedCertificates(
            **columns, alpha=options.alpha, norm=options.noise.norm
        )
        path = folder / f"{file_stem(subject.title)}.npz"
        report = write_smoothed(path, found, options, subject.network.content_hash)
        if not report.holds:
            logging.warning("%s: not accepted: %s", path, report.reason)
        held, told = held + report.told, told + int((found.radius > 0).sum())
    return (
        f"{held} of {told} radii follow from their counts by the independent checker "
        f"(in {folder.name}).\nThat the samples were drawn as said is not checked."
    )


def _fewer_samples(subject: Subject, records: list[Record], request: Request) -> str:
    """Returns a table of the radii that 100 and 10 times fewer samples certify."""
    options = request.options(subject.scale, len(subject.chosen.names))
    marks = sorted(int(mark) for r in records[:1] for mark in r["earlier"])
    if not marks:
        return ""
    shares = scaling([*marks, options.n], options)
    rows = []
    for samples, share in zip([*marks, options.n], shares.tolist(), strict=True):
        hits = np.array([r["earlier"].get(str(samples), r["hits"]) for r in records])
        radii = options.noise.radius(lower_bound(hits, samples, options.alpha))
        rows.append((samples, radii.tolist(), share))
    return samples_table(rows)
