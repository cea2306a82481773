"""The check of smoothed answers: what their counts imply, in rational numbers.

An answer says of an input that a class has a probability above 1/2 under noise, at
every point nearer than a radius. It rests on counts: so many of the noisy samples were
of that class. What follows from the counts is checked. That the samples were drawn as
the file says, independently and their number fixed beforehand, cannot be: the claim is
that of somebody who believes it, and says so.

The file is a certificate (`reading.py`) of version 4, whose `header` has
  "claim": "smoothed"; "network": {"sha256"} of what was smoothed, which is repeated in
    the claim; "noise": "gaussian", "laplace" or "uniform", and its "scale" s > 0;
  "alpha", the most chance with which an answer may be false, and "looks", the numbers
    of samples at which counting may have ended; "oracle_alpha" >= 0, the chance that
    the oracle errs more than eps;
of M answers it has int32 (M,) selected, the class, hits and samples, and float64 (M,)
eps, p and radius; a radius of 0 claims nothing.

The proof. Were the probability of a hit below p, then so many hits had a chance of
at most P(Binomial(samples, p) >= hits), as this grows with p. It is <= alpha / looks
(`tail`; Clopper and Pearson 1934), so with a chance of 1 - alpha this does not happen
at any look. What the oracle calls a hit is none with a chance of at most eps, so the
class has a probability q >= p - eps. With F the distribution function of the noise of
one feature, at distance d the class still has F(F^-1(q) - d / s) or more, in the l1
norm or, for Gaussian noise, the l2 norm (Cohen et al. 2019; Teng et al. 2020; Yang et
al. 2020): above 1/2 for d < radius, as F(radius / s) <= p - eps (`cdf`).
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .arithmetic import Arithmetic
from .claim import Expected, Finding, Span, Status, exact, rounded, span
from .curves import decay
from .reading import need, take, whole

NORMS = {"gaussian": "l2", "laplace": "l1", "uniform": "l1"}  # by noise
_BITS = 192  # that are kept of a number
_SMALL = Fraction(1, 2**120)  # a term of which a sum may do without the next ones
_SAMPLES = 2**22  # at most
_ROOT = Fraction(39894228040143267795, 10**20)  # > 1 / sqrt(2 pi)


@dataclass(frozen=True)
class SmoothedReport(Finding):
    """What was found of smoothed answers.

    Attributes:
      answers, told: how many there are, and how many have a radius above 0.
      noise, norm, scale: what was added, and the norm of the radii.
      alpha, oracle_alpha: the most chance that an answer is false, and that the oracle
        errs more often than the file says.
      radius: of those that have one.
    """

    answers: int = 0
    told: int = 0
    noise: str = ""
    norm: str = ""
    scale: float = math.nan
    alpha: float = math.nan
    oracle_alpha: float = math.nan
    radius: Span = (math.nan, math.nan)

    def words(self) -> str:
        """Returns the claim in words."""
        ends = [rounded(end, "FLOOR") for end in self.radius]
        chance = exact(self.alpha)
        if self.oracle_alpha:
            chance += f" + {exact(self.oracle_alpha)}"
        return (
            f"{self.told} of {self.answers} answers: a class has a probability above "
            f"1/2 for all inputs nearer than a radius, {ends[0]} .. {ends[1]} "
            f"({self.norm} norm), under {self.noise} noise of scale "
            f"{exact(self.scale)}; each is false with a chance of {chance} at most if "
            f"the samples were drawn as stated, which is not checked; network "
            f"{self.network_sha256[:16]}"
        )


class SmoothedCertificate:
    """Smoothed answers; the methods reject what they cannot confirm."""

    report = SmoothedReport
    scale: float
    alpha: float
    oracle_alpha: float

    def __init__(self, path, head, arrays, expected: Expected, exact: bool) -> None:
        self.a = arrays
        expected.demand_only("smoothed answers", "network")
        self.sha256 = str(head["network"].get("sha256"))
        known = bool(re.fullmatch("[0-9a-f]{64}", self.sha256))
        need(known, f"the network's sha256 is {self.sha256[:40]!r}")
        same = expected.network in (None, self.sha256)
        need(same, f"it speaks of another network, {self.sha256[:16]!r}")
        self.noise = str(head["noise"])
        need(self.noise in NORMS, f"the noise is {self.noise[:40]!r}")
        numbers = {"scale": 2.0**100, "alpha": 1.0, "oracle_alpha": 1.0}
        for name, most in numbers.items():
            value = float(whole(head[name], 0, most, name, (int, float)))
            need(value > 0 or name == "oracle_alpha", f"{name} is 0")
            setattr(self, name, value)
        self.looks = [whole(n, 1, _SAMPLES + 1, "looks") for n in head["looks"]]
        need(bool(self.looks), "there is no look")

    def check(self) -> dict[str, Any]:
        """Returns what follows from the counts."""
        need("radius" in self.a, "there is no array 'radius'")
        shape = self.a["radius"].shape[:1]
        types = dict.fromkeys(("selected", "hits", "samples"), "i4")
        types |= dict.fromkeys(("eps", "p", "radius"), "f8")
        for name, kind in types.items():
            take(self.a, name, kind, shape)
        strange = sorted(set(self.a) - set(types))
        need(not strange, f"arrays {strange[:3]} do not belong to the format")
        _, hits, samples, eps, p, radius = (self.a[name] for name in types)
        need(np.isin(samples, self.looks), "samples is none of the looks")
        need((hits >= 0) & (hits <= samples), "hits is not within samples")
        need((eps >= 0) & (p >= 0) & (p < 1), "eps or p is out of range")
        need(radius >= 0, "radius is negative")
        alpha = Fraction(self.alpha) / len(set(self.looks))
        told = np.flatnonzero(radius > 0).tolist()
        for i in told:
            least = Fraction(p[i])
            chance = tail(int(samples[i]), int(hits[i]), least)
            need(
                chance <= alpha, f"answer {i}: so many hits have a greater chance at p"
            )
            left = cdf(self.noise, Fraction(radius[i]) / Fraction(self.scale))
            need(
                left <= least - Fraction(eps[i]), f"answer {i}: the radius is too great"
            )
        return {
            "network_sha256": self.sha256, "answers": len(radius), "told": len(told),
            "noise": self.noise, "norm": NORMS[self.noise], "scale": self.scale,
            "alpha": self.alpha, "oracle_alpha": self.oracle_alpha,
            "radius": span(radius[told]) if told else (0.0, 0.0),
        }  # fmt: skip

    def judged(self) -> tuple[Status, str]:
        """Returns what is to be thought of it, and why."""
        if Fraction(self.alpha) + Fraction(self.oracle_alpha) >= 1:
            return Status.VACUOUS, "every answer may be false"
        if (self.a["radius"] > 0).any():
            return Status.ACCEPTED, ""
        return Status.VACUOUS, "no radius is above 0"


def _rounded(m: int, e: int) -> tuple[int, int]:
    """Returns m and e of a number >= m 2^e, m of so many bits at most."""
    spare = max(0, m.bit_length() - _BITS)
    return -(-m >> spare), e + spare


def tail(n: int, k: int, p: Fraction) -> Fraction:
    """Returns >= P(Binomial(n, p) >= k), for 0 <= p < 1.

    The sum of C(n, i) p^i (1 - p)^(n - i) over i >= k. The first one is p^k times
    (k + j) (1 - p) / j for j = 1 .. n - k, each other one is (n - i) p / ((i + 1)
    (1 - p)) times that before; every step is rounded up, in units of 2^e.
    """
    if k <= 0 or p == 0:
        return Fraction(k <= 0)
    hit, miss, bits = p.numerator, p.denominator - p.numerator, p.denominator
    shift = bits.bit_length() - 1
    need(bits == 1 << shift, "p is no binary fraction")
    m, e, power, scale = 1 << _BITS, -_BITS, hit, -shift
    for bit in reversed(bin(k)[2:]):
        if bit == "1":
            m, e = _rounded(m * power, e + scale)
        power, scale = _rounded(power * power, 2 * scale)
    for j in range(1, n - k + 1):
        m, e = _rounded(-(-m * (k + j) * miss // j), e - shift)
    lost = _BITS - m.bit_length()
    m, e = m << max(0, lost), e - max(0, lost)
    total = m
    for i in range(k, n):
        m = -(-m * (n - i) * hit // ((i + 1) * miss))
        total += m
        if m <= 1 and (n - i) * hit < (i + 1) * miss:
            total += n - i  # the terms fall, none is more than a unit
            break
    return Fraction(total) * Fraction(2) ** e


def cdf(noise: str, t: Fraction) -> Fraction:
    """Returns >= F(t) for t >= 0, F of noise of scale 1.

    Uniform on [-1, 1]: (1 + t) / 2 up to 1. Laplace: 1 - exp(-t) / 2. Gaussian:
    1/2 + exp(-t^2 / 2) / sqrt(2 pi) (t + t^3 / 3 + t^5 / (3 5) + ...), of which each
    term is t^2 / (2 k + 1) times that before; once this is <= 1/2, all that follow a
    term are together at most that term.
    """
    b, half = Arithmetic(True), Fraction(1, 2)
    if noise == "uniform":
        return min(Fraction(1), (1 + t) / 2)
    if noise == "laplace":
        return 1 - decay(b, np.array([t], object))[0][0] / 2
    square = b.above(np.array([t * t], object), 1)[0]
    if square > 100:
        return Fraction(1)
    most = decay(b, np.array([t * t / 2], object))[1][0]
    term, total, k = t, t, 1
    while 2 * square > 2 * k + 1 or term > _SMALL:
        term = b.above(np.array([term * square / (2 * k + 1)], object), 1)[0]
        total, k = total + term, k + 1
    return min(Fraction(1), half + most * _ROOT * (total + term))
