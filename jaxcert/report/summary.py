"""What a run's records come to: counts, means, certified accuracy, one sentence."""

from __future__ import annotations

import decimal
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

OBJECTIVE = "apothem"
OBJECTIVES = {"linf": OBJECTIVE, "l1": "l1 radius", "l2": "l2 radius"}
"""What brackets are about, by norm: lines of runs say it, and reports speak so."""


def norm_of_objective(objective: str) -> str:
    """Returns the norm of whose balls a run is: "linf" of what is about boxes."""
    return {said: norm for norm, said in OBJECTIVES.items()}.get(objective, "linf")


_MOST_RADII = 8

_ROUNDING = {
    "down": decimal.ROUND_FLOOR,
    "up": decimal.ROUND_CEILING,
    "nearest": decimal.ROUND_HALF_EVEN,
}


def format_number(
    value: float | None, rounding: Literal["down", "up", "nearest"] = "nearest"
) -> str:
    """Returns the number in at most nine characters; "-" where there is none.

    What is proved is rounded down and what is refuted is rounded up, so that no printed
    bracket claims more than the stored one.
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    # The decimal that a float is read back from: 0.3 is to be printed as 0.3000, not
    # as 0.2999 because its binary form is 1e-17 below.
    exact = decimal.Decimal(repr(float(value)))
    # Four decimals where they tell something, else fewer, else three digits.
    exponent = exact.adjusted()
    if -4 < exponent < 6:
        step = decimal.Decimal("0.0001" if exponent < 3 else "0.1")
    else:
        step = decimal.Decimal((0, (1,), exponent - 2))
    context = decimal.Context(prec=400, Emin=-9999, Emax=9999)
    rounded = exact.quantize(step, rounding=_ROUNDING[rounding], context=context)
    if -4 < exponent < 6:
        return f"{rounded:f}"
    return f"{float(rounded):.2e}"


def format_percent(part: int, whole: int, rounding: Literal["down", "up"]) -> str:
    """Returns `part` of `whole` in per cent with one decimal; "-" of nothing."""
    if whole == 0:
        return "-"
    scaled = 1000 * part
    tenths = scaled // whole if rounding == "down" else -(-scaled // whole)
    return f"{tenths // 10}.{tenths % 10}%"


def finite(values: Iterable[float | None]) -> list[float]:
    """Returns the values that are neither infinite nor NaN nor missing."""
    return [v for v in values if v is not None and math.isfinite(v)]


def mean(values: Sequence[float]) -> float | None:
    """Returns the mean, infinite if a value is infinite; None of no values."""
    return math.fsum(values) / len(values) if values else None


def median(values: Sequence[float]) -> float | None:
    """Returns the median; None of no values."""
    return statistics.median(values) if values else None


def accuracy_at(records: Sequence[Mapping[str, Any]], radius: float) -> tuple[int, int]:
    """Returns how many inputs are (proved, not refuted) when all features move by r.

    Proved: correctly classified and r <= apothem_lower. Not refuted: correctly
    classified and r <= apothem_upper. At r = 0 only certified inputs count as proved:
    an unknown input has the lower end 0 because nothing was proved.
    """
    proved = refutable = 0
    for record in records:
        if record["status"] == "misclassified":
            continue
        certified = radius > 0 or record["status"] == "certified"
        proved += certified and record["apothem_lower"] >= radius
        refutable += record["apothem_upper"] >= radius
    return proved, refutable


def telling_radius(lower: Sequence[float]) -> float | None:
    """Returns a round radius that about half of the certified inputs reach.

    The greatest of 1, 2, 5 times a power of ten that is not above the median of their
    lower ends; infinite if that is, None without lower ends.
    """
    if not lower:
        return None
    middle = statistics.median_low(lower)
    if math.isinf(middle) or middle <= 0:
        return middle
    return max(
        (step for step in _round_steps(middle) if step <= middle), default=middle
    )


def telling_radii(records: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Returns 0 and round radii between which the proved ends of a run lie.

    1, 2, 5 times powers of ten, up to the first that none reaches, the greatest eight.
    """
    ends = finite(r["apothem_lower"] for r in records) or [0.0]
    top = max(ends) or max(finite(r["apothem_upper"] for r in records), default=0.0)
    steps = _round_steps(top) if top > 0 else [0.1]
    last = next((i for i, step in enumerate(steps) if step > top), 0)
    return (0.0, *steps[max(0, last + 2 - _MOST_RADII) : last + 1])


def _round_steps(around: float) -> list[float]:
    """Returns 1, 2, 5 times powers of ten, from far below a number to above it."""
    power = math.floor(math.log10(around))
    return [float(f"{m}e{e}") for e in range(power - 3, power + 2) for m in (1, 2, 5)]


def summarise(
    records: Sequence[Mapping[str, Any]],
    radii: Sequence[float] | None = None,
    radius: float | None = None,
) -> dict[str, Any]:
    """Returns counts, means and certified accuracies of a run's records.

    Keys:
      n, certified, misclassified, unknown: how many inputs; the last three add to n.
      objective: what the brackets are about: "apothem", "l1 radius" or "l2 radius".
      correct: certified + unknown, the inputs whose prediction is their label.
      {mean,median,least}_apothem_{lower,upper}: over the correctly classified inputs.
      {mean,median}_apothem_{lower,upper}_all: over all, a misclassified one counted 0.
      {mean,median,least}_apothem_certified: lower ends of the certified inputs.
      mean_finite_apothem_upper: over the inputs with a counterexample.
      mean_min_edge: over the inputs that have a box.
      widest_bracket: greatest apothem_upper - apothem_lower of the correctly classified
        inputs; an input that is robust in all its domain has the width 0.
      no_counterexample: correctly classified inputs whose upper end is infinite.
      oracle_calls, subproblems, seconds: sums.
      radius: the one of the headline: the argument, or `telling_radius`.
      proved_at_radius: how many inputs are proved at it.
      certified_accuracy: for each of the radii, or of `telling_radii`, a dict `radius,
        proved, not_refuted` with
        shares of ALL inputs in [0, 1]; see `accuracy_at`.
    A mean over nothing is None; a mean over an infinite apothem is infinite.
    """
    n = len(records)
    correct = [r for r in records if r["status"] != "misclassified"]
    objective = records[0]["objective"] if n else OBJECTIVE
    summary: dict[str, Any] = {"n": n, "objective": objective}
    for status in ("certified", "misclassified", "unknown"):
        summary[status] = sum(r["status"] == status for r in records)
    summary["correct"] = len(correct)
    for end in ("apothem_lower", "apothem_upper"):
        values = [float(r[end]) for r in correct]
        padded = values + [0.0] * (n - len(correct))
        summary[f"mean_{end}"] = mean(values)
        summary[f"median_{end}"] = median(values)
        summary[f"least_{end}"] = min(values, default=None)
        summary[f"mean_{end}_all"] = mean(padded)
        summary[f"median_{end}_all"] = median(padded)
    certified = [r["apothem_lower"] for r in records if r["status"] == "certified"]
    summary["mean_apothem_certified"] = mean(certified)
    summary["median_apothem_certified"] = median(certified)
    summary["least_apothem_certified"] = min(certified, default=None)
    summary["radius"] = telling_radius(certified) if radius is None else radius
    summary["proved_at_radius"] = (
        0 if summary["radius"] is None else accuracy_at(records, summary["radius"])[0]
    )
    known = finite(r["apothem_upper"] for r in correct)
    summary["mean_finite_apothem_upper"] = mean(known)
    summary["mean_min_edge"] = mean(finite(r["min_edge"] for r in records))
    summary["widest_bracket"] = max(map(_width, correct), default=None)
    summary["no_counterexample"] = sum(math.isinf(r["apothem_upper"]) for r in correct)
    for key in ("oracle_calls", "subproblems", "seconds"):
        summary[key] = sum(r[key] or 0 for r in records)
    summary["certified_accuracy"] = []
    for radius in telling_radii(records) if radii is None else radii:
        proved, not_refuted = accuracy_at(records, radius)
        summary["certified_accuracy"].append(
            {
                "radius": float(radius),
                "proved": proved / n if n else None,
                "not_refuted": not_refuted / n if n else None,
            }
        )
    return summary


def moves(objective: str, radius: str) -> str:
    """Returns what a proved radius lets features do, for that objective of a run.

    Args:
      objective: see `summarise`.
      radius: in words.
    """
    norm = norm_of_objective(objective)
    if norm == "l1":
        return f"features may move by {radius} in all (l1 norm)"
    if norm == "l2":
        return f"features may move together, by {radius} in the l2 norm"
    return f"each feature may move by {radius} at once"


def _width(record: Mapping[str, Any]) -> float:
    lower, upper = record["apothem_lower"], record["apothem_upper"]
    return 0.0 if lower == upper else upper - lower  # infinity - infinity is NaN


def sentence(summary: Mapping[str, Any], tolerance: float | None = None) -> str:
    """Returns what the run found, in plain words.

    Args:
      summary: as `summarise` returns it.
      tolerance: the width that brackets were to reach; says so where all have.
    """
    n, certified = summary["n"], summary["certified"]
    if n == 0:
        return "No input was certified, because the run holds no input."
    many = "input" if n == 1 else "inputs"
    parts = [f"{certified} of {n} {many} certified"]
    if certified:
        # How many at one radius is what is proved of a set; a mean, in which far inputs
        # make up for near ones, is a guarantee of none.
        proved, radius = summary["proved_at_radius"], summary["radius"]
        where = f"at radius {radius:g}: {moves(summary['objective'], f'{radius:g}')}"
        if math.isinf(radius):
            where = "on the whole domain: each feature may take any value in it"
        parts[0] = f"{proved} of {n} {many} proved {where}, and the prediction stays"
        which, lower = "mean", summary["mean_apothem_certified"]
        if math.isinf(lower):
            # A mean over an infinite apothem says nothing about the others.
            which, lower = "median", summary["median_apothem_certified"]
        least = summary["least_apothem_certified"]
        if math.isfinite(least):
            parts.append(
                f"{certified} certified, each at a radius of its own: {which} "
                f"{format_number(lower, 'down')}, weakest "
                f"{format_number(least, 'down')}"
            )
    upper, without = summary["mean_finite_apothem_upper"], summary["no_counterexample"]
    if upper is not None:
        text = f"Counterexamples are stored at {format_number(upper, 'up')} (mean)"
        parts.append(text + (f", none is known for {without}" if without else ""))
    elif without:
        parts.append("No counterexample is known")
    widest = summary["widest_bracket"]
    if certified and tolerance is not None and widest <= tolerance:
        parts.append(
            f"Every bracket is closed to {tolerance:g}: the apothems are exact to that"
        )
    wrong, unknown = summary["misclassified"], summary["unknown"]
    if wrong:
        parts.append(
            f"{wrong} {'is' if wrong == 1 else 'are'} misclassified (apothem 0, no box)"
        )
    if unknown:
        parts.append(
            f"{unknown} {'is' if unknown == 1 else 'are'} unknown: neither proved nor "
            "refuted, so nothing is claimed"
        )
    return ". ".join(parts) + "."


def described(
    records: Sequence[Mapping[str, Any]],
    asked: Any,
    shape: tuple[int, ...],
    single: bool,
    doubts: Mapping[int, float],
) -> str:
    """Returns an answer in five lines, whatever its size.

    Args:
      records: one per input.
      asked: a `jaxcert.certification.Asked`.
      shape: of one input.
      single: whether it is the answer of one input.
      doubts: margins of unconfirmed counterexamples, by input.
    """
    found = summarise(records)
    counts = ", ".join(
        f"{found[s]} {s}" for s in ("certified", "misclassified", "unknown")
    )
    what = f"{found['n']} inputs of shape {shape}: {counts}"
    if single:
        (record,) = records
        what = f"one input of shape {shape}: {record['status']}"
        what += f", class {record['predicted']}"
    correct = [r for r in records if r["status"] != "misclassified"]
    lower = _ends([r["apothem_lower"] for r in correct], "down")
    upper = _ends([r["apothem_upper"] for r in correct], "up")
    if not single and found["no_counterexample"]:
        upper += f"; none known for {found['no_counterexample']}"
    if doubts:
        margin = min(doubts.values(), key=abs)
        upper += f"; {len(doubts)} unconfirmed, float64 margin {margin:.1e}"
    widest = format_number(found["widest_bracket"], "up")
    early = f"; {asked.stopped} ended the search early" if asked.stopped else ""
    domain = _range(asked.domain_lower, asked.domain_upper)
    norm = "" if asked.norm == "linf" else f"{asked.norm} balls, "
    return (
        f"Certification of {what}\n"
        f"  lower end, proved   {lower}\n"
        f"  upper end, refuted  {upper}\n"
        f"  widest bracket      {widest}, tolerance {asked.tolerance:g}{early}\n"
        f"  asked               {asked.oracle}, margin > {asked.required_margin:g}, "
        f"domain {domain}, {norm}network {asked.network}"
    )


def _ends(values: Sequence[float], way: Literal["down", "up"]) -> str:
    if len(values) < 2:
        return format_number(values[0], way) if values else "-"
    three = (("least", min), ("median", statistics.median), ("greatest", max))
    return ", ".join(f"{name} {format_number(of(values), way)}" for name, of in three)


def _range(lower: Any, upper: Any) -> str:
    if isinstance(lower, tuple) or isinstance(upper, tuple):
        return "one per feature"
    return f"[{lower:g}, {upper:g}]"
