"""The certificates that the tests of the checker share; none of them changes one."""

from __future__ import annotations

import pytest
from answer_builder import ANSWERS, Answer
from builder import CASES, Case


@pytest.fixture(scope="session")
def cases() -> dict[str, Case]:
    return {name: make() for name, make in CASES.items()}


@pytest.fixture(scope="session")
def answers() -> dict[str, Answer]:
    return {name: make() for name, make in ANSWERS.items()}
