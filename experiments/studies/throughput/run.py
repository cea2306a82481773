"""Measuring tools side by side: the same boxes, checked first, timed in turns."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxcert.certifier import float64
from jaxcert.checks import as_arrays
from studies.throughput.case import Case, Run
from studies.throughput.floor import matrix_products, multiply_adds, product_side
from studies.throughput.tools import TOOLS
from studies.throughput.with_jaxcert import double

TOLERANCE = 1e-4
"""How far a bound may lie from the reference, relative where it is greater than 1."""

_CHECKED = 16  # boxes that the float64 reference is computed for
_BY_BATCH = ("auto_LiRPA",)  # tools whose bounds of a box depend on the others
_ROUNDS = 5
_LEAST_CALLS = 3
_MOST_WORDS = 300  # of an error that are kept
# Seconds of a first call, compilation included, after which one more has to do, if that
# is no short one.
_LONG, _SHORT = 20.0, 5.0

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a case is measured.

    Attributes:
      tools: names of TOOLS, jaxcert first.
      seconds: least time that every tool is measured for, after its warm-up.
    """

    tools: tuple[str, ...]
    seconds: float


def measure(case: Case, protocol: Protocol) -> Iterator[Row]:
    """Yields one row per tool that has the case's method.

    The tools and plain matrix products take turns in blocks, so that whatever else the
    machine does meets all of them; a tool that fails, or whose answer fails its check,
    is not timed: others have answers where one has no memory.
    """
    runs: dict[str, Run] = {}
    rows: dict[str, Row] = {}
    answers: dict[str, np.ndarray] = {}
    for tool in protocol.tools:
        begin = time.perf_counter()
        failure = {}
        try:
            run = TOOLS[tool][1](case)
            if run is None:
                continue
            answers[tool], runs[tool] = run(), run
        except Exception as error:  # whatever other people's code raises
            failure = _failed(error)
        spent = time.perf_counter() - begin
        rows[tool] = {"tool": tool, "first_seconds": spent, **failure}
        _release()
    trusted = []
    for tool, answer in answers.items():
        rows[tool] |= _checked(case, tool, answers)
        rows[tool] |= _summary(case, answer)
        if rows[tool]["problem"] is None:
            trusted.append(tool)
    load = os.getloadavg()[0]
    products = matrix_products(protocol.tools)
    again = {
        tool: [timed(runs[tool])]
        for tool in trusted
        if rows[tool]["first_seconds"] > _LONG
    }
    slow = {tool: spent for tool, spent in again.items() if spent[0] > _SHORT}
    turns = {tool: runs[tool] for tool in trusted if tool not in slow} | products
    calls = _in_turns(turns, protocol.seconds) | slow
    rate = product_side() ** 3 / min(min(calls[name]) for name in products)
    needed = multiply_adds(case)
    for tool, row in rows.items():
        row |= {
            "network": case.subject.name,
            "network_hash": case.subject.network.content_hash,
            "method": case.method,
            "batch": len(case.x),
            "epsilon": case.epsilon,
            "multiply_adds": needed,
            "matrix_rate": rate,
            "load": load,
        }
        if tool in calls:
            row |= _timing(row, calls[tool], needed, rate)
        yield row
    _release()


def _failed(error: Exception) -> Row:
    """Returns the rest of the row of a tool that gave no answer."""
    words = f"{type(error).__name__}: {error}"
    if "RESOURCE_EXHAUSTED" in words or "out of memory" in words.lower():
        words = "out of memory"
    empty = dict.fromkeys(("worst_difference", "mean_bound", "proved", "refuted"))
    return {"problem": words[:_MOST_WORDS], "boxes": 0, **empty}


def _release() -> None:
    """Gives back what torch keeps of an accelerator's memory, for the tool after it."""
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()


def _summary(case: Case, answer: np.ndarray) -> Row:
    """Returns how many boxes were answered, and what the answers come to."""
    if case.method == "complete":
        counts = {"proved": int((answer > 0).sum()), "refuted": int((answer < 0).sum())}
        return {"boxes": len(answer), "mean_bound": None, **counts}
    proved = int((answer > 0).all(axis=1).sum())
    mean = float(answer.mean())
    return {"boxes": len(answer), "mean_bound": mean, "proved": proved, "refuted": None}


def _timing(row: Row, spent: list[float], needed: float | None, rate: float) -> Row:
    low, middle, high = np.quantile(spent, [0.25, 0.5, 0.75]).tolist()
    answered = row["boxes"]
    if row["method"] == "complete":
        answered = row["proved"] + row["refuted"]
    per_second = answered / middle
    return {
        "boxes_per_second": per_second,
        "seconds": middle,
        "seconds_quartiles": [low, high],
        "calls": len(spent),
        "compile_seconds": max(row["first_seconds"] - middle, 0.0),
        "fraction_of_floor": None if needed is None else per_second * needed / rate,
    }


def _in_turns(
    runs: dict[str, Callable[[], Any]], seconds: float
) -> dict[str, list[float]]:
    """Returns the seconds of every call of every tool."""
    spent: dict[str, list[float]] = {tool: [] for tool in runs}
    for done in range(1, _ROUNDS + 1):
        enough = seconds * done / _ROUNDS
        calls = math.ceil(_LEAST_CALLS * done / _ROUNDS)
        for tool, run in runs.items():
            mine = spent[tool]
            if sum(mine) >= enough and len(mine) >= calls:
                continue
            timed(run)  # what the tool before it left in the caches is not its fault
            while sum(mine) < enough or len(mine) < calls:
                mine.append(timed(run))
    return spent


def timed(run: Callable[[], Any]) -> float:
    """Returns the seconds that one call takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _checked(case: Case, tool: str, answers: dict[str, np.ndarray]) -> Row:
    """Returns the greatest difference from the reference, and what is wrong, if so."""
    answer = answers[tool]
    if case.method == "complete":
        against = [
            name
            for name, other in answers.items()
            if (answer[: len(other)] * other[: len(answer)] < 0).any()
        ]
        words = f"contradicts {' and '.join(against)}" if against else None
        return {"worst_difference": None, "problem": words}
    if not np.isfinite(answer).all():
        return {"worst_difference": None, "problem": "bounds that are not finite"}
    if case.method == "alpha-crown":
        # Optimised bounds have no reference; at the centre they must hold.
        excess = float((answer - _at_center(case)).max())
        words = "bounds above the value at the centre" if excess > TOLERANCE else None
        return {"worst_difference": None, "problem": words}
    few = dataclasses.replace(case, x=case.x[:_CHECKED], labels=case.labels[:_CHECKED])
    if tool in _BY_BATCH:
        run = TOOLS[tool][1](few)
        answer = answer if run is None else run()
    expected = reference(few, meet=tool != "auto_LiRPA")
    scale = np.maximum(1, np.abs(expected))
    worst = float((np.abs(answer[:_CHECKED] - expected) / scale).max())
    words = None
    if worst > TOLERANCE:
        words = f"differs from the reference by {worst:.1e}"
    return {"worst_difference": worst, "problem": words}


def _at_center(case: Case) -> np.ndarray:
    network, spec = case.subject.network, case.spec
    logits = jax.vmap(network.apply, (None, 0))(network.params, case.x)
    return np.einsum("nrk,nk->nr", spec.coefficients, logits) + spec.offset


def reference(case: Case, meet: bool) -> np.ndarray:
    """Returns the bounds in float64, by other code than the library's if torch is here.

    Args:
      case: of method ibp, crown-ibp or crown.
      meet: whether the tool meets CROWN's bounds with those of intervals; without torch
        it is the library itself, in float64, that says what they are.
    """
    network, box, spec = case.subject.network, case.box, case.spec
    try:
        import torch

        from studies.throughput.with_torch import Interval, TorchBounds
    except ImportError:
        method = case.bounds()
        with float64():
            params = as_arrays(network.params, np.float64)
            bound = jax.jit(jax.vmap(method.lower_rows, (None, 0, 0)))
            return np.asarray(bound(params, *jax.tree.map(double, (box, spec))))
    graph = case.subject.graph
    bounds = TorchBounds(graph, network.params, dtype=torch.float64, meet=meet)
    faces = (torch.tensor(np.asarray(v), dtype=torch.float64) for v in (box.lo, box.hi))
    rows64 = torch.tensor(np.asarray(spec.coefficients), dtype=torch.float64)
    if case.method == "ibp":
        return bounds.ibp(Interval(*faces), rows64).numpy()
    return bounds.crown(Interval(*faces), rows64, case.method == "crown").numpy()
