"""Checks of arguments name the input that is wrong."""

from __future__ import annotations

import numpy as np
import pytest

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
