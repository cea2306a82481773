"""Checks of arguments name the input that is wrong."""

from __future__ import annotations

import numpy as np
import pytest

import jaxcert as jc
from jaxcert.ball import Ball
from jaxcert.box import Box
from jaxcert.checks import check_inputs, check_labels, checked_domain
from jaxcert.errors import InputError

UNIT = checked_domain(None, (2,))


@pytest.mark.parametrize("names, shown", [(None, "1"), (("a.csv", "b.csv"), "b.csv")])
def test_messages_name_the_input(names, shown):
    x = np.full((2, 2), 0.5)
    check_inputs(x, UNIT, names)
    check_labels(np.array([0, 2]), 2, 3, names)
    x[1, 0] = 2
    with pytest.raises(InputError, match=f"^input {shown} lies outside the domain"):
        check_inputs(x, UNIT, names)
    x[1, 0] = np.nan
    with pytest.raises(InputError, match=f"^input {shown} holds NaN or infinity"):
        check_inputs(x, UNIT, names)
    with pytest.raises(InputError, match=f"^label 3 of input {shown} is out of range"):
        check_labels(np.array([0, 3]), 2, 3, names)


@pytest.mark.parametrize("domain", [(0.0, 1e39), (-1e308, 0.0)])
def test_a_domain_beyond_float32_is_refused(domain):
    with pytest.raises(InputError, match="beyond 3e\\+38, which float32 cannot hold"):
        checked_domain(domain, (2,))


def _flat(w, x):
    """A network of two classes; those asked for never come to be bounded."""
    return w @ x


TINY, WEIGHT = 2.0**-1023, np.eye(2)
WITHIN = Box(np.zeros(2), np.array([TINY, 1.0]))
AROUND = [Ball.around(np.zeros(2), 0.1, norm, WITHIN) for norm in ("l1", "l2")]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: jc.certify(_flat, WEIGHT, np.zeros(2), domain=WITHIN),
        lambda: jc.certify(_flat, WEIGHT, np.array([TINY, 1.0])),
        lambda: jc.dual_boxes(_flat, WEIGHT, WITHIN, [0]),
        lambda: jc.verify(
            _flat, WEIGHT, UNIT, jc.Spec.rows(TINY * np.ones((1, 2)), np.zeros(1))
        ),
        *(
            lambda ball=ball: jc.verify(
                _flat, WEIGHT, ball, jc.Spec.classification(0, 2)
            )
            for ball in AROUND
        ),
    ],
)
def test_numbers_that_would_count_as_0_are_refused(ask):
    """Large weights make much of them."""
    with pytest.raises(InputError, match="holds 1.11254e-308: numbers nearer to 0"):
        ask()


def test_a_ball_without_a_domain_has_no_such_ends():
    ball = Ball.around(np.array([0.25]), 0.25, "l2")
    assert ball.domain.lo[0] < -1e-300 and ball.domain.hi[0] > 0.5
