"""Boxes as sentences. What is printed of a proved box lies inside it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

import numpy as np

from jaxcert.commands.tabular.data import NO_UNIT, NOT_STATED, Scale, Table
from jaxcert.search.dual import DualBox

_EXTRA_DIGITS = 8
_EXACT = Context(prec=1200)  # every double has fewer digits
_INDENT, _WIDTH = "    ", 78


def rounded(low: float, high: float, inside: float | None = None) -> tuple[str, str]:
    """Returns both ends in few digits, as numbers of [low, high], exactly.

    A hundredth of the width is lost at most. More digits are taken, up to a limit,
    where the number `inside` would fall out.
    """
    width = high - low
    place = min(0, math.floor(math.log10(width)) - 2) if width > 0 else -9
    exact = [Decimal(low), Decimal(high)]
    for extra in range(_EXTRA_DIGITS):
        ends = _quantized(exact, place - extra, (ROUND_CEILING, ROUND_FLOOR))
        held = inside is None or ends[0] <= Decimal(inside) <= ends[1]
        if held and ends[0] <= ends[1]:
            return f"{ends[0]:f}", f"{ends[1]:f}"
    if ends[0] <= ends[1]:
        return f"{ends[0]:f}", f"{ends[1]:f}"
    return f"{exact[0]:f}", f"{exact[1]:f}"  # as thin as a number: all its digits


def rounded_outward(low: float, high: float, width: float) -> tuple[str, str]:
    """Returns both ends in few digits, as numbers beyond [low, high], exactly.

    A thousandth of `width`, which is > 0, is lost at most.
    """
    place = min(0, math.floor(math.log10(width)) - 3)
    exact = [Decimal(low), Decimal(high)]
    ends = _quantized(exact, place, (ROUND_FLOOR, ROUND_CEILING))
    return f"{ends[0]:f}", f"{ends[1]:f}"


def _quantized(
    exact: Sequence[Decimal], place: int, ways: tuple[str, str]
) -> list[Decimal]:
    unit = Decimal(1).scaleb(place)
    return [
        end.quantize(unit, rounding=way, context=_EXACT)
        for end, way in zip(exact, ways, strict=True)
    ]


def with_unit(text: str, unit: str | None) -> str:
    """Returns the text with a unit, where one is known."""
    return f"{text} {unit}" if unit not in (NO_UNIT, NOT_STATED) else text


def box_sentence(
    table: Table,
    scale: Scale,
    record: Mapping[str, Any],
    x: np.ndarray,
    box: tuple[np.ndarray, np.ndarray],
) -> str:
    """Returns what is guaranteed of one input: a clause per feature that is bound.

    Args:
      table, scale: what the numbers mean.
      record: of a run, of a certified input.
      x: the input.
      box: its grown box, proved.
    """
    name = class_name(table, record["predicted"])
    lines = [f"{name[0].upper()}{name[1:]} is guaranteed while"]
    free = []
    for i in np.argsort((box[1] - box[0]) / (scale.domain.hi - scale.domain.lo)):
        clause = _clause(scale, int(i), float(box[0][i]), float(box[1][i]), x[i])
        if clause:
            lines.append(f"{_INDENT}{table.features[i]} {clause},")
        else:
            free.append(table.features[i])
    if len(lines) == 1:
        return f"{lines[0]} every feature stays in its {range_name(scale)}."
    if not free:
        return "\n".join(lines)[:-1] + "."
    names = _wrapped(f"{', '.join(sorted(free))}.")
    return "\n".join([*lines, f"with any value in the {range_name(scale)} of", *names])


def range_name(scale: Scale) -> str:
    """Returns what the domain is."""
    return "observed range" if scale.observed else "legal range"


def _clause(scale: Scale, i: int, low: float, high: float, value: float) -> str:
    """Returns how a feature is bound; nothing where its whole range is allowed."""
    at_low = low <= float(scale.domain.lo[i])
    at_high = high >= float(scale.domain.hi[i])
    if at_low and at_high:
        return ""
    unit = scale.units[i]
    if low == high:
        return with_unit(f"stays at {float(value)!r}", unit)
    ends = rounded(low, high, value)
    now = f"(now {value:g})"
    if at_low:
        return f"{with_unit(f'is at most {ends[1]}', unit)} {now}"
    if at_high:
        return f"{with_unit(f'is at least {ends[0]}', unit)} {now}"
    return f"{with_unit(f'stays in {ends[0]} .. {ends[1]}', unit)} {now}"


def class_name(table: Table, label: int) -> str:
    """Returns what to call a class in a sentence."""
    name = table.classes[label]
    return name if name.startswith("class") else f"class {name}"


def dual_sentence(table: Table, scale: Scale, box: DualBox, where: str) -> str:
    """Returns what the dual box of a class says, ends rounded outward.

    Args:
      table, scale: what the numbers mean.
      box: the dual box.
      where: its domain, in words.
    """
    name, count = class_name(table, box.label), len(table.features)
    if box.empty:
        return f"No instance {where} is of {name}: this is proved."
    lines = []
    widths = np.asarray(scale.domain.hi) - np.asarray(scale.domain.lo)
    for i, feature in enumerate(table.features):
        outer = float(box.outer.lo[i]), float(box.outer.hi[i])
        ends = rounded_outward(*outer, float(widths[i]))
        inner = float(box.inner.lo[i]), float(box.inner.hi[i])
        for side, word in enumerate(("below", "above")):
            if not box.smaller[i + side * count]:
                continue
            end = with_unit(ends[side], scale.units[i])
            known = "none is known"
            if math.isfinite(inner[side]):
                known = f"one is known at {inner[side]:.4g}"
            lines.append(f"{_INDENT}{feature} {word} {end} ({known}),")
    reached = int(box.on_domain.sum())
    rest = 2 * count - len(lines) - reached
    tail = f"{reached} of the {2 * count} ends {where} are reached by {name}"
    if rest:
        tail += f", {rest} are open"
    if not lines:
        return f"{name[0].upper()}{name[1:]}: {tail}."
    lines[-1] = lines[-1][:-1] + "."
    return "\n".join([f"No instance {where} is of {name} with", *lines, f"({tail})"])


def units_sentence(table: Table, scale: Scale) -> str:
    """Returns which units are known, and that the others are not."""
    unknown = [
        f for f, unit in zip(table.features, scale.units, strict=True)
        if unit is NOT_STATED
    ]  # fmt: skip
    if not unknown:
        return "All units are known."
    text = (
        f"The data do not state the unit of {len(unknown)} of {len(table.features)} "
        "features: their numbers are as published."
    )
    return "\n".join(textwrap.wrap(text, _WIDTH))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
    )
