"""Groups of random networks whose bounds and verdicts are held against points.

All networks of a group have one architecture, and everything jaxcert computes about
them is one vectorised program. The least value of every row of the spec that corners,
random points, gradients and coordinate steps find is judged in longdouble; offsets are
then put so that this least margin is just above, at and just below zero.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcert as jc
from jaxcert.bounds import rounding
from jaxcert.certifier import float64
from jaxcert.oracle.bounds import BoundOracle
from jaxcert.trace.tracing import program_as_given
from jaxcert.verdict import Status
from studies.soundness_campaign.networks import Architecture, Params
from studies.soundness_campaign.numbers import LONG
from studies.soundness_campaign.own import own_least
from studies.soundness_campaign.record import Suspicion, Tally, pick, stack
from studies.soundness_campaign.weights import (
    BOXES,
    REGIMES,
    draw_box,
    draw_center,
    draw_params,
)

BOXES_PER_NETWORK = 2
_QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
# Offsets that put the least margin found at these multiples of the library's slack, at
# these absolute values, and the library's own bound just above its slack.
_IN_SLACKS = (-2.0, -0.5, -0.01, 0.0, 0.5)
_ABSOLUTE = (-1e-3, 1e-3)
_LEVELS = len(_IN_SLACKS) + len(_ABSOLUTE) + 2


@dataclasses.dataclass(frozen=True, eq=False)
class Problems:
    """M problems on one architecture: weights, box and spec rows of each.

    Attributes:
      architecture: of all of them.
      params: weights, leaves (M, ...).
      lo, hi: boxes, (M, *d).
      rows: spec rows, (M, R, K).
      kinds: what each is called.
    """

    architecture: Architecture
    params: Params
    lo: np.ndarray
    hi: np.ndarray
    rows: np.ndarray
    kinds: list[str]

    def values(self, points: np.ndarray) -> np.ndarray:
        """Returns every row at points (M, P, *d), in longdouble: (M, P, R)."""
        lifted = jax.tree.map(LONG.convert, self.params)
        with np.errstate(all="ignore"):
            y = self.architecture.evaluate(LONG, lifted, LONG.convert(points))
            return np.matmul(y, LONG.convert(self.rows).swapaxes(1, 2))

    def suspicion(
        self, claim: str, oracle: str, m: int, r: int, offset: Any, point: np.ndarray
    ) -> Suspicion:
        """Returns a suspicion about row r of problem m."""
        return Suspicion(
            claim, f"{oracle}: {self.kinds[m]}", self.architecture,
            pick(self.params, m), self.lo[m], self.hi[m], self.rows[m, r : r + 1],
            np.array([offset], np.float64), point,
        )  # fmt: skip


def draw_problems(
    rng: np.random.Generator,
    architecture: Architecture,
    networks: int,
    regimes: tuple[str, ...] = REGIMES,
    boxes: tuple[str, ...] = BOXES,
) -> Problems:
    """Returns problems on random networks, two boxes around one point for each."""
    params, lo, hi, rows, kinds = [], [], [], [], []
    for _ in range(networks):
        x = draw_center(rng, architecture.shape)
        regime = str(rng.choice(regimes))
        drawn = draw_params(rng, architecture, x, regime)
        for _ in range(BOXES_PER_NETWORK):
            kind = str(rng.choice(boxes))
            low, high = draw_box(rng, x, kind)
            kinds.append(f"{regime}, {kind}")
            params.append(drawn)
            lo.append(low)
            hi.append(high)
            rows.append(_draw_rows(rng))
    return Problems(
        architecture, stack(params), np.stack(lo), np.stack(hi), np.stack(rows), kinds
    )


def _draw_rows(rng: np.random.Generator) -> np.ndarray:
    """Returns both classification rows of a class, and a third row of some kind."""
    label = int(rng.integers(3))
    eye = np.eye(3)
    rows = [eye[label] - eye[j] for j in range(3) if j != label]
    rows.append([eye[label], rng.normal(size=3), -rows[0]][rng.integers(3)])
    return np.array(rows)


def bounds_group(problems: Problems, rng: np.random.Generator) -> Tally:
    """Returns what ibp, crown and the attack claim, held against points."""
    f = problems.architecture.function()
    tally = Tally(networks=len(problems.lo) // BOXES_PER_NETWORK)
    least, points = least_values(problems, rng, f)
    claims = jax.jit(functools.partial(_claims, f))

    @float64()
    def claimed_with(offsets: np.ndarray) -> Any:
        arguments = problems.params, problems.lo, problems.hi, problems.rows
        return jax.device_get(claims(*arguments, offsets))

    first = claimed_with(np.zeros((*problems.rows.shape[:2], _LEVELS)))
    offsets = _offsets(least, first)
    second = claimed_with(offsets)
    tally.note("unjudged", np.isinf(least).sum())
    for name in ("ibp", "crown"):
        bound, slack = first[name]["bound"][..., 0], first[name]["slack"]
        with np.errstate(invalid="ignore"):
            claimed = LONG.convert(bound) - LONG.convert(slack)
            outside = least < claimed
        tally.note("bounds", int(np.isfinite(claimed).sum()))
        for m, r in np.argwhere(outside):
            offset = np.nextafter(float(-claimed[m, r]), np.inf)
            tally.suspicions.append(
                problems.suspicion("bound", name, m, r, offset, points[m, r])
            )
        status = second[name]["status"]
        tally.count(status)
        wrong = (status == Status.PROVED) & (least[..., None] + offsets <= 0)
        for m, r, k in np.argwhere(wrong):
            tally.suspicions.append(
                problems.suspicion("proved", name, m, r, offsets[m, r, k], points[m, r])
            )
    _check_witnesses(problems, tally, second["attack"], offsets)
    return tally


def _check_witnesses(
    problems: Problems, tally: Tally, attack: Any, offsets: np.ndarray
) -> None:
    refuted = attack["status"] == Status.REFUTED
    tally.count(attack["status"])
    witness = attack["witness"]  # (M, R, L, *d)
    flat = witness.reshape(len(witness), -1, *problems.architecture.shape)
    values = problems.values(np.nan_to_num(flat)).reshape(*offsets.shape, -1)
    axes = tuple(range(3, witness.ndim))
    box = problems.lo[:, None, None], problems.hi[:, None, None]
    inside = ((box[0] <= witness) & (witness <= box[1])).all(axis=axes)
    for m, r, k in np.argwhere(refuted):
        claim = None if inside[m, r, k] else "witness outside"
        if not values[m, r, k, r] + LONG.convert(offsets[m, r, k]) <= 0:
            claim = claim or "refuted"
        if claim:
            at = offsets[m, r, k], witness[m, r, k]
            tally.suspicions.append(problems.suspicion(claim, "attack", m, r, *at))


def _claims(f: Any, params: Any, lo: Any, hi: Any, rows: Any, offsets: Any) -> Any:
    """Returns status, bound and slack of every oracle, (M, R, L), and witnesses."""
    oracles = {"ibp": BoundOracle(jc.ibp(f)), "crown": BoundOracle(jc.crown(f))}
    attack = jc.attack(f)

    def one(params: Any, lo: Any, hi: Any, row: Any, offset: Any) -> Any:
        box, spec = jc.Box(lo, hi), jc.Spec.rows(row[None], offset[None])
        out: dict[str, Any] = {}
        for name, oracle in oracles.items():
            verdict = oracle(params, box, spec, box.center)
            out[name] = {"status": verdict.status, "bound": verdict.bound}
        found = attack(params, box, spec)
        out["attack"] = {"status": found.status, "witness": found.witness}
        return out

    def slack(params: Any, lo: Any, hi: Any, row: Any) -> Any:
        program = program_as_given(f, params, lo)
        values = program.prepare(params, lo.dtype)
        box, spec = jc.Box(lo, hi), jc.Spec.rows(row[None], jnp.zeros(1))
        slacks = {}
        for name, oracle in oracles.items():
            _, boxes = oracle.method.rows_and_boxes(params, box, spec)
            slacks[name] = rounding.float64_slack(
                program, values, boxes, spec.coefficients
            )
        return slacks

    def over(function: Any, offset: bool) -> Any:
        last = (0,) if offset else ()
        if offset:
            function = jax.vmap(function, (None, None, None, None, 0))
        return _over_problems(jax.vmap(function, (None, None, None, 0, *last)))

    out = over(one, True)(params, lo, hi, rows, offsets)
    for name, value in over(slack, False)(params, lo, hi, rows).items():
        out[name]["slack"] = value
    return out


def _offsets(least: np.ndarray, claims: Any) -> np.ndarray:
    """Returns offsets (M, R, L) that put the least margin found next to zero."""
    with np.errstate(all="ignore"):
        slack = np.minimum(claims["ibp"]["slack"], claims["crown"]["slack"])
        slack = np.where(np.isfinite(slack), slack, 1.0)
        levels = [-least + LONG.convert(k * slack) for k in _IN_SLACKS]
        levels += [LONG.convert(a) - least for a in _ABSOLUTE]
        for name in ("ibp", "crown"):
            bound = claims[name]["bound"][..., 0]
            levels.append(-bound + 1.001 * claims[name]["slack"])
        offsets = np.stack(levels, axis=-1).astype(np.float64)
    # An offset that float64 cannot hold asks for nothing.
    return np.where(np.isfinite(offsets), offsets, 0.0)


def least_values(
    problems: Problems, rng: np.random.Generator, f: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least value found of every row, longdouble (M, R), and its points.

    Infinite where no point could be judged: longdouble overflows there, too. Networks
    that round on the way are judged by themselves, see `own_least`.
    """
    if problems.architecture.own:
        return own_least(
            problems.architecture, problems.params, problems.lo, problems.hi,
            problems.rows, rng,
        )  # fmt: skip
    shape, count = problems.architecture.shape, len(problems.lo)
    size = int(np.prod(shape))
    low, high = problems.lo[:, None], problems.hi[:, None]
    if size <= 4:
        bits = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
    else:
        bits = rng.integers(0, 2, (24, size))
    corners = np.where(bits.reshape(1, -1, *shape) == 1, high, low)
    inside = low + (high - low) * rng.random((count, 12, *shape))
    middle = low + (high - low) / 2
    descend = jax.jit(functools.partial(_descend, f), compiler_options=_QUICK)
    starts = np.concatenate([middle, inside[:, :2]], axis=1)
    arguments = problems.params, problems.lo, problems.hi, problems.rows, starts
    found = jax.device_get(float64()(descend)(*arguments))
    found = found.reshape(count, -1, *shape)
    points = np.concatenate([corners, inside, middle, np.nan_to_num(found)], axis=1)
    points = np.clip(points, low, high)
    least, best = _least(problems, points)
    for _ in range(2 if size <= 6 else 1):
        least, best = _coordinate_steps(problems, least, best)
    return least, best


def _least(problems: Problems, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = problems.values(points)
    values = np.where(np.isnan(values), np.inf, values)
    index = values.argmin(axis=1)  # (M, R)
    least = np.take_along_axis(values, index[:, None], axis=1)[:, 0]
    return least, points[np.arange(len(points))[:, None], index]


def _coordinate_steps(
    problems: Problems, least: np.ndarray, best: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least values after moving one coordinate of the best points."""
    count, rows = least.shape
    size = int(np.prod(problems.architecture.shape))
    flat = best.reshape(count, rows, 1, 1, size)
    low = problems.lo.reshape(count, 1, 1, 1, size)
    high = problems.hi.reshape(count, 1, 1, 1, size)
    ways = [low, high, low + (high - low) / 2, np.nextafter(flat, -np.inf),
            np.nextafter(flat, np.inf)]  # fmt: skip
    targets = np.concatenate([np.broadcast_to(w, flat.shape) for w in ways], axis=2)
    own = np.eye(size, dtype=bool)[:, None, :]  # (d, 1, d)
    moved = np.where(own, targets[:, :, None, :, 0], flat)
    moved = np.clip(moved, low, high)
    points = moved.reshape(count, -1, *problems.architecture.shape)
    new_least, new_best = _least(problems, points)
    better = new_least < least
    wide = better.reshape(*better.shape, *[1] * (best.ndim - 2))
    return np.where(better, new_least, least), np.where(wide, new_best, best)


def _descend(f: Any, params: Any, lo: Any, hi: Any, rows: Any, starts: Any) -> Any:
    """Returns points on the way of signed gradient steps, per row and start."""
    rates = jnp.asarray([1.0, 0.5, 0.2, 0.05, 0.01, 1.0])

    def one(params: Any, lo: Any, hi: Any, row: Any, start: Any) -> Any:
        gradient = jax.grad(lambda z: row @ f(params, z))

        def step(z: Any, rate: Any) -> Any:
            z = jnp.clip(z - rate * (hi - lo) * jnp.sign(gradient(z)), lo, hi)
            return z, z

        return jax.lax.scan(step, start, rates)[1]

    over = jax.vmap(one, (None, None, None, None, 0))
    over = jax.vmap(over, (None, None, None, 0, None))
    return _over_problems(over)(params, lo, hi, rows, starts)


def _over_problems(function: Any) -> Any:
    """Returns the function of stacks of problems; images one by one.

    XLA makes a convolution by a batch of kernels a grouped one, which takes some eight
    times as long on a CPU.
    """

    def many(params: Any, lo: Any, *rest: Any) -> Any:
        arguments = params, lo, *rest
        if lo.ndim <= 2:
            return jax.vmap(function)(*arguments)
        return jax.lax.map(lambda v: function(*v), arguments)

    return many
