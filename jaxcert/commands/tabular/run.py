"""Certifying tables: a small network, grown boxes in physical units, dual boxes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcert.box import Box
from jaxcert.certification import CertifyOptions
from jaxcert.certifier import Certifier, float64
from jaxcert.checks import check_inputs
from jaxcert.commands import console
from jaxcert.commands.certify.grow import Grower
from jaxcert.commands.certify.regions import write_regions
from jaxcert.commands.certify.run import Run
from jaxcert.commands.inputs import Selection
from jaxcert.commands.options import Options, folder, option, seed
from jaxcert.commands.tabular.data import TABLES, Scale, Table, load_scale, load_table
from jaxcert.commands.tabular.text import (
    box_sentence,
    dual_sentence,
    range_name,
    units_sentence,
)
from jaxcert.devices import local_devices
from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.data import Dataset
from jaxcert.learning.inputs import parse_selection
from jaxcert.learning.models import (
    checkpoint_metadata,
    export_onnx,
    from_params,
    load_checkpoint,
    save_checkpoint,
)
from jaxcert.learning.train import TrainConfig, train
from jaxcert.network import Network
from jaxcert.report import RunFiles, read_run, write_report
from jaxcert.runs.files import append, write_whole, writing
from jaxcert.runs.strict_json import dumps
from jaxcert.scope import scope_of
from jaxcert.search.dual import DualBox, DualOptions, DualTask, dual_boxes
from jaxcert.search.growth import FAIRNESS, GrowthOptions

DUAL, NETWORK, ONNX = "dual.jsonl", "network.npz", "network.onnx"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `jaxcert tabular`."""

    dataset: str = option(
        "wine",
        f"{', '.join(TABLES)} (no download), or a CSV file: a line of names, then "
        "numbers and a class, in the column class or the last.",
    )
    use: str = option("", "Features to use, with commas; '' for all.")
    scale: str = option("", "A CSV file of units, ranges and rates.")
    inputs: str = option("0:5", "Which of the test rows.")
    hidden: tuple[int, ...] = option((16,), "Widths of the hidden layers.")
    epsilon: float = option(
        0.05,
        "Radius of adversarial training, in ranges; 0: standard.",
        least=0,
        below=1,
    )
    epochs: int = option(100, "Epochs of the training.")
    grow: str = option("maximal", "What boxes grow for.", choices=tuple(FAIRNESS))
    delta: float = option(0.01, "No feature's range can grow by this many rates.")
    tolerance: float = option(1e-3, "Of the apothem, in rates.")
    dual: bool = option(True, "Dual boxes of all classes as well.")
    within: float = option(
        0.0,
        "Dual boxes this many rates around each row; 0: of the whole range.",
        least=0,
        below=math.inf,
    )
    time_limit: float = option(300.0, "Seconds for boxes, and duals.", above=0)
    seed: int = seed("split, training and search")
    output: str = folder("out/tabular")
    resume: bool = option(False, "Continue the run in --output.")


def compute(request: Request) -> int:
    """Certifies rows of a table, prints sentences; returns the exit code.

    Raises:
      InputError: what is asked makes no sense, or cannot be read or written.
    """
    table = load_table(request.dataset, request.use)
    training, test = table.split(request.seed)
    scale = load_scale(table, training, request.scale)
    chosen = test[parse_selection(request.inputs, len(test))]
    names = tuple(f"row {i}" for i in chosen)
    check_inputs(table.x[chosen], scale.domain, names)
    output = console.expand(request.output)
    network = _network(request, table, training, output)
    hits = _predicted(network, table.x[test]) == table.labels[test]
    print(f"{network.name}: {hits.sum()} of {len(test)} test rows right")
    certifier = Certifier(
        network.apply,
        network.params,
        scale.domain,
        network.input_shape,
        rates=scale.rates,
        tolerance=request.tolerance,
        options=CertifyOptions(oracle="complete", batch_size=8),
    )
    options = GrowthOptions(request.grow, request.delta)  # type: ignore[arg-type]
    scope = scope_of(certifier.model.program, network.types)
    console.warn_of_assumptions(scope)
    config = _config(request, table, scale, network)
    selection = Selection(
        table.name, names, table.x[chosen], table.labels[chosen], table.classes
    )
    with RunFiles(
        output, request.resume, config, {}, scope, request.command("tabular")
    ) as files:
        grower = Grower.into(output / "grown", certifier, options)
        run = Run(
            certifier, selection, np.arange(len(names)), local_devices(), files,
            None, grower, "real",
        )  # fmt: skip
        stopped = run.certify(request.time_limit)
        if files.done >= set(names):
            files.finish()
    _print_boxes(table, scale, output)
    print(f"\n{grower.summary()}")
    if request.dual and stopped != "Ctrl-C":
        _print_duals(certifier, table, scale, output, request)
    write_regions(certifier, output)
    print(f"\nreport: {write_report(output)}")
    if stopped:
        print(f"stopped by {stopped}; continue with --resume")
    return 130 if stopped == "Ctrl-C" else 0


def _network(
    request: Request, table: Table, training: np.ndarray, output: Path
) -> Network:
    """Returns a network of physical units: trained, or what the output holds."""
    kept = output / NETWORK
    settings = {
        "data": table.name, "features": list(table.features), "seed": request.seed,
        "hidden": list(request.hidden), "train_eps": request.epsilon,
        "epochs": request.epochs,
    }  # fmt: skip
    if kept.exists():
        stored = checkpoint_metadata(kept).get("tabular") or {}
        for key, here in settings.items():
            if stored.get(key) != here:
                raise InputError(
                    f"{kept} is the network of other settings: {key} is "
                    f"{stored.get(key)!r} there and {here!r} here. Choose another "
                    "--output"
                )
        return load_checkpoint(kept)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    network = _trained(request, table, training)
    save_checkpoint(kept, network, {"tabular": settings})
    export_onnx(output / ONNX, network)
    return network


def _trained(request: Request, table: Table, training: np.ndarray) -> Network:
    """Returns a network trained on features scaled to [0, 1], with the scaling in it.

    The scaling is folded into the first layer, in float64; the weights that come of it
    are the network, and everything that is proved is about them.
    """
    x = table.x[training]
    low, width = x.min(axis=0), np.ptp(x, axis=0)
    width = np.where(width > 0, width, 1)
    images: Any = ((x - low) / width).astype(np.float32)
    data = Dataset(
        table.name, "train", images, table.labels[training], table.classes,
        "scikit-learn",
    )  # fmt: skip
    architecture = Architecture(
        "mlp", (x.shape[1],), len(table.classes), hidden=request.hidden
    )
    robust = request.epsilon > 0
    config = TrainConfig(
        method="pgd" if robust else "standard",
        epsilon=request.epsilon,
        epochs=request.epochs,
        batch_size=min(32, len(x)),
        learning_rate=5e-3,
        seed=request.seed,
        ramp_epochs=request.epochs / 4 if robust else 0.0,
    )
    network, _ = train(architecture, data, config)
    layers = dict(network.params["head"]["layers"])
    kernel, bias = (np.asarray(layers[0][k], np.float64) for k in ("kernel", "bias"))
    kernel = kernel / width[:, None]
    layers[0] = {"kernel": kernel, "bias": bias - low @ kernel}
    folded = {
        i: {k: np.asarray(v, np.float32) for k, v in layer.items()}
        for i, layer in layers.items()
    }
    params = {"head": {**network.params["head"], "layers": folded}}
    widths = "-".join(map(str, request.hidden))
    return from_params(params, architecture, f"{table.name} ({widths} hidden neurons)")


@float64()
def _predicted(network: Network, x: np.ndarray) -> np.ndarray:
    logits = jax.vmap(network.apply, (None, 0))(network.params, x)
    return np.argmax(np.asarray(logits), axis=1)


def _config(
    request: Request, table: Table, scale: Scale, network: Network
) -> dict[str, Any]:
    return {
        "model": network.name,
        "model_hash": network.content_hash,
        "dataset": table.name,
        "domain_lower": scale.domain.lo,
        "domain_upper": scale.domain.hi,
        "domain_is": "observed range" if scale.observed else "given",
        "rates": scale.rates.lower,
        "rates_are": "standard deviations" if scale.deviations else "given",
        "objective": "apothem",
        "grow": request.grow,
        "delta": request.delta,
        "tolerance": request.tolerance,
        # The report says "class" itself.
        "class_names": [name.removeprefix("class ") for name in table.classes],
        "feature_names": [
            f"{name} ({unit})" if unit else name
            for name, unit in zip(table.features, scale.units, strict=True)
        ],
    }


def _print_boxes(table: Table, scale: Scale, output: Path) -> None:
    run = read_run(output)
    print(units_sentence(table, scale))
    print(f"All that follows is about values in the {range_name(scale)}.")
    rate = "standard deviation" if scale.deviations else "rate"
    for row, record in enumerate(run.records):
        label = table.classes[record["label"]]
        predicted = table.classes[record["predicted"]]
        title = f"{record['input']} ({label})"
        if record["status"] != "certified":
            what = "nothing is proved of it"
            if record["status"] == "misclassified":
                what = f"predicted {predicted}, so that it gets no box"
            print(f"\n{title}: {what}.")
            continue
        lower = math.floor(record["apothem_lower"] * 1e3) / 1e3
        print(f"\n{title}: all features may move by {lower:.3f} {rate}s at once.")
        box = run.grown_lo[row], run.grown_hi[row]
        print(box_sentence(table, scale, record, run.x[row], box))
        grown = record["grown"]
        print(
            f"(ends: {grown['faces_stopped']} stopped by a counterexample, "
            f"{grown['faces_on_domain']} at the range's, {grown['faces_open']} open;\n"
            f"{_proof(grown['proof'])})"
        )


def _proof(proof: bool | None) -> str:
    return {
        True: "certificate with proof",
        False: "certificate of the faces alone",
        None: "no certificate",
    }[proof]


def _print_duals(
    certifier: Certifier, table: Table, scale: Scale, output: Path, request: Request
) -> None:
    """Computes dual boxes, writes and prints them."""
    deadline = time.monotonic() + request.time_limit
    write_whole(output / DUAL, b"")
    for name, where, domain in _places(scale, output, request):
        task = DualTask(domain, range(len(table.classes)), table.x)
        for box in dual_boxes(certifier.model, task, DualOptions(), deadline):
            record = {"input": name, **_dual_record(table, box)}
            append(output / DUAL, dumps(record, DUAL).encode() + b"\n")
            print(f"\n{dual_sentence(table, scale, box, where)}", flush=True)


def _places(
    scale: Scale, output: Path, request: Request
) -> Iterator[tuple[str | None, str, Box]]:
    """Yields (row, words, domain): the whole range, or the surroundings of each row."""
    if not request.within:
        yield None, f"in the {range_name(scale)}", scale.domain
        return
    run = read_run(output)
    for record, x in zip(run.records, run.x, strict=True):
        ball = _ball(x, request.within, scale)
        rate = "standard deviation" if scale.deviations else "rate"
        many = "" if request.within == 1 else "s"
        where = f"within {request.within:g} {rate}{many} of {record['input']}"
        yield record["input"], where, ball


@float64()
def _ball(x: np.ndarray, radius: float, scale: Scale) -> Box:
    ball = Box.ball(x, radius, scale.domain, scale.rates, outward=True)  # type: ignore[arg-type]
    return jax.device_get(ball)


def _dual_record(table: Table, box: DualBox) -> dict[str, Any]:
    return {
        "class": table.classes[box.label],
        "status": box.status,
        "outer_lo": box.outer.lo, "outer_hi": box.outer.hi,
        "inner_lo": box.inner.lo, "inner_hi": box.inner.hi,
        "subproblems": box.subproblems,
    }  # fmt: skip
