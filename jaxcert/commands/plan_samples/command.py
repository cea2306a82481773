"""Tells how many samples randomized smoothing needs, before any is drawn.

    python experiments/plan_samples.py --sigma=0.25 --radius=0.5 --n=10000

For several agreements (probabilities of the class under the noise): the radius that
infinitely many samples would certify, the mean radius that n certify, the chance that n
certify the wanted radius, and how many samples do with chance --power. Then what is
lost with few samples. All are exact sums over the binomial distribution.
"""

from __future__ import annotations

import dataclasses
import math

from jaxcert.commands.options import Options, option
from jaxcert.commands.smoothing.run import NOISES
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `jaxcert plan_samples`."""

    noise: str = option("gaussian", "Kind of noise.", choices=tuple(NOISES))
    sigma: float = option(0.25, "Scale of the noise, in input units.")
    radius: float = option(0.5, "The wanted radius.", least=0, below=math.inf)
    n: int = option(10_000, "Samples that can be afforded.")
    alpha: float = option(
        0.001, "Most probability with which a certificate may be false."
    )
    oracle_error: float = option(0.0, "Bound of the oracle's error.", least=0, most=1)
    power: float = option(
        0.9, "Wanted chance of certifying the radius, for the last column."
    )
    agreements: tuple[float, ...] = option(
        (0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999),
        "Probabilities of the class under the noise, one row each.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.agreements:
            raise InputError("--agreements is empty: give numbers with commas")


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    noise = NOISES[request.noise](request.sigma)
    options = SmoothingOptions(noise=noise, n=request.n, alpha=request.alpha)
    budget = f"with {options.n:,}"
    rows = [_row(p, request, options) for p in request.agreements]
    print(f"{'':10}{'radius (' + noise.norm + ')':>14}{budget:>26}{'samples for':>15}")
    print(
        f"{'agreement':>10}{'at most':>14}{'mean radius':>13}"
        f"{f'P({request.radius:g})':>13}{f'{request.radius:g}':>15}"
    )
    print("-" * 65)
    print("\n".join(rows))
    print(f"largest radius of {options.n:,} samples: {largest_radius(options):.4f}\n")
    counts = (100, 1_000, 10_000, 100_000)
    print("mean radius, of that with infinitely many samples, agreement uniform on")
    shares = zip(counts, scaling(counts, options), strict=True)
    print("[1/2, 1]: " + ", ".join(f"{n:,}: {share:.3f}" for n, share in shares))
    return 0


def _row(agreement: float, request: Request, options: SmoothingOptions) -> str:
    eps, radius = request.oracle_error, request.radius
    chance = success_probability(radius, agreement, options, eps)
    try:
        needed = f"{samples_needed(radius, agreement, options, eps, request.power):,}"
    except InputError:
        if not 0 < request.power < 1:
            raise
        needed = "none"
    most = float(options.noise.radius(max(agreement - eps, 0.0)))
    mean = expected_radius(agreement, options, eps)
    return (
        f"{agreement:>10g}{format_number(most, 'down'):>14}"
        f"{format_number(mean, 'down'):>13}{chance:>13.3f}{needed:>15}"
    )
