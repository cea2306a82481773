"""Runs that are made up: records, and the arrays that belong to them."""

from __future__ import annotations

import math

import numpy as np

from jaxcert.report import (
    RunFiles,
)

EDGES = ("min_edge", "mean_edge", "max_edge", "log_volume")
CONFIG = {
    "model": "net.onnx",
    "model_hash": "ab" * 32,
    "dataset": "digits",
    "domain_lower": 0.0,
    "domain_upper": 1.0,
    "oracle": "crown",
    "tolerance": 1e-3,
    "time_limit": math.inf,
    "bounds": (0, 1),
}


def record(name, lower=0.05, upper=0.06, status="certified", label=3, **changes):
    """Returns a record; a misclassified one has apothem 0 and no edges."""
    wrong = status == "misclassified"
    values = {
        "input": name,
        "label": label,
        "predicted": label + 1 if wrong else label,
        "status": status,
        "objective": "apothem",
        "apothem_lower": 0.0 if wrong else lower,
        "apothem_upper": 0.0 if wrong else upper,
        "min_edge": math.nan if wrong else lower,
        "mean_edge": None if wrong else lower,
        "max_edge": None if wrong else 2 * lower,
        "log_volume": None if wrong else -12.5,
        "required_margin": 0.0,
        "arithmetic": "real",
        "oracle": "crown",
        "oracle_calls": 7,
        "subproblems": 0,
        "seconds": 0.25,
    }
    return {**values, **changes}


def arrays(records, shape=(8, 8), seed=0, config=CONFIG):
    """Returns x, lo, hi, witness, witness_class for the records.

    What their lines say of edges is made to agree with the boxes.
    """
    rng = np.random.default_rng(seed)
    lower, upper = (config[key] for key in ("domain_lower", "domain_upper"))
    known = np.isfinite([lower, upper]).all()
    x = rng.random((len(records), *shape)) * (upper - lower if known else 1)
    x += lower if known else 0
    lo, hi, witness = np.full((3, *x.shape), np.nan)
    rates = np.reshape(config.get("rates", np.ones(shape)), shape)
    classes = np.full(len(records), -1)
    for i, rec in enumerate(records):
        if rec["status"] == "certified":
            r = rec["apothem_lower"] * rates
            lo[i] = np.clip(x[i] - r, lower, upper)
            hi[i] = np.clip(x[i] + r, lower, upper)
            edges = hi[i] - lo[i]
            found = edges.min(), edges.mean(), edges.max(), np.log(edges).sum()
            rec |= zip(EDGES, map(float, found), strict=True)
        else:
            rec |= dict.fromkeys(EDGES)
        if rec["status"] != "misclassified" and math.isfinite(rec["apothem_upper"]):
            flat = x[i].ravel().copy()
            at = np.argmin(abs(flat - (lower + upper) / 2)) if known else 0
            way = 1 if not known or flat[at] < (lower + upper) / 2 else -1
            flat[at] += way * rec["apothem_upper"] * rates.ravel()[at]
            witness[i], classes[i] = flat.reshape(shape), 5
    return x, lo, hi, witness, classes


def write(path, records, shape=(8, 8), config=CONFIG, finish=True, command=""):
    with RunFiles(path, resume=False, config=config, command=command) as files:
        if records:
            files.append(records, *arrays(records, shape, config=config))
        if finish:
            files.finish()


def many(n, classes=10):
    rng = np.random.default_rng(1)
    statuses = ("certified", "certified", "misclassified", "unknown")
    records = []
    for i in range(n):
        status = statuses[i % 4]
        lower = 0.0 if status == "unknown" else float(rng.gamma(4, 0.02))
        upper = math.inf if i % 11 == 0 else lower + 0.01
        records.append(record(str(i), lower, upper, status, label=i % classes))
    return records


def with_grown(records, shape, config=CONFIG):
    """Returns what `append` takes, with boxes that grew by half of what is left."""
    x, lo, hi, witness, classes = arrays(records, shape, config=config)
    own = np.array([r["grown"] is not None for r in records])
    mask = own.reshape(-1, *[1] * len(shape))
    grown = np.where(mask, lo / 2, np.nan), np.where(mask, (1 + hi) / 2, np.nan)
    rates = np.reshape(config.get("rates", np.ones(shape)), shape)
    for i in np.flatnonzero(own):
        edges = grown[1][i] - grown[0][i]
        down, up = (x[i] - grown[0][i]) / rates, (grown[1][i] - x[i]) / rates
        down, up = down[grown[0][i] > 0], up[grown[1][i] < 1]
        found = edges.min(), edges.mean(), edges.max(), np.log(edges).sum()
        records[i]["grown"] |= zip(EDGES, map(float, found), strict=True)
        records[i]["grown"]["apothem"] = float(np.concatenate([down, up]).min())
    return x, lo, hi, witness, classes, grown


def grown_records(proof):
    values = {
        "objective": "min_edge", "delta": 1e-3, "apothem": math.inf, "min_edge": 0.2,
        "mean_edge": 0.5, "max_edge": 0.9, "log_volume": -math.inf,
        "faces_on_domain": 3, "faces_stopped": 124, "faces_open": 1, "subproblems": 9,
        "seconds": 1.5, "proof": proof,
    }  # fmt: skip
    return [
        record("0", grown=dict(values)),
        record("1", status="misclassified", grown=None),
        record("2", lower=0.1, upper=0.2, grown={**values, "mean_edge": 0.71}),
    ]
