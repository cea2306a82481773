"""Certificates of smoothed classifiers and generators, true with high probability."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxcert.errors import InputError
from jaxcert.smoothing.answers import (
    ABSTAINED,
    HarmlessCertificates,
    SmoothedCertificates,
)
from jaxcert.smoothing.binomial import lower_bound, upper_bound
from jaxcert.smoothing.options import Generated, OracleError, SmoothingOptions
from jaxcert.smoothing.smoother import Model, Smoother, Tally

_EXACT = OracleError()


def certify(
    model: Model,
    params: Any,
    key: Array,
    x: Float[ArrayLike, "m *d"],
    options: SmoothingOptions | None = None,
    oracle: OracleError = _EXACT,
) -> SmoothedCertificates:
    """Returns the class of every input and a radius in which it holds, or abstains.

    n0 samples choose the class, n fresh ones bound its probability from below; eps of
    the oracle is taken off, and p > 1/2 certifies the radius F^-1(p).

    Args:
      model: (params, x) -> logits (K,) of one input, or a `Generated`. Equal and
        hashable models share compiled programs.
      params: its parameters.
      key: from jax.random.key; or one per input. A key is used once: samples that
        answered one question must not answer a second that was chosen after it.
      x: inputs, taken as float32.
      options: noise, samples, alpha.
      oracle: bound of the oracle's error; exact by default.

    Raises:
      InputError: NaN in x, a key that is none, a model without logits, or so few
        samples that nothing could be certified; it says how many are the least.

    Source: Cohen et al. 2019, theorem 1 and figure "Certify"; see `noise.py` for the
    other norms. With an oracle: {oracle says c} is at most eps more likely than {class
    is c}, and the theorem holds for the latter event too, which is a random event of
    the noisy input like any other.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> f = lambda w, x: w @ x  # its smoothed margin is known: Phi(x_0 / sigma)
      >>> options = smoothing.SmoothingOptions(smoothing.Gaussian(0.5), n=10_000)
      >>> w, x = jnp.array([[1.0, 0.0], [-1.0, 0.0]]), jnp.array([[0.6, 0.2]])
      >>> found = smoothing.certify(f, w, jax.random.key(0), x, options)
      >>> int(found.predicted[0]), bool(0.55 < found.radius[0] < 0.6), found.norm
      (0, True, 'l2')
    """
    options = options or SmoothingOptions()
    options.check_samples(float(np.min(oracle.eps, initial=1.0)))
    smoother = Smoother(model, params, options)
    tally = smoother.select(key, x)
    while smoother.open(tally, oracle).any():
        tally = smoother.advance(tally, key, x, oracle=oracle)
    return conclude(tally, options, oracle)


def conclude(
    tally: Tally, options: SmoothingOptions, oracle: OracleError = _EXACT
) -> SmoothedCertificates:
    """Returns what a finished tally certifies; arguments as for `certify`.

    Raises:
      InputError: an input has another number of samples than was fixed beforehand.
    """
    _check_finished(tally, options)
    lower = lower_bound(tally.hits, tally.samples, options.alpha_per_look())
    p = np.maximum(np.nextafter(lower - oracle.of(len(lower)), -1.0), 0.0)
    radius = options.noise.radius(p)
    return SmoothedCertificates(
        predicted=np.where(p > 0.5, tally.selected, ABSTAINED),
        selected=tally.selected,
        hits=tally.hits,
        samples=tally.samples,
        p_lower=p,
        radius=radius,
        alpha=options.alpha + oracle.alpha,
        norm=options.noise.norm,
    )


def certify_harmless(
    model: Generated,
    params: Any,
    key: Array,
    x: Float[ArrayLike, "m *d"],
    threshold: float,
    options: SmoothingOptions | None = None,
    oracle: OracleError = _EXACT,
) -> HarmlessCertificates:
    """Returns within which radius outputs are harmful at most as often as allowed.

    The oracle answers 0 for harmless outputs; everything else counts as harmful. With
    p the upper bound of a harmful answer, plus eps, the radius is
    F^-1(threshold) - F^-1(p): the theorem of `noise.py`, read upwards. No class is
    chosen, so `n0` is not used.

    Args:
      threshold: in (0, 1).
      others: as for `certify`; no `stopping`.

    Raises:
      InputError: as `certify`, or a threshold outside (0, 1).
    """
    options = options or SmoothingOptions()
    if not 0 < threshold < 1:
        raise InputError(f"threshold is {threshold}; it must lie in (0, 1)")
    smoother = Smoother(model, params, _unstopped(options))
    tally = smoother.fixed(x, selected=0)
    while smoother.open(tally).any():
        tally = smoother.advance(tally, key, x)
    return conclude_harmless(tally, threshold, options, oracle)


def conclude_harmless(
    tally: Tally,
    threshold: float,
    options: SmoothingOptions,
    oracle: OracleError = _EXACT,
) -> HarmlessCertificates:
    """Returns what a finished tally says about harm, class 0 being harmless."""
    _check_finished(tally, _unstopped(options))
    harmful = tally.samples - tally.counts[:, 0]
    upper = upper_bound(harmful, tally.samples, options.alpha)
    p = np.minimum(np.nextafter(upper + oracle.of(len(upper)), 2.0), 1.0)
    return HarmlessCertificates(
        certified=p <= threshold,
        harmful=harmful,
        samples=tally.samples,
        p_upper=p,
        radius=options.noise.distance(p, np.full_like(p, threshold)),
        threshold=threshold,
        alpha=options.alpha + oracle.alpha,
        noise=options.noise,
    )


def _unstopped(options: SmoothingOptions) -> SmoothingOptions:
    if options.stopping is not None:
        raise InputError("certify_harmless takes no stopping: fix n beforehand")
    return options


def _check_finished(tally: Tally, options: SmoothingOptions) -> None:
    if not np.isin(tally.samples, options.looks()).all():
        raise InputError(
            f"{int(tally.samples.min())} samples were drawn, but {options.n} were "
            "fixed beforehand: draw them all, for a bound at a moment of one's own "
            "choice is none"
        )
