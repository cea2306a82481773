"""Groups of networks that round on the way: casts, narrow types, computed weights.

Offsets are put so that the least value that f itself answers, operation by operation or
compiled, misses the spec by at most one rounding of its narrowest type, or meets it by
little: a library that takes a cast for the identity is wrong there, and so is one that
computes weights in another type than f.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import jaxcert as jc
from jaxcert.errors import UnsupportedError
from studies.soundness_campaign.bounds import Problems, least_values
from studies.soundness_campaign.exact import Asker
from studies.soundness_campaign.layers import mantissa_bits
from studies.soundness_campaign.networks import Architecture
from studies.soundness_campaign.own import own_outputs
from studies.soundness_campaign.record import Suspicion, Tally, stack
from studies.soundness_campaign.weights import draw_params

_PLAIN, _TANH = ("dense 6", "relu", "dense 3"), ("dense 6", "tanh", "dense 3")
CASTS = (
    ("cast bfloat16", *_PLAIN),
    ("low bfloat16 6", "relu", "low bfloat16 3"),
    ("dense 6", "relu", "cast float16", "dense 3"),
    ("dense 6", "reduce 8 3", "relu", "dense 3"),
    ("mixed bfloat16 6", "tanh", "dense 3"),
    (*_PLAIN, "cast bfloat16"),
    ("sawtooth bfloat16", *_PLAIN),
    ("low float16 6", "relu", "wide", "dense 3"),
    ("dense 6", "relu", "narrowed bfloat16 3"),
    ("dense 6", "relu", "cast float8_e4m3fn", "dense 3"),
    ("cast float8_e5m2", *_TANH),
)
"""Of two inputs each; further ones are drawn."""
COMPUTED = (
    ("cancelled 6", "relu", "dense 3"),
    ("dense 6", "statistics", "relu", "dense 3"),
    ("quantised bfloat16 6", "relu", "dense 3"),
    ("centred 6", "relu", "quantised float16 3"),
    ("dense 6", "tanh", "cancelled 3"),
)
DOUBLE_ROUNDED = ("dense 6", "relu", "cast float32", "dense 3")
_TYPES = ("bfloat16", "float16", "float8_e4m3fn")
# In roundings of the narrowest type; where the value is negative the spec is violated.
_LEVELS = (-1.0, -0.2, -0.02, 0.2, 2.0, 20.0)


def draw_casts(rng: np.random.Generator) -> Architecture:
    """Returns a network with casts to narrow types at random places."""
    layers: list[str] = []
    for layer in ("", "dense 6", str(rng.choice(["relu", "tanh", "abs"])), "dense 3"):
        layers += [layer] if layer else []
        if rng.random() < 0.4 or layer == "dense 6" == layers[0]:
            layers.append(f"cast {rng.choice(_TYPES)}")
    return Architecture((2,), tuple(layers))


def own_problems(
    rng: np.random.Generator, architecture: Architecture, networks: int
) -> Problems:
    """Returns problems on random networks, with boxes of a few roundings and wider."""
    bits = [b for b in map(mantissa_bits, architecture.layers) if b is not None]
    ulp = 2.0 ** -min(bits, default=7)
    shape, kind = architecture.shape, architecture.float_type
    params, lo, hi, rows, kinds = [], [], [], [], []
    for _ in range(networks):
        x = rng.uniform(-1, 1, shape).astype(kind)
        regime = str(rng.choice(["plain", "plain", "plain", "scaled", "dyadic"]))
        params.append(draw_params(rng, architecture, x, regime))
        name = str(rng.choice(["point", "one rounding", "roundings", "wide"]))
        size = {"point": 0, "one rounding": ulp, "roundings": 8 * ulp, "wide": 0.3}
        down, up = size[name] * rng.uniform(0.05, 0.5, (2, *shape))
        lo.append((x - down).astype(kind).astype(np.float64))
        hi.append((x + up).astype(kind).astype(np.float64))
        label = int(rng.integers(3))
        rows.append(np.eye(3)[label] - np.delete(np.eye(3), label, axis=0))
        kinds.append(f"{regime}, {name}")
    return Problems(
        architecture, stack(params), np.stack(lo), np.stack(hi), np.stack(rows), kinds
    )


def own_group(
    problems: Problems,
    rng: np.random.Generator,
    also: tuple[str, ...] = ("ibp", "inputs"),
    seconds: float = 0.1,
) -> Tally:
    """Returns verdicts on networks that round, judged by the networks themselves.

    Every spec is asked about by crown and attack, and by one of the other ways.
    """
    architecture = problems.architecture
    tally = Tally(networks=len(problems.lo))
    asker = Asker(architecture, "double" if architecture.double else "jax")
    least, points = least_values(problems, rng, asker.f)
    unit = _roundings(problems, points)
    witnesses: list[Suspicion] = []
    for m in range(len(problems.lo)):
        r = int(rng.integers(problems.rows.shape[1]))
        if not np.isfinite(float(least[m, r])):
            tally.note("no number")
        for level in _LEVELS:
            offset = float(level * unit[m, r] - np.nan_to_num(float(least[m, r])))
            violated = float(least[m, r]) + offset <= 0
            for way in ("crown", *rng.choice(also, min(len(also), 1))):
                asked = problems.suspicion("", way, m, r, offset, points[m, r])
                status = _ask(tally, asker, asked, violated, witnesses, seconds)
                if status is None:
                    return tally
    _check_witnesses(tally, witnesses)
    return tally


def _ask(
    tally: Tally, asker: Asker, asked: Suspicion, violated: bool,
    witnesses: list[Suspicion], seconds: float,
) -> Any:  # fmt: skip
    """Returns the status; None where the library refuses the network."""
    way = asked.oracle.partition(":")[0]
    spec: Any = jc.Spec.rows(asked.rows, asked.offset)  # type: ignore[arg-type]
    box = asked.lo, asked.hi
    try:
        verdict = asker.verdict(asked.params, box, spec, way, seconds)
    except UnsupportedError:
        tally.note("refused", tally.networks)
        return None
    tally.count(verdict.status)
    asked = dataclasses.replace(asked, route=asker.route)
    if verdict.proved and violated:
        tally.suspicions.append(dataclasses.replace(asked, claim="proved"))
    if verdict.refuted:
        point = np.asarray(verdict.witness, np.float64)
        inside = ((asked.lo <= point) & (point <= asked.hi)).all()
        claim = "refuted" if inside else "witness outside"
        witnesses.append(dataclasses.replace(asked, claim=claim, point=point))
    elif violated and not verdict.proved:
        tally.note("violated but unknown")
    return verdict.status


def _check_witnesses(tally: Tally, witnesses: list[Suspicion]) -> None:
    """Doubts the witnesses at which f, compiled or not, satisfies the spec."""
    if not witnesses:
        return
    outside = [w for w in witnesses if w.claim != "refuted"]
    inside = [w for w in witnesses if w.claim == "refuted"]
    tally.suspicions += outside
    if inside:
        points = np.stack([w.point for w in inside])[:, None]
        params = stack([w.params for w in inside])
        outputs = own_outputs(inside[0].architecture, params, points)[:, :, 0]
        rows = np.stack([w.rows[0] for w in inside])
        values = np.einsum("wmk,mk->wm", outputs, rows)
        values += np.stack([w.offset[0] for w in inside])
        satisfied = (values > 0).all(axis=0)
        tally.suspicions += [inside[i] for i in np.flatnonzero(satisfied)]


def _roundings(problems: Problems, points: np.ndarray) -> np.ndarray:
    """Returns what one rounding of the narrowest type changes in every row, (M, R)."""
    architecture = problems.architecture
    bits = [b for b in map(mantissa_bits, architecture.layers) if b is not None]
    outputs = own_outputs(architecture, problems.params, points)[0]
    size = np.abs(problems.rows)[:, :, None] @ np.abs(outputs)[..., None]
    size = np.nan_to_num(size[..., 0, 0], posinf=1, neginf=1)
    return 2.0 ** -min(bits, default=5) * (0.1 + size)
