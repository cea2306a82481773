"""Certifies inputs against input changes: records, files and the table."""

from __future__ import annotations

import dataclasses
import functools
import math
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from jaxcert.checks import check_labels
from jaxcert.commands import console
from jaxcert.commands.inputs import Selection
from jaxcert.commands.options import Options, data_dir, folder, option, seed
from jaxcert.commands.semantic.grid import check_on_grid
from jaxcert.errors import InputError
from jaxcert.network import Network
from jaxcert.runs.journal import Journal, stating
from jaxcert.runs.scopes import tell_scope
from jaxcert.scope import Scope, scope_of
from jaxcert.semantic.certifier import SemanticCertifier, label_specs
from jaxcert.semantic.changes import FAMILIES, InputFamily

LINES, SCOPES = "semantic.jsonl", "semantic_scope.json"
_WIDTH = 80


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `jaxcert semantic`."""

    model: str = option(
        "demo", "An .onnx file, a checkpoint (.npz), or 'demo' to train one."
    )
    dataset: str = option("digits", "digits, mnist or fashion_mnist.")
    data_dir: str | None = data_dir()
    split: str = option("test", "train or test.")
    inputs: str = option(
        "0:100",
        "Indices (0:100; 3,17; all), a CSV folder, or an .npy/.npz file.",
    )
    changes: tuple[str, ...] = option(
        tuple(FAMILIES), f"Which of {', '.join(FAMILIES)}."
    )
    rates: tuple[float, ...] = option(
        (), "How far b and c of 'both' go per unit of radius; default 1,1."
    )
    tolerance: float = option(
        1e-3, "Width of the brackets to reach.", above=0, below=math.inf
    )
    batch_size: int = option(32, "Inputs per call.", least=1, most=512)
    timeout: float = option(
        0.0,
        "Seconds per batch, compilation included; 0: no limit. --resume with more "
        "of them goes on with open brackets.",
        least=0,
    )
    grid: int = option(0, "Points per input of the grid check; 0: none.", least=0)
    seed: int = seed("the demo network")
    output: str = folder("out/semantic")
    resume: bool = option(False, "Continue the run in --output.")
    proofs: bool = option(
        False, "Write a certificate per certified input, for `jaxcert check`."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.families  # raises for changes that there are not

    @functools.cached_property
    def families(self) -> dict[str, InputFamily]:
        """The families by name."""
        return named_families(self.changes, self.rates)


def named_families(
    names: Sequence[str], rates: Sequence[float]
) -> dict[str, InputFamily]:
    """Returns the families by name, "both" with the given rates if there are any.

    Raises:
      InputError: an unknown name, none at all, or not two rates.
    """
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names:
        raise InputError(
            f"unknown change {', '.join(unknown) or 'none'}; known: "
            f"{', '.join(FAMILIES)}"
        )
    families = {name: FAMILIES[name] for name in names}
    if rates and "both" in families:
        families["both"] = families["both"].with_rates(*rates)
    return families


def run(
    request: Request, network: Network, chosen: Selection, output: Path
) -> list[dict[str, Any]]:
    """Returns the records of all families and inputs; those that are new are made.

    Raises:
      InputError: records of another network or other flags in OUTPUT, or any if it is
        not to be resumed, inputs without labels or with labels that the network has no
        output for, or inputs that it does not take.
    """
    if chosen.labels is None:
        raise InputError("the inputs have no labels: a class to keep is needed")
    check_labels(
        np.asarray(chosen.labels), len(chosen.names), network.num_outputs, chosen.names
    )
    settings = {
        "network": network.content_hash,
        "source": chosen.source,
        "tolerance": request.tolerance,
        "grid": request.grid,
        "rates": {k: [f.rates_down, f.rates_up] for k, f in request.families.items()},
    }
    size = min(request.batch_size, len(chosen.names))
    certifiers = {
        name: SemanticCertifier(network.apply, network.params, family, batch_size=size)
        for name, family in request.families.items()
    }
    scopes = [
        scope_of(certifier.program(network.input_shape), network.types)
        for certifier in certifiers.values()
    ]
    scope = functools.reduce(Scope.joined, scopes)
    console.warn_of_assumptions(scope)
    kind = dataclasses.replace(stating(LINES), key=_key)
    journal = Journal(kind, output, request.resume, settings)
    tell_scope(output / SCOPES, scope)
    for name, certifier in certifiers.items():
        held = [journal.by_key.get((name, n)) for n in chosen.names]
        new = [i for i, earlier in enumerate(held) if earlier is None]
        for record in _family(request, network, chosen, (name, certifier), new):
            journal.append(record)
        again = [i for i, r in enumerate(held) if r and _may_be_refined(r, request)]
        for record in _family(request, network, chosen, (name, certifier), again):
            journal.append(_narrowed(journal.by_key[name, record["input"]], record))
    journal.settle()
    return list(journal.by_key.values())


def _key(record: dict[str, Any]) -> tuple[str, str]:
    return record["family"], record["input"]


def _may_be_refined(record: dict[str, Any], request: Request) -> bool:
    """Whether a bracket is open, and was given less time than there is now."""
    given = record.get("timeout") or 0.0  # old lines do not say
    return (
        record["status"] != "misclassified"
        and _gap(record) > request.tolerance
        and (request.timeout or math.inf) > given
    )


def _narrowed(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Returns a record with the better end of each of two brackets of one input."""
    record = dict(later)
    if earlier["lower"] > later["lower"]:
        record["lower"] = earlier["lower"]
        record |= {"grid": earlier["grid"]} if "grid" in earlier else {}
    if earlier["upper"] <= later["upper"]:
        record |= {key: earlier[key] for key in ("upper", "witness")}
    if record["lower"] > record["upper"]:
        raise AssertionError(
            f"{_key(record)}: {earlier} and {later} contradict each other. This is a "
            "bug of jaxcert: please report it with the network and the input"
        )
    record["status"] = _status(record["lower"], record["upper"])
    for key in ("boxes", "seconds"):
        record[key] = earlier[key] + later[key]
    return record


def _family(
    request: Request,
    network: Network,
    chosen: Selection,
    of: tuple[str, SemanticCertifier],
    todo: list[int],
) -> Iterator[dict[str, Any]]:
    name, certifier = of
    family, size = certifier.family, certifier.batch_size
    labels = np.asarray(chosen.labels)
    for start in range(0, len(todo), size):
        rows = todo[start : start + size]
        padded = np.resize(rows, size)
        begin = time.monotonic()
        spec = label_specs(labels[padded], network.num_outputs)
        found = certifier.apothems(
            chosen.x[padded],
            spec,
            request.tolerance,
            begin + (request.timeout or math.inf),
        )
        seconds = (time.monotonic() - begin) / len(rows)
        logging.info(
            "%s: %d of %d inputs, %.2f s each", name, start + len(rows), len(todo),
            seconds,
        )  # fmt: skip
        for row, i in enumerate(rows):
            lower, upper = float(found.lower[row]), float(found.upper[row])
            record = {
                "family": name,
                "input": chosen.names[i],
                "label": int(labels[i]),
                "status": _status(lower, upper),
                "lower": lower,
                "upper": upper,
                "witness": found.witness[row],
                "boxes": int(found.boxes[row]),
                "seconds": round(seconds, 6),
                "timeout": request.timeout or math.inf,
            }
            if request.grid and lower > 0:
                check = check_on_grid(
                    network.apply, network.params, (name, family), chosen.x[i],
                    int(labels[i]), (lower, upper), request.grid,
                )  # fmt: skip
                record["grid"] = dataclasses.asdict(check)
            yield record


def _status(lower: float, upper: float) -> str:
    if upper == 0:
        return "misclassified"
    return "certified" if lower > 0 else "unknown"


def table(records: Sequence[dict[str, Any]], request: Request) -> str:
    """Returns a row per family; radii are over the correctly classified inputs."""
    heading = (
        f"{'change':10}{'n':>5}{'certif.':>8}{'misclass.':>10}{'unkn.':>6}"
        f"{'median':>7}{'full':>6}{'open':>5}{'boxes':>7}{'s/input':>8}"
    )
    if request.grid:
        heading += f"{'on grid':>8}"
    lines = [heading, "-" * len(heading)]
    for name, family in request.families.items():
        group = [r for r in records if r["family"] == name]
        if not group:
            continue
        right = [r for r in group if r["status"] != "misclassified"]
        radii = np.minimum([r["lower"] for r in right], family.reach())
        width = [_gap(r) for r in right]
        row = f"{name:10}{len(group):>5}"
        for status, size in (("certified", 8), ("misclassified", 10), ("unknown", 6)):
            row += f"{sum(r['status'] == status for r in group):>{size}}"
        row += f"{np.median(radii) if len(radii) else 0:>7.3f}"
        row += f"{sum(np.isinf(r['lower']) for r in right):>6}"
        row += f"{sum(w > request.tolerance for w in width):>5}"
        row += f"{np.mean([r['boxes'] for r in group]):>7.0f}"
        row += f"{np.mean([r['seconds'] for r in group]):>8.2f}"
        if request.grid:
            row += f"{sum(r.get('grid', {}).get('inside', 0) for r in group):>8}"
        lines.append(row)
    return "\n".join(lines)


def _gap(record: dict[str, Any]) -> float:
    if np.isinf(record["lower"]):
        return 0.0
    return record["upper"] - record["lower"]


def violations(records: Sequence[dict[str, Any]]) -> int:
    """Returns how many grid points lie inside certified ranges and violate them."""
    return sum(r["grid"]["inside"] for r in records if r.get("grid"))


def sentence(records: Sequence[dict[str, Any]], request: Request) -> str:
    """Returns what half of the inputs bear, per family, and what the grid said."""
    lines = []
    for name, family in request.families.items():
        radii = [
            r["lower"] for r in records
            if r["family"] == name and r["status"] != "misclassified"
        ]  # fmt: skip
        if not radii:
            continue
        radius = float(np.median(np.minimum(radii, family.reach())))
        what = f"are proved for {_range(family, radius)}"
        if not radius:
            what = "have no range that is proved"
        lines.append(f"{name}: half of the correctly classified inputs {what}.")
    wide = sum(
        _gap(r) > request.tolerance for r in records if r["status"] != "misclassified"
    )
    if wide:
        further = ": --resume with a larger --timeout goes on with them"
        text = f"{wide} brackets are wider than the tolerance"
        lines.append(f"{text}{further if request.timeout else ''}.")
    checked = [r["grid"] for r in records if r.get("grid")]
    if checked:
        points = sum(g["points"] for g in checked)
        lines.append(
            f"grid: {points} points, {violations(records)} of them inside a certified "
            "range and of another class."
        )
    return "\n".join(textwrap.fill(line, _WIDTH) for line in lines)


def _range(family: InputFamily, radius: float) -> str:
    """Returns the parameters up to a radius in words, rounded inward."""
    parts = []
    for name, *ends in zip(
        family.names, family.lower, family.upper, family.rates_down, family.rates_up,
        strict=True,
    ):  # fmt: skip
        low, high, down, up = ends
        low = np.ceil(1e3 * max(low, -radius * down)) / 1e3 + 0.0
        high = np.floor(1e3 * min(high, radius * up)) / 1e3
        parts.append(f"{name} in [{low:.3f}, {high:.3f}]")
    return " and ".join(parts)
