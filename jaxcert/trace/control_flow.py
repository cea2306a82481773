"""Loops and branches whose course does not depend on x, written out.

A scan has a fixed number of rounds, and `lax.fori_loop` with known ends is one. A while
loop is run: what its condition reads must be known when f is traced. A branch that is
known is the only one left; of others all are computed, and the result is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex

from jaxcert.errors import UnsupportedError
from jaxcert.trace.equations import open_jaxpr, sub_jaxprs

_MOST_STEPS = 20_000
"""Equations of one loop, written out: more would not be compiled in hours."""


def scan(eqn: Any, where: str) -> Any:
    """Returns the closed jaxpr of all rounds of a scan.

    Raises:
      UnsupportedError: it is too long.
    """
    (closed,) = sub_jaxprs(eqn.params)
    inner, _ = open_jaxpr(closed)
    length, backwards = eqn.params["length"], eqn.params["reverse"]
    _limit(length * len(inner.eqns), where, f"a scan of {length:,} rounds")
    # How many operands there are of each kind follows from their ranks; how it is
    # stated differs between versions of JAX.
    stacked = sum(map(_longer, eqn.invars, inner.invars))
    carried = sum(not _longer(*v) for v in zip(eqn.outvars, inner.outvars, strict=True))
    fixed = len(eqn.invars) - carried - stacked
    body = jex.jaxpr_as_fun(closed)

    def run(*operands: Any) -> list[Any]:
        consts, carry = operands[:fixed], list(operands[fixed : fixed + carried])
        xs = operands[fixed + carried :]
        made: list[list[Any]] = [[] for _ in inner.outvars[carried:]]
        for i in reversed(range(length)) if backwards else range(length):
            results = body(
                *consts, *carry, *(lax.index_in_dim(x, i, 0, False) for x in xs)
            )
            carry, made_now = list(results[:carried]), results[carried:]
            for ys, y in zip(made, made_now, strict=True):
                ys.append(jnp.expand_dims(y, 0))
        ordered = (ys[::-1] if backwards else ys for ys in made)
        empty = (jnp.zeros(v.aval.shape, v.aval.dtype) for v in eqn.outvars[carried:])
        joined = [
            lax.concatenate(ys, 0) if ys else none
            for ys, none in zip(ordered, empty, strict=True)
        ]
        return [*carry, *joined]

    return jax.make_jaxpr(run)(*(_like(v) for v in eqn.invars))


def _longer(outside: Any, inside: Any) -> bool:
    return len(outside.aval.shape) > len(inside.aval.shape)


def _like(var: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        var.aval.shape, var.aval.dtype, weak_type=var.aval.weak_type
    )


def _limit(steps: int, where: str, what: str) -> None:
    if steps > _MOST_STEPS:
        raise UnsupportedError(
            f"{what} ({where}) is {steps:,} operations when it is written out, and "
            f"{_MOST_STEPS:,} are the most. Certify a network with fewer rounds"
        )


def run_while(
    eqn: Any,
    where: str,
    operands: Sequence[int],
    inline: Callable[[Any, list[int]], list[int]],
    known: Callable[[int], Any],
) -> list[int]:
    """Returns the ids of a while loop's results, its rounds written out.

    Args:
      eqn: the loop.
      where: its source line.
      operands: value ids of its operands.
      inline: `inline(closed jaxpr, operands)` appends equations, and returns ids.
      known: the array that a value id is known to be, or None.

    Raises:
      UnsupportedError: the number of rounds is not known, or too large.
    """
    p = eqn.params
    asked, done = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    carry, steps = list(operands[done:]), 0
    size = len(open_jaxpr(p["body_jaxpr"])[0].eqns)
    while True:
        (more,) = inline(p["cond_jaxpr"], [*operands[:asked], *carry])
        if known(more) is None:
            raise UnsupportedError(
                f"how many rounds a while loop ({where}) takes is not known before x "
                "and the weights are. Use lax.fori_loop or lax.scan with a fixed number"
            )
        if not known(more):
            return carry
        steps += max(size, 1)
        _limit(steps, where, "a while loop")
        carry = inline(p["body_jaxpr"], [*operands[asked:done], *carry])


def chosen(eqn: Any, index: Any) -> Any:
    """Returns the closed jaxpr of the branch that a known index takes."""
    branches = eqn.params["branches"]
    return branches[min(max(int(index), 0), len(branches) - 1)]


def selection(eqn: Any, predicate: Any) -> Any:
    """Returns the closed jaxpr that computes all branches, and picks from them.

    Its first operand is the index or, of two branches, whether the second one is taken.

    Args:
      eqn: the branch.
      predicate: the abstract value of that operand.
    """
    branches = [jex.jaxpr_as_fun(b) for b in eqn.params["branches"]]

    def run(which: Any, *operands: Any) -> list[Any]:
        made = [branch(*operands) for branch in branches]
        return [lax.select_n(which, *results) for results in zip(*made, strict=True)]

    return jax.make_jaxpr(run)(predicate, *(_like(v) for v in eqn.invars[1:]))
