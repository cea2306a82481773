"""Makes the shared case matrix importable, and keeps the process within its limits."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))

# A shell starts its background jobs with SIGINT ignored, and so would we our scripts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Drops the compiled programs of a module when it is done.

    Every one of them holds several memory maps, and the system allows a process 65,530:
    without this the compiler aborts after about 2,300 tests.
    """
    yield
    jax.clear_caches()
