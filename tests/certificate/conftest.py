"""Certificates are written whatever the machine takes to compile what proves them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jaxcert.certificate import store


@pytest.fixture(autouse=True, scope="session")
def patience() -> Iterator[None]:
    """Sixty seconds to prove a box once more are few where two processes compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_BRANCH_SECONDS", 600.0)
        yield
