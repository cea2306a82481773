"""The search that all branch and bound shares."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_network, relu_network, sampled

import jaxcert as jc
from jaxcert.bounds.ascent import AscentOptions
from jaxcert.branch import brackets, inputs
from jaxcert.branch.inputs import InputSplitOptions
from jaxcert.branch.search import Search, advance, by_parts, pop_block, push
from jaxcert.branch.signs import BranchOptions
from jaxcert.model import Model
from jaxcert.oracle.complete import branch_and_bound

OPTIONS = {
    inputs: BranchOptions(inputs=InputSplitOptions(block=2, steps=1)),
    brackets: BranchOptions(
        block=2, steps=1, narrow=0, neurons=None, ascent=AscentOptions(iterations=1)
    ),
}


@pytest.mark.parametrize("module", sampled(OPTIONS, 1))
def test_chunks_share_one_program(module, monkeypatch):
    """A type that changes from one chunk to the next would compile it once more."""
    types = []
    run = module.run_chunk

    def watched(*arguments, **named):
        types.append([jax.typeof(v) for v in jax.tree.leaves(arguments[-2])])
        return run(*arguments, **named)

    monkeypatch.setattr(module, "run_chunk", watched)
    model = Model(relu_network, random_network((2, 16, 2), 1), (2,))
    box = jc.Box(np.full(2, -3.0), np.full(2, 3.0))
    grid = np.stack(np.meshgrid(*[np.linspace(-3, 3, 99)] * 2), -1).reshape(-1, 2)
    row = np.array([[1.0, -1.0]])
    least = (model.outputs(grid) @ row[0]).min()
    spec = jax.tree.map(np.asarray, jc.Spec.disjunction(row, np.array([1.0 - least])))
    verdict, count = branch_and_bound(model, box, spec, OPTIONS[module])
    assert verdict.status == jc.Status.PROVED and count > 4
    assert len(types) > 2
    assert all(each == types[0] for each in types)


def visited(seed: int, block: int, capacity: int, depth: int) -> tuple[Search, Any]:
    """Searches a random binary tree; nodes are numbered as in a heap.

    Returns the search when it ends, and how often each node was asked about.
    """
    inner = np.random.default_rng(seed).random(1 << depth) < 0.8
    inner[: 1 << 3] = True
    inner = jnp.asarray(inner)

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Seen:
        times: jax.Array
        processed: jax.Array

    def step(known, nodes, valid):
        node = nodes["node"]
        place = jnp.where(valid, node, len(known.times))
        times = known.times.at[place].add(1, mode="drop")
        branches = (
            valid & (node < len(inner)) & inner[jnp.minimum(node, len(inner) - 1)]
        )
        children = {"node": jnp.concatenate([2 * node, 2 * node + 1])}
        known = Seen(times, known.processed + jnp.sum(valid))
        return known, children, jnp.concatenate([branches, branches])

    stack = {"node": jnp.full(capacity, -7).at[0].set(1)}
    seen = Seen(jnp.zeros(2 << depth, int), jnp.zeros((), int))
    search = Search(stack, jnp.ones((), jnp.int32), seen)
    run = jax.jit(lambda search: advance(step, search, block, 3))
    for _ in range(1 << depth):
        before = int(search.count), int(search.known.processed)
        search = run(search)
        if (int(search.count), int(search.known.processed)) == before:
            break
    return search, np.asarray(inner)


@pytest.mark.parametrize("block", [1, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_every_subproblem_is_asked_about_once(seed: int, block: int):
    search, inner = visited(seed, block, 256, 8)
    expected, open_ = np.zeros(2 * len(inner), int), [1]
    while open_:
        node = open_.pop()
        expected[node] += 1
        if node < len(inner) and inner[node]:
            open_ += [2 * node, 2 * node + 1]
    assert int(search.count) == 0 and expected.sum() > 40
    np.testing.assert_array_equal(search.known.times, expected)
    assert int(search.known.processed) == expected.sum()


@pytest.mark.parametrize("block", [1, 3])
def test_where_there_is_no_room_all_stay_open(block: int):
    search, inner = visited(0, block, 2 * block + 3, 8)
    times, count = np.asarray(search.known.times), int(search.count)
    left = np.asarray(search.items["node"])[:count]
    asked = np.flatnonzero(times)
    assert count > 0 and times.max() == 1 and len(set(left)) == count
    # Below a node that was branched lies what was asked about, or is open.
    for node in asked:
        for child in (2 * node, 2 * node + 1):
            if node < len(inner) and inner[node]:
                assert times[child] + (child in left) == 1


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_pushed_and_popped_whole(seed: int):
    rng = np.random.default_rng(seed)
    stack = {"a": jnp.asarray(rng.integers(99, size=20)), "b": jnp.zeros((20, 2))}
    start, wanted = int(rng.integers(0, 12)), rng.random(8) < 0.5
    new = {"a": jnp.arange(100, 108), "b": jnp.ones((8, 2))}
    filled, count = push(stack, jnp.int32(start), new, jnp.asarray(wanted))
    assert int(count) == start + wanted.sum()
    kept = np.arange(100, 108)[wanted]
    np.testing.assert_array_equal(filled["a"][:start], stack["a"][:start])
    np.testing.assert_array_equal(filled["a"][start : int(count)], kept)
    np.testing.assert_array_equal(filled["b"][start : int(count)], 1)
    top, first, valid = pop_block(filled, count, 5)
    number = min(5, int(count))
    assert int(first) == int(count) - number and int(valid.sum()) == number
    expected = filled["a"][int(first) : int(count)]
    np.testing.assert_array_equal(top["a"][valid], expected)


def test_no_rank_puts_a_subproblem_behind_free_rows():
    rank = jnp.array([jnp.nan, 2.0, jnp.inf, -jnp.inf, 1.0, jnp.nan, jnp.inf, 0.0])
    search = Search({"node": jnp.arange(8)}, jnp.int32(5), None)
    order = search.ordered(rank).items["node"]
    assert sorted(order[:5].tolist()) == [0, 1, 2, 3, 4]
    assert order[2:5].tolist() == [4, 1, 2]


@pytest.mark.parametrize("size", [1, 4, 5, 7, 12])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 11, 12])
def test_parts_bound_every_valid_item(count: int, size: int):
    valid = jnp.arange(12) < count
    found = by_parts(lambda v: {"square": v * v}, jnp.arange(12), valid, size)
    np.testing.assert_array_equal(found["square"][:count], np.arange(count) ** 2)
