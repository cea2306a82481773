"""Spec and Verdict: what must hold, and the three answers."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert.errors import InputError
from jaxcert.spec import Spec
from jaxcert.verdict import Reason, Status, from_bound, from_witness

Y = jnp.array([1.0, 3.0, 2.5])


@pytest.mark.parametrize("label", [0, 1, 2])
def test_classification_compares_with_every_other_class(label: int):
    spec = Spec.classification(label, 3, required_margin=0.25)
    others = [j for j in range(3) if j != label]
    expected = [float(Y[label] - Y[j]) - 0.25 for j in others]
    assert spec.values(Y).tolist() == expected
    assert spec.margin(spec.values(Y)) == min(expected)


def test_classification_takes_traced_labels():
    specs = jax.vmap(lambda c: Spec.classification(c, 3))(jnp.arange(3))
    margins = jax.vmap(lambda s: s.margin(s.values(Y)))(specs)
    assert margins.tolist() == [-2.0, 0.5, -0.5]


def test_targeted_has_one_row():
    assert Spec.targeted(1, 0, 3, 0.5).values(Y).tolist() == [1.5]


def test_a_disjunction_holds_by_its_best_row():
    spec = Spec.disjunction(jnp.eye(3), jnp.array([-2.0, -2.0, -3.0]))
    assert spec.margin(spec.values(Y)) == 1.0
    both = Spec(spec.coefficients, spec.offset, jnp.array([0, 1, 0]), 2)
    assert both.margin(both.values(Y)) == -0.5


def holds(spec: Spec, y) -> bool:
    return bool(spec.margin(spec.values(jnp.asarray(y))) > 0)


TIED = list(itertools.product([0.0, 1.0, 2.0], repeat=4))


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("label", [0, 2])
def test_top_k_counts_the_outputs_that_are_no_less(label, k):
    spec = Spec.top_k(label, k, 4)
    for y in TIED:
        no_less = sum(y[j] >= y[label] for j in range(4) if j != label)
        assert holds(spec, y) == (no_less < k)


def test_top_1_is_classification():
    first, other = Spec.top_k(1, 1, 3), Spec.classification(1, 3)
    assert first.coefficients.tolist() == other.coefficients.tolist()
    assert first.clause.tolist() == other.clause.tolist()


@pytest.mark.parametrize("labels", [(0,), (1, 3), (0, 1, 2)])
def test_among_asks_that_a_label_exceeds_all_others(labels):
    spec = Spec.among(labels, 4)
    for y in TIED:
        best = max(y[j] for j in labels)
        assert holds(spec, y) == all(best > y[j] for j in range(4) if j not in labels)


def test_an_output_range_excludes_its_ends():
    spec = Spec.output_range([-1.0, 0.0, -np.inf], [1.0, np.inf, np.inf])
    assert spec.num_clauses == 3
    for y in itertools.product([-1.0, 0.0, 0.5, 1.0], repeat=3):
        assert holds(spec, y) == (-1 < y[0] < 1 and y[1] > 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spec.top_k(0, 0, 3), "k is 0: of 3 classes it must lie in 1 .. 2"),
        (lambda: Spec.top_k(0, 3, 3), "k is 3: of 3 classes it must lie in 1 .. 2"),
        (lambda: Spec.top_k(0, 5, 1000), "5 greatest of 1000 outputs make more than"),
        (lambda: Spec.top_k(7, 1, 3), "label 7 is out of range"),
        (lambda: Spec.among((), 3), "give one or more, each once, and not all"),
        (lambda: Spec.among((1, 1), 3), "give one or more, each once, and not all"),
        (lambda: Spec.among((0, 1, 2), 3), "give one or more, each once, and not all"),
        (lambda: Spec.output_range([0.0], [0.0]), "output 0 is asked to lie between"),
        (lambda: Spec.output_range([np.nan], [0.0]), "output 0 is asked to lie"),
        (lambda: Spec.output_range([0.0], [0.0, 1.0]), "give .outputs,. for both"),
        (lambda: Spec.output_range([-np.inf], [np.inf]), "the spec has no rows"),
    ],
)
def test_specs_that_ask_nothing_or_the_impossible_are_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_nan_row_is_never_hidden(position: int):
    rows = Y.at[position].set(jnp.nan)
    clauses = [jnp.array(c) for c in itertools.product(range(2), repeat=3)]
    specs = [Spec(jnp.eye(3), jnp.zeros(3), c, 2) for c in clauses]
    specs += [Spec.rows(jnp.eye(3), jnp.zeros(3)), Spec.disjunction(jnp.eye(3), Y)]
    for spec in specs:
        assert jnp.isnan(spec.margin(rows))


def test_a_clause_without_rows_cannot_hold():
    spec = Spec(jnp.eye(3), jnp.zeros(3), jnp.array([0, 0, 2]), 4)
    assert not spec.margin(Y) > 0


def test_one_class_is_no_classification():
    with pytest.raises(InputError, match="at least 2 classes, got 1; state rows"):
        Spec.classification(0, 1)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_out_of_range_is_an_error(label: int):
    with pytest.raises(InputError, match=rf"label {label} is out of range.* 0 \.\. 2"):
        Spec.classification(label, 3)
    with pytest.raises(InputError, match=f"label {label} is out of range"):
        Spec.targeted(label, 0, 3)
    with pytest.raises(InputError, match=f"target {label} is out of range"):
        Spec.targeted(0, label, 3)


def test_a_verdict_is_no_bool():
    verdict = from_bound(jnp.float32(1), jnp.zeros(2), jnp.asarray(False), 0.0)
    with pytest.raises(TypeError, match="three values and is no bool: ask .proved"):
        bool(verdict)


@pytest.mark.parametrize(
    ("bound", "empty", "status", "reason"),
    [
        (1.0, False, Status.PROVED, Reason.BOUND),
        (0.5, False, Status.UNKNOWN, Reason.BOUND_TOO_LOOSE),
        (-1.0, False, Status.UNKNOWN, Reason.BOUND_TOO_LOOSE),
        (np.nan, False, Status.UNKNOWN, Reason.NOT_A_NUMBER),
        (1.0, True, Status.UNKNOWN, Reason.EMPTY_BOX),
        (np.nan, True, Status.UNKNOWN, Reason.EMPTY_BOX),
    ],
)
def test_a_bound_proves_only_above_the_slack(bound, empty, status, reason):
    verdict = from_bound(jnp.float32(bound), jnp.zeros(2), jnp.asarray(empty), 0.5)
    assert verdict.status == status and verdict.reason == reason
    assert jnp.isnan(verdict.witness).all() and jnp.isnan(verdict.witness_margin)


def test_a_witness_is_shown_only_where_it_was_found():
    z, margin = jnp.ones(2), jnp.float32(-1)
    yes = from_witness(z, margin, jnp.asarray(True))
    no = from_witness(z, margin, jnp.asarray(False))
    assert yes.refuted and yes.witness.tolist() == [1, 1]
    assert no.status == Status.UNKNOWN and no.reason == Reason.NO_WITNESS
    assert jnp.isnan(no.witness).all()
