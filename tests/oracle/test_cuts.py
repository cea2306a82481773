"""Branch and bound with cuts of several neurons answers as an MILP does."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import exact32
from exact import exact_min_margin

import jaxcert as jc
from jaxcert.bounds.multineuron import CutOptions
from jaxcert.bounds.tighten import TightenOptions
from jaxcert.certifier import float64
from jaxcert.oracle import complete
from jaxcert.oracle.branch_and_bound import BranchOptions
from jaxcert.oracle.complete import decide
from jaxcert.verdict import Status

PLAIN = BranchOptions(block=16, narrow=0, tighten=TightenOptions(iterations=5))
CUTS = dataclasses.replace(PLAIN, cuts=CutOptions(partners=2, iterations=2))


def f(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(w @ x + b)
    w, b = params[-1]
    return w @ x + b


def network(rng):
    return [
        (exact32(rng.normal(size=(n, m)) / np.sqrt(m)), exact32(rng.normal(size=n) / 2))
        for m, n in ((3, 12), (12, 12), (12, 2))
    ]


def answers(seeds, shift, options):
    """Statuses and subproblems for a row that is `shift` above what an MILP says."""
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        params, c = network(rng), np.array([1.0, -1.0])
        lo, hi = -np.ones(3), np.ones(3)
        layers = [(w.T, b) for w, b in params]
        least = exact_min_margin(layers, lo, hi, c, 0.0).value
        spec = jc.Spec.rows(c[None], np.array([shift - least]))
        params32 = jax.tree.map(np.float32, params)
        with float64():
            spec = jax.tree.map(np.asarray, spec)
            verdict, count = decide(f, params32, params, jc.Box(lo, hi), spec, options)
        found.append((Status(int(verdict.status)), count))
    statuses, counts = zip(*found, strict=True)
    return statuses, np.array(counts)


@pytest.mark.parametrize(
    ("shift", "status"), [(1e-2, Status.PROVED), (-1e-2, Status.REFUTED)]
)
def test_answers_with_cuts_are_those_of_the_milp(shift: float, status: Status):
    statuses, counts = answers(range(8), shift, CUTS)
    assert statuses == (status,) * 8
    assert shift < 0 or counts.max() > 20


def test_proofs_are_recorded_without_cuts():
    recording = dataclasses.replace(CUTS, record=True)
    with_cuts = answers(range(2), 0.3, recording)
    without = answers(range(2), 0.3, dataclasses.replace(PLAIN, record=True))
    assert with_cuts[0] == without[0] == (Status.PROVED,) * 2
    np.testing.assert_array_equal(with_cuts[1], without[1])


def test_a_cut_multiplier_that_is_not_a_number_proves_nothing(monkeypatch):
    """A limit of NaN, as overflow could make it, must leave the answer open."""
    from jaxcert.oracle import brackets

    original = brackets.cutter

    def spoiled(*arguments):
        maker = original(*arguments)

        class Spoiled:
            def tighten_layers(self, box, ranges):
                ranges, cuts = maker.tighten_layers(box, ranges)
                return ranges, {
                    i: dataclasses.replace(c, limit=c.limit * jnp.nan)
                    for i, c in cuts.items()
                }

        return Spoiled()

    monkeypatch.setattr(brackets, "cutter", spoiled)
    options = dataclasses.replace(CUTS, steps=7)  # a program of its own
    rng = np.random.default_rng(0)
    params = network(rng)
    spec = jc.Spec.rows(np.array([[1.0, -1.0]]), np.array([1e-3]))
    with float64():
        spec = jax.tree.map(np.asarray, spec)
        verdict, _ = complete.decide(
            f, jax.tree.map(np.float32, params), params,
            jc.Box(-np.ones(3), np.ones(3)), spec, options, np.inf,
        )  # fmt: skip
    assert not verdict.proved
