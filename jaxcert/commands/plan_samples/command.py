"""Tells how many samples randomized smoothing needs, before any is drawn.

    python experiments/plan_samples.py --scale=0.25 --radius=0.5 --n=10000

For several agreements (probabilities of the class under the noise): the radius that
infinitely many samples would certify, the mean radius that n certify, the chance that n
certify the wanted radius, and how many samples do with chance --power. Then what is
lost with few samples. All are exact sums over the binomial distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from jaxcert.commands.smoothing.options import NOISES, numbers
from jaxcert.errors import InputError
from jaxcert.report.summary import format_number
from jaxcert.smoothing import (
    SmoothingOptions,
    expected_radius,
    largest_radius,
    samples_needed,
    scaling,
    success_probability,
)

_NOISE = flags.DEFINE_enum("noise", "gaussian", list(NOISES), "Kind of noise.")
_SCALE = flags.DEFINE_float(
    "scale", 0.25, "Scale of the noise, in input units (sigma)."
)
_RADIUS = flags.DEFINE_float("radius", 0.5, "The wanted radius.", 0.0)
_N = flags.DEFINE_integer("n", 10_000, "Samples that can be afforded.")
_ALPHA = flags.DEFINE_float(
    "alpha", 0.001, "Most probability with which a certificate may be false."
)
_EPS = flags.DEFINE_float("eps", 0.0, "Bound of the oracle's error.", 0.0, 1.0)
_POWER = flags.DEFINE_float(
    "power", 0.9, "Wanted chance of certifying the radius, for the last column."
)
_AGREEMENTS = flags.DEFINE_list(
    "agreements",
    "0.6,0.7,0.8,0.9,0.95,0.99,0.999,0.9999".split(","),
    "Probabilities of the class under the noise, one row each.",
)


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    noise = NOISES[_NOISE.value](_SCALE.value)
    options = SmoothingOptions(noise=noise, n=_N.value, alpha=_ALPHA.value)
    budget = f"with {options.n:,}"
    rows = [_row(p, options) for p in numbers("agreements", tuple(_AGREEMENTS.value))]
    if not rows:
        raise InputError("--agreements is empty: give numbers with commas")
    print(f"{'':10}{'radius (' + noise.norm + ')':>14}{budget:>26}{'samples for':>15}")
    print(
        f"{'agreement':>10}{'at most':>14}{'mean radius':>13}"
        f"{f'P({_RADIUS.value:g})':>13}{f'{_RADIUS.value:g}':>15}"
    )
    print("-" * 65)
    print("\n".join(rows))
    print(f"largest radius of {options.n:,} samples: {largest_radius(options):.4f}\n")
    counts = (100, 1_000, 10_000, 100_000)
    print("mean radius, of that with infinitely many samples, agreement uniform on")
    shares = zip(counts, scaling(counts, options), strict=True)
    print("[1/2, 1]: " + ", ".join(f"{n:,}: {share:.3f}" for n, share in shares))
    return 0


def _row(agreement: float, options: SmoothingOptions) -> str:
    eps, radius = _EPS.value, _RADIUS.value
    chance = success_probability(radius, agreement, options, eps)
    try:
        needed = f"{samples_needed(radius, agreement, options, eps, _POWER.value):,}"
    except InputError:
        if not 0 < _POWER.value < 1:
            raise
        needed = "none"
    most = float(options.noise.radius(max(agreement - eps, 0.0)))
    mean = expected_radius(agreement, options, eps)
    return (
        f"{agreement:>10g}{format_number(most, 'down'):>14}"
        f"{format_number(mean, 'down'):>13}{chance:>13.3f}{needed:>15}"
    )
