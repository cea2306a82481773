"""Properties that are met with equality, or not at all because they are strict."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_verify import point

from jaxcert.commands.verify import answer as answering
from jaxcert.interop.vnnlib import Property, load_vnnlib
from jaxcert.network import Network


def ask(tmp_path, f, inputs: int, outputs: int, text: str, params=(), seconds=3600.0):
    """Returns the answer to a property of a function, and the property."""
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    declared = "".join(f"(declare-const {name} Real)\n" for name in names)
    (tmp_path / "p.vnnlib").write_text(declared + text)
    prop = load_vnnlib(tmp_path / "p.vnnlib")
    network = Network(f, params, (inputs,), outputs, "f", "")
    effort = answering.Request(onnx="n", vnnlib="v").effort
    until = time.monotonic() + seconds
    return answering.verify_property(network, prop, until, effort), prop


def confirmed(answer, prop: Property) -> tuple[np.ndarray, np.ndarray]:
    """Returns the point of a sat, after reading it back from what is printed."""
    assert answer.result == "sat"
    x, y = point(answer.counterexample)
    assert prop.violates(x, y)
    return x, y


def within(lo: float, hi: float, inputs: int = 1) -> str:
    return "".join(
        f"(assert (>= X_{i} {lo}))(assert (<= X_{i} {hi}))" for i in range(inputs)
    )


def clip(_, x):
    return jnp.clip(x, 0, 1)


def relu(_, x):
    return jax.nn.relu(x)


def identity(_, x):
    return x


def distance(_, x):
    return jnp.abs(x[:1] - x[1:])


MET_WITH_EQUALITY = {
    "above": (clip, within(0, 5) + "(assert (>= Y_0 1))", 1.0),
    "below": (relu, within(-1, 5) + "(assert (<= Y_0 0))", 0.0),
    "equal": (identity, within(0, 1) + "(assert (= Y_0 0.5))", 0.5),
    "point": (clip, within(0.25, 0.25) + "(assert (<= Y_0 0.25))", 0.25),
    "abs": (distance, within(0, 1, 2) + "(assert (<= Y_0 0))", 0.0),
}


@pytest.mark.parametrize("name", MET_WITH_EQUALITY)
def test_what_is_met_with_equality_is_sat(tmp_path, name: str):
    f, text, value = MET_WITH_EQUALITY[name]
    answer, prop = ask(tmp_path, f, prop_inputs(text), 1, text)
    assert confirmed(answer, prop)[1] == [value]


def prop_inputs(text: str) -> int:
    return 2 if "X_1" in text else 1


NEVER_STRICTLY = {
    "below": (relu, within(-1, 5) + "(assert (< Y_0 0))"),
    "above": (clip, within(0, 5) + "(assert (> Y_0 1))"),
    "point": (clip, within(0.25, 0.25) + "(assert (< Y_0 0.25))"),
    "abs": (distance, within(0, 1, 2) + "(assert (< Y_0 0))"),
    "either": (clip, within(0, 5) + "(assert (or (< Y_0 0) (> Y_0 1) (> Y_0 7)))"),
}


@pytest.mark.parametrize("name", NEVER_STRICTLY)
def test_what_is_met_with_equality_only_is_unsat_if_strict(tmp_path, name: str):
    f, text = NEVER_STRICTLY[name]
    answer, _ = ask(tmp_path, f, prop_inputs(text), 1, text)
    assert answer.result == "unsat"


def test_a_tie_does_not_hide_what_is_strictly_met(tmp_path):
    # 0 for x <= 0, and below it only from 126/64 on, where no gradient of a tie points.
    def f(_, x):
        return jax.nn.relu(x) - 2 * jax.nn.relu(x - 63 / 64)

    text = within(-4, 2) + "(assert (< Y_0 0))"
    answer, prop = ask(tmp_path, f, 1, 1, text)
    assert confirmed(answer, prop)[1] < 0


def test_strict_bounds_of_inputs_are_kept_and_searched_inside(tmp_path):
    box = "".join(f"(assert (> X_{i} -1))(assert (< X_{i} 1))" for i in range(2))

    def f(_, x):
        return x[:1] + x[1:]

    answer, prop = ask(tmp_path, f, 2, 1, box + "(assert (>= Y_0 1.5))")
    x, _ = confirmed(answer, prop)
    assert (np.abs(x) < 1).all()
    # The closed box has a corner of sum 2, the open one has none.
    answer, _ = ask(tmp_path, f, 2, 1, box + "(assert (>= Y_0 2))")
    assert answer.result in ("unsat", "unknown")
    answer, _ = ask(tmp_path, f, 2, 1, box + "(assert (> Y_0 2))")
    assert answer.result == "unsat"


def test_an_open_interval_without_a_number_allows_no_input(tmp_path):
    text = "(assert (> X_0 0.5))(assert (< X_0 0.5))(assert (<= Y_0 9))"
    answer, prop = ask(tmp_path, clip, 1, 1, text)
    assert answer.result == "unsat" and prop.cases == ()
    assert "allow no input (bounds that no number satisfies)" in prop.notes[0]
    # Closed it is one number.
    answer, prop = ask(
        tmp_path, clip, 1, 1, text.replace("> ", ">= ").replace("< ", "<= ")
    )
    assert confirmed(answer, prop)[0] == [0.5]
