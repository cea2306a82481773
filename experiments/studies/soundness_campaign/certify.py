"""Certificates of random networks: no point of a proved box, and every witness."""

from __future__ import annotations

import dataclasses

import numpy as np

import jaxcert as jc
from jaxcert.errors import InputError, UnsupportedError
from jaxcert.verdict import Status
from studies.soundness_campaign.bounds import Problems, least_values
from studies.soundness_campaign.exact import MODES, Asker
from studies.soundness_campaign.networks import Architecture
from studies.soundness_campaign.record import Suspicion, Tally, exact_margin, stack
from studies.soundness_campaign.weights import REGIMES, draw_center, draw_params

_INPUTS, _DOMAIN = 4, 2.0


def certify_group(
    rng: np.random.Generator,
    architecture: Architecture,
    networks: int,
    oracle: str,
    regimes: tuple[str, ...] = REGIMES,
    route: str = "jax",
) -> Tally:
    """Returns what certify claims: lower ends as PROVED, upper ones as REFUTED."""
    asker, tally = Asker(architecture, route), Tally()
    options = jc.CertifyOptions(
        oracle=oracle, batch_size=_INPUTS, max_steps=12, branch=MODES["inputs"]
    )
    shape, parts = architecture.shape, []
    for _ in range(networks):
        x = np.stack([draw_center(rng, shape) for _ in range(_INPUTS)])
        x = x.astype(architecture.float_type).astype(np.float64)
        regime = str(rng.choice(regimes))
        params = draw_params(rng, architecture, x[0], regime)
        tally.networks += 1
        try:
            with asker.context():
                answer = jc.certify(
                    *asker.network(params), x, domain=(-_DOMAIN, _DOMAIN),
                    tolerance=1e-3, options=options,
                )  # fmt: skip
        except InputError:
            tally.note("logits not finite")
            continue
        except UnsupportedError:
            tally.note("refused", networks)
            return tally
        for i in range(_INPUTS):
            label = int(answer.label[i])
            rows = np.eye(3)[label] - np.delete(np.eye(3), label, axis=0)
            lo, hi = answer.box.lo[i], answer.box.hi[i]
            has_box = bool(np.isfinite(lo).all())
            tally.count(Status.PROVED if has_box else Status.UNKNOWN)
            if has_box:
                parts.append((params, lo, hi, rows, f"{oracle}, {regime}"))
            _check_bracket(
                tally, architecture, params, rows, x[i],
                (lo, hi, float(answer.lower[i]), float(answer.upper[i])),
                answer.witness[i], f"certify {oracle}, {regime}",
            )  # fmt: skip
    if parts:
        _check_boxes(tally, architecture, parts, rng, asker.f)
    tally.suspicions = [dataclasses.replace(s, route=route) for s in tally.suspicions]
    return tally


def _check_bracket(
    tally: Tally, architecture: Architecture, params, rows, x, ends, witness, name
) -> None:  # fmt: skip
    """Doubts a witness that does not violate, and ends that do not fit them."""
    lo, hi, lower, upper = ends

    def doubt(claim: str, point: np.ndarray) -> None:
        tally.suspicions.append(
            Suspicion(claim, name, architecture, params, lo, hi, rows, np.zeros(2),
                      point)
        )  # fmt: skip

    if np.isfinite(lo).all():
        # The box must hold the ball of the radius that is claimed.
        radius = np.longdouble(lower if np.isfinite(lower) else 2 * _DOMAIN)
        low, high = np.maximum(x - radius, -_DOMAIN), np.minimum(x + radius, _DOMAIN)
        if not ((lo <= low) & (high <= hi)).all():
            doubt("box too small", x)
    if np.isfinite(witness).all():
        tally.count(Status.REFUTED)
        away = np.abs(witness.astype(np.longdouble) - x).max()
        if away > upper or not (np.abs(witness) <= _DOMAIN).all():
            doubt("witness outside", witness)
        elif exact_margin(architecture, params, witness, rows, np.zeros(2)) > 0:
            doubt("refuted", witness)


def _check_boxes(tally: Tally, architecture: Architecture, parts, rng, f) -> None:
    """Doubts boxes in which a point violates: the worst that the search finds."""
    params, lo, hi, rows, kinds = zip(*parts, strict=True)
    problems = Problems(
        architecture, stack(list(params)), np.stack(lo), np.stack(hi), np.stack(rows),
        list(kinds),
    )  # fmt: skip
    least, points = least_values(problems, rng, f)
    for m, r in np.argwhere(least <= 0):
        tally.suspicions.append(
            problems.suspicion("proved", "certify", m, r, 0.0, points[m, r])
        )
