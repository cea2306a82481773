"""The search that every branch and bound of this library is: init, step, terminate.

Open subproblems lie on one stack of fixed capacity on the device. A step takes the top
block, bounds it, and hands back what is left of it with its children; `advance` repeats
that in a `lax.while_loop`, and the host (`Chunks`) looks in between chunks of steps.
What a subproblem is, how it is bounded and what is learned meanwhile is the business of
`signs`, `inputs`, `parameters` and `cells`.

Nothing is dropped here: what a step neither proves nor branches it has to hand back.
Where the stack has no room for the children of one more block the search ends, with all
of its subproblems open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxcert.verdict import Reason

# What a chunk should take; looking in between costs a few milliseconds.
_SECONDS = 0.5


class Known(Protocol):
    """What a search has learned: any pytree that counts its work.

    Attributes:
      processed: subproblems bounded so far, in all or for each question.
    """

    @property
    def processed(self) -> Array: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Search:
    """A search that is under way.

    Attributes:
      items: the stack, leaves (P, ...); rows from `count` on mean nothing.
      count: open subproblems on it.
      known: see `Known`.
    """

    items: Any
    count: Int[Array, ""]
    known: Any

    @property
    def capacity(self) -> int:
        """How many subproblems the stack holds."""
        return int(jax.tree.leaves(self.items)[0].shape[0])

    def learned(self, **changes: Any) -> Search:
        """Returns the search with some attributes of what is known set anew."""
        known = dataclasses.replace(self.known, **changes)
        return dataclasses.replace(self, known=known)

    def ordered(self, rank: Array) -> Search:
        """Returns the search with the subproblems of greatest rank on top, stable.

        Whatever its rank, NaN and infinity too, a subproblem comes before free rows.
        """
        index = jnp.arange(self.capacity)
        rank = jnp.where(jnp.isnan(rank), -jnp.inf, rank)
        rank = jnp.minimum(rank, jnp.finfo(rank.dtype).max)
        order = jnp.argsort(jnp.where(index < self.count, rank, jnp.inf), stable=True)
        items = jax.tree.map(lambda v: v[order], self.items)
        return dataclasses.replace(self, items=items)


Step = Callable[[Any, Any, Bool[Array, " block"]], tuple[Any, Any, Bool[Array, " n"]]]
"""(known, block of items, which of them are any) -> (known, children, which are any)"""


def advance(
    step: Step,
    search: Search,
    block: int,
    steps: Int[Array, ""] | int,
    going: Callable[[Any], Bool[Array, ""]] | None = None,
) -> Search:
    """Returns the search after at most so many steps.

    Stops early when nothing is open, or when the stack has no room for the children of
    one more block.

    Args:
      step: bounds and branches one block; hands back at most two rows for each of it.
      search: where to go on.
      block: rows per step.
      steps: most of them.
      going: whether to go on, given what is known.
    """

    def more(carry: tuple[Array, Search, Any]) -> Array:
        index, search, _ = carry
        start = jnp.maximum(search.count - block, 0)
        room = start + 2 * block <= search.capacity
        wanted = (search.count > 0) & room & (index < steps)
        return wanted if going is None else wanted & going(search.known)

    def body(carry: tuple[Array, Search, Any]) -> tuple[Array, Search, Any]:
        # The block was read after the stack was last written: read before it is
        # written, XLA would copy the whole stack.
        index, search, (popped, start, valid) = carry
        known, children, wanted = step(search.known, popped, valid)
        search = Search(*push(search.items, start, children, wanted), known)
        return index + 1, search, pop_block(search.items, search.count, block)

    carry = jnp.int32(0), search, pop_block(search.items, search.count, block)
    return lax.while_loop(more, body, carry)[1]


def by_parts(
    bound: Callable[[Any], Any], items: Any, valid: Bool[Array, " block"], size: int
) -> Any:
    """Returns `bound` of every valid item, leaves (block, ...); zeros for the others.

    A part that holds none is not computed, so that a block costs what is in it.

    Args:
      bound: of one item, a pytree of arrays.
      items: leaves (block, ...), the valid ones first.
      valid: which are any.
      size: of a part, at most that of the block; the last one may overlap.
    """
    count = valid.size
    each = jax.vmap(bound) if size > 1 else functools.partial(_alone, bound)
    whole = jax.eval_shape(jax.vmap(bound), items)
    found = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), whole)
    parts = (jnp.sum(valid) + size - 1) // size

    def one(index: Array, found: Any) -> Any:
        start = jnp.minimum(index * size, count - size)
        part = jax.tree.map(lambda v: lax.dynamic_slice_in_dim(v, start, size), items)
        return jax.tree.map(
            lambda v, new: lax.dynamic_update_slice_in_dim(v, new, start, 0),
            found,
            each(part),
        )

    return lax.fori_loop(0, parts, one, found)


def _alone(bound: Callable[[Any], Any], part: Any) -> Any:
    """Returns `bound` of the one item of a part: a batch of one has its loops and
    branches, which `vmap` would take all of."""
    found = bound(jax.tree.map(lambda v: v[0], part))
    return jax.tree.map(lambda v: v[None], found)


def pop_block(
    stack: Any, count: Int[Array, ""], block: int
) -> tuple[Any, Int[Array, ""], Bool[Array, " block"]]:
    """Returns the top `block` rows, where they start, and which of them are items."""
    start = jnp.maximum(count - block, 0).astype(count.dtype)
    popped = jax.tree.map(lambda v: lax.dynamic_slice_in_dim(v, start, block), stack)
    return popped, start, start + jnp.arange(block) < count


def push(
    stack: Any, start: Int[Array, ""], new: Any, wanted: Bool[Array, " n"]
) -> tuple[Any, Int[Array, ""]]:
    """Returns the stack with the wanted rows of `new` from `start` on, and its count.

    The stack must have room for all rows of `new`.
    """
    place = jnp.where(wanted, jnp.cumsum(wanted) - 1, wanted.size)

    def write(stack: Array, new: Array) -> Array:
        packed = jnp.zeros_like(new).at[place].set(new, mode="drop")
        return lax.dynamic_update_slice_in_dim(stack, packed, start, axis=0)

    count = (start + jnp.sum(wanted)).astype(start.dtype)
    return jax.tree.map(write, stack, new), count


class Chunks:
    """Runs a search in chunks of steps, so that limits are kept.

        chunks = Chunks(advance, most, deadline)
        while chunks.wanted(search):
            search = chunks.run(search)
            ...  # look, show, change

    Attributes:
      reason: why no further chunk was wanted: TIME, or ROOM where the last chunk could
        not move. Where nothing is open it means nothing.
    """

    def __init__(
        self,
        advance: Callable[[Search, np.int32], Search],
        most: int,
        deadline: Any,
    ) -> None:
        """Begins.

        Args:
          advance: the search after so many steps, on the device.
          most: steps of a chunk.
          deadline: `time.monotonic()` after which no further chunk begins; it may be
            an array () that comes forward.
        """
        self.reason = Reason.TIME
        self._advance, self._deadline = advance, deadline
        self._pace = Pace(most, deadline)
        self._moved = True

    def wanted(self, search: Search) -> bool:
        """Whether something is open, was moved by the last chunk, and time is left."""
        self.reason = Reason.TIME if self._moved else Reason.ROOM
        left = time.monotonic() < self._deadline
        return int(search.count) > 0 and self._moved and bool(left)

    def run(self, search: Search) -> Search:
        """Returns the search after the next chunk."""
        before = _progress(search)
        with self._pace.chunk() as steps:
            search = jax.block_until_ready(self._advance(_typed(search), steps))
        self._moved = _progress(search) != before
        return search


class SearchAnswer(NamedTuple):
    """What a search about one question came to.

    proved; witness: a point that violates the spec, or None; processed: subproblems
    bounded; reason: why neither, where it is neither.
    """

    proved: bool
    witness: np.ndarray | None
    processed: int
    reason: Reason

    @staticmethod
    def of(search: Search, chunks: Chunks, witness: np.ndarray | None) -> SearchAnswer:
        """Returns that of a search that ended; its `known` says whether it is stuck."""
        stuck = bool(search.known.stuck)
        proved = int(search.count) == 0 and witness is None and not stuck
        reason = Reason.LIMIT if stuck else chunks.reason
        return SearchAnswer(proved, witness, int(search.known.processed), reason)


def _typed(search: Search) -> Search:
    """Returns the search without weak types: what a chunk hands back has none, and the
    next one would be compiled again."""
    return jax.tree.map(lambda v: lax.convert_element_type(v, v.dtype), search)


def _progress(search: Search) -> tuple[int, int]:
    return int(np.asarray(search.known.processed).sum()), int(search.count)


class Pace:
    """The size of the next chunk; all of them are full ones where there is no limit.

    How long a step takes depends on the network by a factor of 10^4: it is measured.
    """

    def __init__(self, most: int, deadline: Any) -> None:
        """Begins with one step: it may hold a compilation.

        Args:
          most: steps of a chunk.
          deadline: `time.monotonic()` by which a chunk should end; it may be an array
            () that comes forward.
        """
        self._most, self._deadline = most, deadline
        self._steps = most if math.isinf(float(deadline)) else 1

    @contextlib.contextmanager
    def chunk(self) -> Iterator[np.int32]:
        """Gives the number of steps to take within the block, and measures them."""
        begin = time.monotonic()
        yield np.int32(self._steps)
        now = time.monotonic()
        left = float(self._deadline) - now
        if math.isinf(left):
            return
        each = max(now - begin, 1e-6) / self._steps
        wanted = max(min(_SECONDS, left), 0) / each
        # Fewer may have been taken than were allowed: growth is by 2 at most.
        self._steps = int(max(min(wanted, 2 * self._steps, self._most), 1))
