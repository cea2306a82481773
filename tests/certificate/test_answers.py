"""Proofs of answers to VNN-LIB properties: found, written, and accepted."""

from __future__ import annotations

import dataclasses
import time

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert.branch.neurons import NeuronOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.certificate import answers
from jaxcert.certificate.answers import Question, write_answer
from jaxcert.checker.check import check_certificate
from jaxcert.checker.older import of_signs
from jaxcert.checker.reading import Rejected
from jaxcert.checker.tree import leaves
from jaxcert.errors import UnsupportedError
from jaxcert.interop.vnnlib import load_vnnlib
from jaxcert.model import Model

WIDE = 12  # features: more than are split
NEURONS = NeuronOptions(rounds=(2, 32), leaves=128, bucket=8)
OPTIONS = BranchOptions(block=32, neurons=NEURONS)


def model(inputs: int, seed: int = 0, activation=None) -> Model:
    random = np.random.default_rng(seed)
    sizes = (inputs, 10, 8, 3)
    params = [
        (
            (random.normal(size=(m, n)) / np.sqrt(n)).astype(np.float32),
            (random.normal(size=m) / 4).astype(np.float32),
        )
        for n, m in zip(sizes, sizes[1:], strict=False)
    ]

    def f(params, x):
        for w, b in params[:-1]:
            x = (activation or (lambda z: jnp.maximum(z, 0)))(w @ x + b)
        w, b = params[-1]
        return w @ x + b

    return Model(f, params, (inputs,))


def asked(made: Model, radius: float, spare: float, tmp_path) -> Question:
    """Returns a question of two boxes: rows that samples exceed by so much."""
    random = np.random.default_rng(1)
    n, parts = made.input_shape[0], []
    for sign in (-1, 1):
        centre = sign * np.full(n, 0.3)
        x = random.uniform(centre - radius, centre + radius, (4000, n))
        y = made.outputs(x)
        limits = y.min(axis=0) - spare
        box = " ".join(
            f"(>= X_{i} {v - radius}) (<= X_{i} {v + radius})"
            for i, v in enumerate(centre)
        )
        # Some row of the last one is false wherever the first output is not small.
        rows = [f"(<= Y_0 {limits[0]})", f"(<= Y_1 {limits[1]})"]
        rows.append(f"(and (<= Y_0 {limits[0]}) (<= Y_2 {limits[2] + 9}))")
        parts += [f"(and {box} {row})" for row in rows]
    names = [f"X_{i}" for i in range(n)] + [f"Y_{j}" for j in range(3)]
    text = "".join(f"(declare-const {name} Real)\n" for name in names)
    text += f"(assert (or {' '.join(parts)}))\n"
    path = tmp_path / "property.vnnlib"
    path.write_text(text)
    return Question(made, load_vnnlib(path), text.encode(), OPTIONS)


@pytest.mark.parametrize(
    ("inputs", "spare", "activation"),
    [(3, 0.05, None), (WIDE, 0.7, None), (3, 0.05, jnp.tanh)],
)
def test_unsat_is_proved(inputs, spare, activation, tmp_path):
    question = asked(model(inputs, 0, activation), 0.35, spare, tmp_path)
    found = write_answer(tmp_path / "proofs/001.npz", question, None)
    assert found.path is not None, found.refused
    report = check_certificate(found.path)
    assert report.accepted and report.leaves == found.leaves > 2
    assert (report.boxes, report.clauses) == (2, 6)
    with np.load(found.path) as file:
        halved = set(file["tree_clause"].tolist()) == {-1}
        assert halved == (inputs == 3)
        assert halved or (file["nodes"] >= inputs).any()
    # Nothing but the proof, the network and the property is left.
    names = sorted(path.name.split("-")[0] for path in found.path.parent.iterdir())
    assert names == ["001.npz", "network", "property"]


def test_ranges_have_trees_where_signs_alone_take_long(tmp_path, monkeypatch):
    """Also of clauses of two rows, of which one holds."""
    monkeypatch.setattr(answers, "_FEW", 0)
    question = asked(model(WIDE), 0.35, 0.5, tmp_path)
    found = write_answer(tmp_path / "001.npz", question, None)
    assert found.path is not None, found.refused
    report = check_certificate(found.path)
    assert report.accepted and report.leaves == found.leaves
    assert check_certificate(found.path, exact=True).accepted
    with np.load(found.path) as file:
        arrays = dict(file)
    ranged = [name for name in arrays if "range_lines" in name]
    assert sorted(ranged) == ["range_lines_0_1", "range_lines_1_1"]
    trees = sum(len(arrays[name]) for name in ranged)
    assert report.leaves == trees + np.count_nonzero(arrays["nodes"] == -1)
    assert trees > len(arrays["range_sizes_0_1"]) + len(arrays["range_sizes_1_1"])
    # Without them it is no proof.
    ends = "ends", "sizes", "nodes", "columns", "lines", "betas"
    for name in ends:
        del arrays[f"range_{name}_0_1"]
    np.savez(found.path, **arrays)
    assert "is not > 0" in check_certificate(found.path).reason


def test_sat_is_proved(tmp_path):
    question = asked(model(3), 0.35, -0.05, tmp_path)
    random, centre = np.random.default_rng(2), np.full(3, 0.3)
    x = random.uniform(centre - 0.35, centre + 0.35, (4000, 3))
    y = question.model.outputs(x)
    witness = x[np.argmin(y[:, 0])]
    assert question.prop.violates(witness, y[np.argmin(y[:, 0])])
    found = write_answer(tmp_path / "001.npz", question, witness)
    assert found.path is not None and check_certificate(found.path).answer == "sat"
    inside = x[np.argmax((y - y.min(axis=0))[:, :2].min(axis=1))]
    found = write_answer(tmp_path / "002.npz", question, inside)
    assert found.path is None and "the witness does not satisfy" in found.refused
    assert not (tmp_path / "002.npz").exists()


@pytest.mark.parametrize("inputs", [3, WIDE])
def test_what_is_not_proved_in_time_is_not_written(inputs, tmp_path):
    question = asked(model(inputs), 0.35, -0.05, tmp_path)
    deadline = time.monotonic() + 1
    found = write_answer(tmp_path / "001.npz", question, None, deadline)
    assert found.path is None and found.refused == "no proof was found in time"
    assert not (tmp_path / "001.npz").exists()


def test_other_networks_are_refused(tmp_path):
    question = asked(model(3, activation=jnp.sin), 0.1, 0.5, tmp_path)
    with pytest.raises(UnsupportedError, match="has other operations: sin"):
        write_answer(tmp_path / "001.npz", question, None)


def test_a_property_that_allows_no_input_is_vacuous(tmp_path):
    question = asked(model(3), 0.1, 0.5, tmp_path)
    text = question.text.replace(b"(assert", b"(assert (>= X_0 7))\n(assert")
    (tmp_path / "p.vnnlib").write_bytes(text)
    prop = load_vnnlib(tmp_path / "p.vnnlib")
    question = dataclasses.replace(question, prop=prop, text=text)
    found = write_answer(tmp_path / "001.npz", question, None)
    assert found.path is not None
    assert check_certificate(found.path).reason == "the property allows no input"


def test_leaves_become_the_tree_that_they_come_from():
    random = np.random.default_rng(0)
    for _ in range(20):
        signs = [np.zeros(7, np.int8)]
        for _ in range(random.integers(12)):
            leaf = signs.pop(random.integers(len(signs)))
            free = np.flatnonzero(leaf == 0)
            if not len(free):
                signs.append(leaf)
                continue
            for sign in (1, -1):
                child = leaf.copy()
                child[free[random.integers(1)]] = sign
                signs.append(child)
        every = np.array(signs)
        nodes, order = of_signs(every, 4, "it")
        ends = np.zeros(4), np.ones(4)
        found = np.array([leaf for *_, leaf in leaves(np.array(nodes), *ends, 7, {})])
        assert np.array_equal(found, every[order])
        if len(every) > 1:
            with pytest.raises(Rejected, match="leave a part of the box out|overlap"):
                of_signs(every[1:], 4, "it")
