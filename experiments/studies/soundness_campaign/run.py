"""The groups of the soundness campaign: which there are, running them, the table."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxcert.runs.journal import Journal, Kind, Record, Texts
from jaxcert.verdict import Status
from studies.soundness_campaign import bounds, certify, exact, planted, strict
from studies.soundness_campaign import kinds as arithmetic
from studies.soundness_campaign.networks import Architecture, draw_architecture
from studies.soundness_campaign.record import Tally, load, save

KINDS = ("bounds", "parameters", "underflow", "exact", "complete", "certify",
         "planted", "published", "casts", "computed", "double", "ties", "strict",
         "layernorm")  # fmt: skip
DEFAULT_KINDS = tuple(kind for kind in KINDS if kind != "parameters")
_PER_GROUP = 240
_FAMILIES = (
    *["piecewise", "smooth", "products"] * 4, "image", "piecewise", "smooth",
)  # fmt: skip
_SAVED = 5
_KIND = Kind(
    "groups.jsonl",
    "",
    "a campaign",
    "a group",
    "its group",
    texts=Texts(
        other="{path} was written with --seed={stored[seed]} "
        "--networks={stored[of_networks]}: resume with the same, or choose another "
        "--output"
    ),
)
Job = tuple[str, Callable[[np.random.Generator], Tally]]


def run(
    output: Path,
    networks: int,
    seed: int,
    resume: bool = False,
    kinds: tuple[str, ...] = KINDS,
    peer: Path | None = None,
) -> list[dict[str, Any]]:
    """Returns the records of all groups, in order; those that are new are run.

    Raises:
      InputError: groups of other settings in OUTPUT, or any if `resume` is false.
    """
    settings = {"seed": seed, "of_networks": networks}
    groups = Journal(_KIND, output, resume, settings, _check)
    done = {r["group"] for r in groups.records}
    for name, job in jobs(networks, kinds, peer):
        if name in done:
            continue
        start = time.perf_counter()
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        found = finished(job(rng), output / "violations", name)
        seconds = round(time.perf_counter() - start, 2)
        groups.append({"group": name, **found, "seconds": seconds})
        logging.info(
            "%s: %d networks, %d verdicts, %d violations, %.1f s", name,
            found["networks"], found["verdicts"], found["violations"], seconds,
        )  # fmt: skip
        jax.clear_caches()  # nobody compiles the same function again
    return groups.records


def _check(record: Record) -> None:
    _ = record["group"], record["violations"]


def finished(tally: Tally, folder: Path, name: str) -> dict[str, Any]:
    """Returns the record of a group after judging what is suspicious and saving it."""
    violations, left = tally.judged()
    for index, violation in enumerate(violations[:_SAVED]):
        save(folder, f"{name}-{index}", violation)
    verdicts = tally.proved + tally.refuted + tally.unknown
    claims = [v.claim for v in violations]
    return {
        "networks": tally.networks,
        "verdicts": verdicts,
        "proved": tally.proved,
        "refuted": tally.refuted,
        "unknown": tally.unknown,
        "violations": len(violations),
        "by_claim": {c: claims.count(c) for c in sorted(set(claims))},
        "suspicions": len(tally.suspicions),
        "not_judged": left,
        "notes": tally.notes,
    }


def jobs(networks: int, kinds: tuple[str, ...], peer: Path | None) -> Iterator[Job]:
    """Yields names and functions of all groups; small runs have small groups."""
    tenth, part = max(networks // 500, 2), max(networks // 250, 3)
    makers: dict[str, Callable[[], Iterator[Job]]] = {
        "bounds": lambda: _bounds_jobs(networks),
        "parameters": lambda: _fixed_jobs(
            "parameters", "offsets", max(networks // 100, 4),
            [Architecture((3,), ("dense 6", "folded", "relu", "dense 3"))],
        ),
        "underflow": lambda: _underflow_jobs(networks, part),
        "exact": lambda: _exact_jobs(2 * part),
        "complete": lambda: _complete_jobs(part),
        "certify": lambda: _certify_jobs(tenth),
        "planted": lambda: _planted_jobs(max(networks // 130, 3), part // 2 + 1),
        "published": lambda: _published_jobs(peer, min(tenth, 6)),
        **{kind: partial(getattr(arithmetic, kind), 3 * networks // 10)
           for kind in KINDS[8:]},
    }  # fmt: skip
    for kind in KINDS:
        if kind in kinds:
            yield from makers[kind]()


def _bounds_jobs(networks: int) -> Iterator[Job]:
    groups = -(-networks // _PER_GROUP)
    for index in range(groups):
        count = (networks * (index + 1)) // groups - (networks * index) // groups
        family = _FAMILIES[index % len(_FAMILIES)]

        def job(rng: np.random.Generator, family=family, count=count) -> Tally:
            architecture = draw_architecture(rng, family)
            problems = bounds.draw_problems(rng, architecture, count)
            return bounds.bounds_group(problems, rng)

        yield f"bounds_{family}-{index:03d}", job


def _fixed_jobs(
    kind: str, regime: str, count: int, architectures: list[Architecture]
) -> Iterator[Job]:
    for index, architecture in enumerate(architectures):

        def job(rng: np.random.Generator, architecture=architecture) -> Tally:
            problems = bounds.draw_problems(rng, architecture, count, (regime,))
            return bounds.bounds_group(problems, rng)

        yield f"{kind}-{index}", job


def _underflow_jobs(networks: int, part: int) -> Iterator[Job]:
    layers = ("dense 4", "relu", "dense 4", "relu", "dense 3")
    yield from _fixed_jobs(
        "underflow", "underflow", max(networks // 100, 4), [Architecture((2,), layers)]
    )
    hidden = ("dense 5", "relu") * 3
    deeper = Architecture((2,), (*hidden, "dense 3"))

    def job(rng: np.random.Generator) -> Tally:
        problems = bounds.draw_problems(rng, deeper, part, ("flushed",), ("wide",))
        return exact.exact_group(problems, rng, ("signs",), 0.5)

    yield "underflow-flushed", job


def _exact_jobs(count: int) -> Iterator[Job]:
    for index, layers in enumerate([
        ("dense 8", "relu", "dense 3"),
        ("dense 4", "leaky_relu", "scale", "dense 4", "abs", "dense 3"),
        ("dense 6", "max_pair", "residual", "dense 4", "clip", "dense 3"),
    ]):  # fmt: skip
        architecture = Architecture((2,), layers)

        def job(rng: np.random.Generator, architecture=architecture) -> Tally:
            problems = bounds.draw_problems(rng, architecture, count)
            return exact.exact_group(problems, rng)

        yield f"exact-{index}", job


def _complete_jobs(count: int) -> Iterator[Job]:
    for index, (shape, layers) in enumerate([
        ((4,), ("dense 8", "relu", "dense 6", "residual", "dense 3")),
        ((12,), ("dense 8", "relu", "dense 3")),
        ((2,), ("dense 6", "tanh", "dense 4", "product", "dense 3")),
        ((3,), ("dense 6", "softplus", "dense 4", "square", "dense 3")),
    ]):  # fmt: skip
        architecture = Architecture(shape, layers)

        def job(rng: np.random.Generator, architecture=architecture) -> Tally:
            problems = bounds.draw_problems(rng, architecture, count)
            return exact.complete_group(problems, rng)

        yield f"complete-{index}", job


def _certify_jobs(count: int) -> Iterator[Job]:
    plain = ("dense 6", "relu", "dense 6", "relu", "dense 3")
    mixed = ("dense 6", "leaky_relu", "scale", "dense 4", "sigmoid", "dense 3")
    for oracle, layers in (
        ("ibp", mixed), ("crown", plain), ("crown", mixed), ("complete", plain),
    ):  # fmt: skip
        architecture = Architecture((3,), layers)

        def job(rng, architecture=architecture, oracle=oracle) -> Tally:
            return certify.certify_group(rng, architecture, count, oracle)

        yield f"certify_{oracle}-{'mixed' if layers is mixed else 'plain'}", job


def _planted_jobs(spikes: int, trained: int) -> Iterator[Job]:
    for name, architecture in planted.SPIKED.items():

        def job(rng: np.random.Generator, architecture=architecture) -> Tally:
            return planted.spike_group(rng, architecture, spikes)

        yield f"planted_spike-{name}", job
    yield "planted_trained-0", lambda rng: planted.trained_group(rng, trained)


def _published_jobs(peer: Path | None, inputs: int) -> Iterator[Job]:
    if peer is None or not (peer / "networks/fashion_mnist_nn-64.onnx").is_file():
        logging.warning("the published network is not in %s: left out", peer)
        return
    yield "published-fashion", lambda rng: planted.published_group(peer, inputs)


def table(records: Sequence[dict[str, Any]]) -> str:
    """Returns a row per kind of group, at most 80 columns, and the total."""
    columns = ("networks", "verdicts", "proved", "refuted", "unknown", "violations")
    sums: dict[str, list[int]] = {}
    for record in records:
        kind = record["group"].partition("-")[0].replace("_", " ")
        for name in (kind, "all"):
            row = sums.setdefault(name, [0] * len(columns))
            sums[name] = [a + record[c] for a, c in zip(row, columns, strict=True)]
    everything = sums.pop("all", [0] * len(columns))
    widths = (9, 12, 11, 10, 11, 11)
    lines = [f"{'kind':<16}" + "".join(map("{:>{}}".format, columns, widths))]
    for name, row in [*sums.items(), ("all", everything)]:
        lines.append(f"{name:<16}" + "".join(map("{:>{},}".format, row, widths)))
    return "\n".join(lines)


def reproduce(
    path: Path, ways: Sequence[str] = ("ibp", "crown", "inputs", "signs")
) -> int:
    """Prints the exact margin of a saved violation and what the oracles say now.

    Returns 1 if one of them proves what is false, or if a property is answered as it
    was.
    """
    found = load(path)
    print(f"{found.claim} by {found.oracle}: {found.architecture}")
    if found.text:
        result, counterexample = strict.answer(
            found.architecture, found.params, found.text, 60.0
        )
        print(found.text, result, counterexample, sep="\n")
        proved = found.claim.startswith("proved")
        return int(result == ("unsat" if proved else "sat"))
    print(f"exact margin {float(found.margin()):.17g} at {found.point.tolist()}")
    asker = exact.Asker(found.architecture, found.route)
    spec: Any = exact.Spec.rows(found.rows, found.offset)  # type: ignore[arg-type]
    wrong = 0
    for way in ways:
        if way == "signs" and not found.architecture.piecewise:
            continue
        if way == "inputs" and found.point.size > 8:
            continue
        verdict = asker.verdict(found.params, (found.lo, found.hi), spec, way, 10.0)
        print(f"{way:8s}{Status(int(verdict.status)).name}")
        wrong += bool(verdict.proved)
    return 1 if wrong and found.margin() <= 0 else 0
