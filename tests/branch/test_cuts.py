"""Branch and bound with cuts of several neurons answers as an MILP does."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import cancelling, exact32
from exact import exact_min_margin

import jaxcert as jc
from jaxcert.bounds.alpha import (
    Multipliers,
    Problem,
    charged_bound,
    layout_of,
    subproblem_bound,
)
from jaxcert.bounds.cuts import Cuts
from jaxcert.bounds.ibp import propagate
from jaxcert.bounds.multineuron import CutOptions
from jaxcert.bounds.rounding import cut_cost, float64_slack
from jaxcert.bounds.tighten import TightenOptions
from jaxcert.branch import brackets
from jaxcert.branch.signs import BranchOptions
from jaxcert.certifier import float64
from jaxcert.model import Model
from jaxcert.oracle.complete import branch_and_bound
from jaxcert.trace.tracing import program_of
from jaxcert.verdict import Status

campaign = pytest.mark.campaign
PLAIN = BranchOptions(block=16, narrow=0, tighten=TightenOptions(iterations=5))
CUTS = dataclasses.replace(PLAIN, cuts=CutOptions(partners=2, iterations=2))


def f(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(w @ x + b)
    w, b = params[-1]
    return w @ x + b


SIZES, ONE_LAYER = (3, 12, 12, 2), (3, 16, 2)


def network(rng, sizes=SIZES):
    return [
        (exact32(rng.normal(size=(n, m)) / np.sqrt(m)), exact32(rng.normal(size=n) / 2))
        for m, n in itertools.pairwise(sizes)
    ]


def answers(seeds, shift, sizes, options):
    """Statuses and subproblems for a row that is `shift` above what an MILP says."""
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        params, c = network(rng, sizes), np.array([1.0, -1.0])
        lo, hi = -np.ones(3), np.ones(3)
        layers = [(w.T, b) for w, b in params]
        least = exact_min_margin(layers, lo, hi, c, 0.0).value
        spec = jc.Spec.rows(c[None], np.array([shift - least]))
        spec, model = jax.tree.map(np.asarray, spec), Model(f, params, (3,))
        verdict, count = branch_and_bound(model, jc.Box(lo, hi), spec, options)
        found.append((Status(int(verdict.status)), count))
    statuses, counts = zip(*found, strict=True)
    return statuses, np.array(counts)


@pytest.mark.parametrize(
    ("shift", "status"), [(1e-2, Status.PROVED), (-1e-2, Status.REFUTED)]
)
@pytest.mark.parametrize("sizes", [ONE_LAYER, pytest.param(SIZES, marks=campaign)])
def test_answers_with_cuts_are_those_of_the_milp(sizes, shift: float, status: Status):
    statuses, counts = answers(range(3), shift, sizes, CUTS)
    assert statuses == (status,) * 3
    assert shift < 0 or counts.max() > 20


def roots(options):
    """The shapes of what the search starts from."""
    params = network(np.random.default_rng(0))
    box = jc.Box(-np.ones((1, 3)), np.ones((1, 3)))
    spec = jc.Spec(np.ones((1, 1, 2)), np.ones((1, 1)), np.zeros((1, 1), np.int32), 1)
    model = Model(f, params, (3,))
    layout = layout_of(model.program)
    with float64():
        make = functools.partial(brackets.roots, layout, options.resolved(layout))
        return jax.eval_shape(make, model, box, spec)


@pytest.mark.campaign
def test_searches_have_cuts_where_they_are_asked_for():
    assert roots(PLAIN).cuts == {}
    assert len(roots(CUTS).cuts) == 2 and roots(CUTS).behind == {}
    recorded = roots(dataclasses.replace(CUTS, record=True))
    shapes = {i: cut.limit.shape[:2] for i, cut in recorded.cuts.items()}
    assert len(shapes) == 2
    assert {i: v.shape[:2] for i, (_, v) in recorded.behind.items()} == shapes
    assert [v.shape[-1] for _, v in recorded.behind.values()] == [0, 12]


@pytest.mark.parametrize("wrong", ["limit", "at_input", "at_output"])
def test_a_cut_that_is_not_a_number_proves_nothing(wrong: str):
    params = [(np.eye(2), np.zeros(2)), (np.ones((1, 2)), np.ones(1))]
    with float64():
        program = program_of(f, params, np.zeros(2))
        layout = layout_of(program)
        (node,) = layout.nodes
        one, two = jnp.ones((1, 1)), jnp.ones((1, 1, 2))
        cut = Cuts(jnp.array([[0, 1]]), -two, two, one, one)
        spoiled = getattr(cut, wrong) * jnp.nan
        cuts = {node.output: dataclasses.replace(cut, **{wrong: spoiled})}
        box = jc.Box(-jnp.ones(2), jnp.ones(2))
        problem = Problem(
            box, {node.inputs[0]: box}, jnp.ones((1, 1)), jnp.zeros(1), cuts
        )
        bounded = jax.jit(subproblem_bound, static_argnums=0)
        for multiplier in (0.0, 1.0):
            m = Multipliers(
                jnp.zeros(2),
                jnp.zeros(2),
                jnp.zeros(1),
                {node.output: one * multiplier},
            )
            values = program.prepare(params, jnp.float64)
            signs = jnp.zeros(2, jnp.int8)
            bound, _ = bounded(layout, values, problem, signs, m)
            assert jnp.isnan(bound)


def test_no_multipliers_of_cuts_make_a_violated_problem_vanish():
    """Multipliers of cuts multiply rounding errors; a decision must charge them.

    Every output is -1, so nothing can be proved. The box is one point, and the cut says
    of it what is true of the exact z alone: computed, z is beyond it by rounding.
    """
    lifted, decided = 0, jax.jit(charged_bound, static_argnames="layout")
    for seed in range(6):
        params, x, _ = cancelling(seed, 2.0**20)
        exact = [Fraction(v) for v in x]
        for w, b in params[:2]:
            rows = [[Fraction(float(v)) for v in row] for row in w]
            sums = [sum(u * v for u, v in zip(r, exact, strict=True)) for r in rows]
            exact = [s + Fraction(float(v)) for s, v in zip(sums, b, strict=True)]
            z, exact = exact[0], [max(v, Fraction(0)) for v in exact]
        with float64():
            program = program_of(f, params, x)
            layout = layout_of(program)
            values, box = program.prepare(params, jnp.float64), jc.Box(x, x)
            boxes = propagate(program, values, jax.tree.map(jnp.asarray, box))
            node = layout.nodes[1]
            (per_neuron, per_limit) = cut_cost(program, values, boxes, 2)
            ranges = {i: boxes[i] for i in layout.needed()}
            row, nothing = jnp.asarray([[1.0, -1.0]]), jnp.zeros(1)
            slack = float64_slack(program, values, boxes, row)
            for sign in (-1.0, 1.0):
                limit = float(sign * z)
                if Fraction(limit) < int(sign) * z:
                    limit = float(np.nextafter(limit, np.inf))
                cost = per_neuron[node.output][0] + per_limit * abs(limit)
                cut = Cuts(
                    jnp.zeros((1, 1), jnp.int32), jnp.full((1, 1, 1), sign),
                    jnp.zeros((1, 1, 1)), jnp.full((1, 1), limit),
                    jnp.full((1, 1), cost),
                )  # fmt: skip
                problem = Problem(box, ranges, row, nothing, {node.output: cut})
                idle = jnp.zeros(layout.size)
                for size in np.geomspace(1.0, 1e30, 31):
                    at_cut = {node.output: jnp.full((1, 1), size)}
                    bound, charged, _ = decided(
                        layout, values, problem, idle.astype(jnp.int8),
                        Multipliers(idle, idle, nothing, at_cut), idle,
                    )  # fmt: skip
                    assert not bound > slack + charged
                    lifted += bool(bound > slack)
    assert lifted > 10  # rounding alone would have proved it
