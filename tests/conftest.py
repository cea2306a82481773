"""Makes the shared case matrix importable, and keeps the process within its limits."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# One compilation cache for all workers, the processes that tests start, and the next
# run: compiling is what most tests take their time for.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax  # noqa: E402  # after the settings that it reads

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
