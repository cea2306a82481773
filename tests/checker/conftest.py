"""The certificates that the tests of the checker share; none of them changes one."""

from __future__ import annotations

import pytest
from builder import CASES, Case


@pytest.fixture(scope="session")
def cases() -> dict[str, Case]:
    return {name: make() for name, make in CASES.items()}
