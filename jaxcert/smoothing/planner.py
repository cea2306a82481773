"""How many samples a radius takes, and what radius samples give: exact sums.

The agreement is the probability of the class under the noise: what the counts estimate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxcert.errors import InputError
from jaxcert.smoothing.binomial import hits_needed, lower_bound
from jaxcert.smoothing.options import MOST_SAMPLES, SmoothingOptions

# Binomial counts further than this from their mean weigh less than 1e-30.
_DEVIATIONS = 12.0


def largest_radius(options: SmoothingOptions) -> float:
    """Returns the radius that n samples certify if all of them agree.

    F^-1(alpha^(1/n)): nothing above it can be certified with them.
    """
    return float(options.noise.radius(_lower(np.array(options.n), options)))


def success_probability(
    radius: float, agreement: float, options: SmoothingOptions, eps: float = 0.0
) -> float:
    """Returns how probably n samples certify a radius; eps is the oracle's error.

    Raises:
      InputError: an agreement outside [0, 1].
    """
    from scipy import stats

    _check_agreement(agreement)
    p = options.noise.greatest(0.5, radius) + eps
    needed = hits_needed(options.n, np.minimum(p, 1.0), options.alpha_per_look())
    return float(stats.binom.sf(needed - 1, options.n, agreement))


def samples_needed(
    radius: float,
    agreement: float,
    options: SmoothingOptions,
    eps: float = 0.0,
    power: float = 0.9,
) -> int:
    """Returns how many samples certify a radius with probability `power`.

    So many do and one fewer does not. (The probability is a saw tooth, so that a
    somewhat smaller number may do by luck.)

    Args:
      radius: that is wanted.
      agreement: probability of the class under the noise.
      options: noise and alpha; `n` is what is asked for.
      eps: bound of the oracle's error.
      power: in (0, 1).

    Raises:
      InputError: the agreement does not carry that radius, whatever the samples; or
        more than 2^30 would be needed.
    """
    _check_agreement(agreement)
    if not 0 < power < 1:
        raise InputError(f"power is {power}; it must lie in (0, 1)")
    least = float(options.noise.greatest(0.5, radius)) + eps
    if agreement <= least:
        raise InputError(
            f"an agreement of {agreement:g} does not carry a radius of {radius:g}, "
            f"whatever the samples: it would have to exceed {least:.4g}"
        )

    def enough(n: int) -> bool:
        sampled = dataclasses.replace(options, n=n)
        return success_probability(radius, agreement, sampled, eps) >= power

    high = 1
    while not enough(high):
        if high == MOST_SAMPLES:
            raise InputError(
                f"a radius of {radius:g} at an agreement of {agreement:g} takes more "
                f"than {MOST_SAMPLES} samples: ask for a smaller one"
            )
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def expected_radius(
    agreement: float, options: SmoothingOptions, eps: float = 0.0
) -> float:
    """Returns the mean radius that n samples certify, abstentions counted as 0.

    Raises:
      InputError: an agreement outside [0, 1].
    """
    from scipy import stats

    _check_agreement(agreement)
    n = options.n
    reach = _DEVIATIONS * np.sqrt(n * agreement * (1 - agreement)) + 50
    ends = np.clip([n * agreement - reach, n * agreement + reach], 0, n)
    hits = np.arange(int(ends[0]), int(ends[1]) + 1)
    radii = options.noise.radius(np.maximum(_lower(hits, options) - eps, 0))
    return float(stats.binom.pmf(hits, n, agreement) @ radii)


def mean_radius(options: SmoothingOptions) -> float:
    """Returns the expected radius for an agreement that is uniform on [1/2, 1].

    Exact: the mean over the agreement of a binomial probability is an incomplete
    beta function.
    """
    from scipy import special

    n = options.n
    hits = np.arange(n // 2, n + 1)
    weight = 2 / (n + 1) * special.betaincc(hits + 1, n - hits + 1, 0.5)
    return float(weight @ options.noise.radius(_lower(hits, options)))


def scaling(
    samples: Sequence[int], options: SmoothingOptions
) -> Float[np.ndarray, " n"]:
    """Returns the mean radius with so many samples over that with infinitely many.

    The agreement is uniform on [1/2, 1]: with infinitely many samples the mean radius
    is the mean magnitude of the noise of one feature.
    """
    limit = options.noise.scale * options.noise.unit_magnitude
    means = [mean_radius(dataclasses.replace(options, n=n)) for n in samples]
    return np.array(means) / limit


def _lower(hits: np.ndarray, options: SmoothingOptions) -> np.ndarray:
    return lower_bound(hits, options.n, options.alpha_per_look())


def _check_agreement(agreement: float) -> None:
    if not 0 <= agreement <= 1:
        raise InputError(f"the agreement is {agreement}; it must lie in [0, 1]")
