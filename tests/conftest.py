"""Makes what tests share importable, and keeps the process within its limits."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "experiments")]

# One compilation cache for all workers, the processes that tests start, and the next
# run: compiling is what most tests take their time for.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A network for digits that costs no time; see `tiny.Tiny`."""
    from tiny import made_in

    return made_in(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """For processes, which share the compilation cache of the tests."""
    return {**os.environ, "JAX_PLATFORMS": "cpu"}
