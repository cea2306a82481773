"""Trains, prunes and certifies keypoint networks: one record per seed and method."""

from __future__ import annotations

import dataclasses
import functools
import math
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxcert.branch.questions import ParameterSplitOptions
from jaxcert.commands.options import Options, data_dir, folder, option
from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.data import Dataset
from jaxcert.learning.models import (
    checkpoint_metadata,
    from_params,
    load_checkpoint,
    save_checkpoint,
)
from jaxcert.learning.prune import (
    PruneConfig,
    Task,
    fresh_params,
    prune_network,
    train_regression,
)
from jaxcert.network import Network
from jaxcert.runs.files import expand_home
from jaxcert.runs.journal import Journal, stating
from jaxcert.semantic.certifier import SemanticCertifier, stay_specs
from jaxcert.semantic.changes import FAMILIES, SampledChange
from jaxcert.verdict import Status
from studies.prune.keypoints import CANVAS, HALF, Keypoints, keypoints, pixel_error

ARCHITECTURE = Architecture(
    "cnn", (CANVAS, CANVAS, 1), num_classes=8, hidden=(48,), channels=(8, 12, 16),
    kernel=4, strides=(2, 2, 2),
)  # fmt: skip
_WIDTH = 80
# Name in the table, method of PruneConfig, whether with the penalty.
RUNS = (
    ("unpruned", "none", False),
    ("random", "random", False),
    ("magnitude", "magnitude", False),
    ("stable", "stable", False),
    ("stable + W1", "stable", True),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of the request `prune`."""

    data_dir: str | None = data_dir()
    seeds: int = option(3, "Networks per method.", least=1)
    images: int = option(10000, "Training images.", least=128)
    inputs: int = option(
        50, "Test images to certify; errors are over 1,000.", least=1, most=10000
    )
    epochs: int = option(6, "Passes over the images before pruning.", least=1)
    sparsity: float = option(0.5, "Share of neurons to prune.")
    rounds: int = option(4, "Steps to prune in, an epoch each.", least=1)
    penalty: float = option(
        10.0, "Weight of the Wasserstein penalty of the last method."
    )
    radius: float = option(
        0.15,
        "How far brightness and contrast may move, each way.",
        above=0,
        below=math.inf,
    )
    pixels: float = option(
        3.0,
        "How far a keypoint coordinate may move, in pixels.",
        above=0,
        below=math.inf,
    )
    output: str = folder("out/prune")
    resume: bool = option(False, "Continue the run in --output.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pruning("stable", self.penalty, 0)  # raises what is out of range

    def pruning(self, method: str, penalty: float, seed: int) -> PruneConfig:
        """Returns how a network is pruned.

        Raises:
          InputError: a number that is out of range.
        """
        return PruneConfig(
            method=method,  # type: ignore[arg-type]
            sparsity=self.sparsity,
            rounds=self.rounds,
            penalty=penalty,
            seed=seed,
        )


def run(request: Request, sets: tuple[Dataset, Dataset]) -> list[dict[str, Any]]:
    """Returns the records of all seeds and methods; those that are new are run.

    Raises:
      InputError: records of another study in OUTPUT, or any if it is not
        to be resumed.
    """
    output, settings = expand_home(request.output), request.record()
    for name in ("seeds", "data_dir", "output", "resume"):
        del settings[name]  # more seeds may follow
    journal = Journal(stating("pruning.jsonl"), output, request.resume, settings)
    done = {(r["seed"], r["method"]) for r in journal.records}
    for seed in range(request.seeds):
        if all((seed, name) in done for name, _, _ in RUNS):
            continue
        for record in _seed(request, seed, output, sets, done):
            journal.append(record)
    return sorted(journal.records, key=lambda r: r["seed"])


def _seed(
    request: Request,
    seed: int,
    output: Path,
    sets: tuple[Dataset, Dataset],
    done: set[tuple[int, str]],
) -> Iterator[dict[str, Any]]:
    train, test = (
        keypoints(_first(data, count), 2 * seed + half)
        for half, (data, count) in enumerate(
            zip(sets, (request.images, max(1000, request.inputs)), strict=True)
        )
    )
    change = SampledChange(FAMILIES["both"], request.radius)
    task = Task(train.x, train.y, change, 2)
    base = _base(request, seed, output, task)
    for name, method, with_penalty in RUNS:
        if (seed, name) in done:
            continue
        config = request.pruning(method, request.penalty if with_penalty else 0.0, seed)
        start = time.perf_counter()
        *_, (params, masks) = prune_network(ARCHITECTURE, base.params, task, config)
        seconds = time.perf_counter() - start
        network = from_params(params, ARCHITECTURE, f"keypoints {name} {seed}")
        save_checkpoint(output / f"{name.split()[0]}{'_w1' * with_penalty}_{seed}.npz",
                        network)  # fmt: skip
        record = {
            "seed": seed,
            "method": name,
            "pruned": [int((~m).sum()) for m in masks],
            "training_seconds": round(seconds, 2),
        }
        record |= measure(network, test, request)
        logging.info(
            "seed %d, %s: error %.2f pixels, %d of %d certified", seed, name,
            record["error"], record["proved"], record["inputs"],
        )  # fmt: skip
        yield record


def _base(request: Request, seed: int, output: Path, task: Task) -> Network:
    """Returns the network that all methods start from, trained once per seed."""
    path = output / f"base_{seed}.npz"
    settings = {
        "epochs": request.epochs,
        "images": request.images,
        "radius": request.radius,
    }
    if path.exists() and checkpoint_metadata(path) == settings:
        return load_checkpoint(path)
    config = PruneConfig(method="none", epochs=request.epochs, seed=seed)
    params = fresh_params(ARCHITECTURE, seed)
    params = train_regression(ARCHITECTURE, params, task, config)
    network = from_params(params, ARCHITECTURE, f"keypoints base {seed}")
    save_checkpoint(path, network, settings)
    return network


def measure(network: Network, test: Keypoints, request: Request) -> dict[str, Any]:
    """Returns error, certified rate, time and undecided neurons of a network."""
    outputs = np.concatenate(
        [
            np.asarray(_outputs(network.apply, network.params, part))
            for part in np.split(test.x, 10)
        ]
    )
    x = test.x[: request.inputs]
    certifier = SemanticCertifier(
        network.apply, network.params, FAMILIES["both"], batch_size=min(32, len(x)),
        options=ParameterSplitOptions(block=64, pieces=1),
    )  # fmt: skip
    spec = stay_specs(
        outputs[: request.inputs].astype(np.float64), request.pixels / HALF
    )
    first = slice(0, certifier.batch_size)
    certifier.verdicts(x[first], jax.tree.map(lambda v: v[first], spec), 0.0)
    start = time.perf_counter()
    verdicts = certifier.verdicts(x, spec, request.radius)
    seconds = time.perf_counter() - start
    return {
        "inputs": len(x),
        "error": pixel_error(outputs, test.y),
        "proved": int((verdicts.status == Status.PROVED).sum()),
        "refuted": int((verdicts.status == Status.REFUTED).sum()),
        "unknown": int((verdicts.status == Status.UNKNOWN).sum()),
        "boxes": float(verdicts.boxes.mean()),
        "seconds": seconds / len(x),
        "undecided": float(certifier.undecided(x, request.radius).mean()),
    }


@functools.partial(jax.jit, static_argnames=("apply",))
def _outputs(apply: Callable[[Any, Any], Any], params: Any, x: np.ndarray) -> Any:
    return jax.vmap(apply, (None, 0))(params, x)


def _first(data: Dataset, count: int) -> Dataset:
    if count > len(data.labels):
        raise InputError(
            f"{data.name} {data.split} has {len(data.labels)} images, not {count}: "
            "ask for fewer"
        )
    return dataclasses.replace(
        data, images=data.images[:count], labels=data.labels[:count]
    )


def table(records: Sequence[dict[str, Any]]) -> str:
    """Returns a row per method: means, with standard deviations of several seeds."""
    columns = (
        ("error, px", "error", 1.0, ".2f"),
        ("certified, %", "proved", None, ".1f"),
        ("ms per input", "seconds", 1e3, ".0f"),
        ("boxes", "boxes", 1.0, ".0f"),
        ("unstable", "undecided", 1.0, ".0f"),
    )
    lines = [f"{'method':12}" + "".join(f"{title:>13}" for title, *_ in columns)]
    lines.append("-" * len(lines[0]))
    layers = []
    for name, _, _ in RUNS:
        group = [r for r in records if r["method"] == name]
        if not group:
            continue
        row = f"{name:12}"
        for _, key, scale, form in columns:
            values = [r[key] * (scale if scale else 100 / r["inputs"]) for r in group]
            cell = f"{np.mean(values):{form}}"
            if len(values) > 1:
                cell += f"+-{np.std(values, ddof=1):{form}}"
            row += f"{cell:>13}"
        lines.append(row)
        counts = np.mean([r["pruned"] for r in group], axis=0)
        layers.append(f"{name} {' '.join(f'{count:.0f}' for count in counts)}")
    said = f"Pruned neurons per layer (means): {', '.join(layers)}."
    return "\n".join([*lines, textwrap.fill(said, _WIDTH)])


def sentence(records: Sequence[dict[str, Any]], request: Request) -> str:
    """Returns what was certified, and how the pruning methods compare."""
    said = (
        "Certified: every keypoint coordinate stays closer than "
        f"{request.pixels:g} pixels to its prediction, right or wrong, for all "
        f"brightness and contrast changes up to +-{request.radius:g}. Unstable: ReLUs "
        "whose sign the first bounds leave open over that set."
    )
    rates = {
        name: [100 * r["proved"] / r["inputs"] for r in records if r["method"] == name]
        for name, _, _ in RUNS
    }
    ranked = sorted(
        (name for name, values in rates.items() if values),
        key=lambda name: -float(np.mean(rates[name])),
    )
    if len(ranked) < 2 or request.seeds < 2:
        return textwrap.fill(said, _WIDTH)
    first, second = (rates[name] for name in ranked[:2])
    ahead = np.mean(first) - np.mean(second)
    apart = np.hypot(np.std(first, ddof=1), np.std(second, ddof=1))
    by = "by more than" if ahead > apart else "but by less than"
    return textwrap.fill(
        f"{said} +-: the standard deviation over {request.seeds} seeds. Highest "
        f"certified rate: {ranked[0]}, before {ranked[1]}, {by} the spread of the two.",
        _WIDTH,
    )
