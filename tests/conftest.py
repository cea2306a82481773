"""Makes what tests share importable, and keeps the process within its limits."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "experiments")]

import quickly  # noqa: E402

# Compiling is what most tests take their time for: one cache for all workers, the
# processes that tests start, and the next run, of what takes longer to compile than to
# write and to find again; and programs that run a few times are
# compiled quickly, some 8 times as fast, rather than well. What fusing and reordering
# do to rounding is the subject of the tests that are marked `optimised`, which run with
# --optimised, and of the cases that are compiled with `cases.AS_USERS_DO`.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("XLA_FLAGS", "" if "--optimised" in sys.argv else quickly.FLAGS)

import jax  # noqa: E402  # after the settings that it reads

_MOST_MAPS = 20_000

# Files, by how their names begin, that ask about equal networks with equal options, or
# of the same certificates, and so share what is compiled or made where one process runs
# them: a worker is handed them together.
_TOGETHER = (
    ("tests/checker/",),
    (
        "tests/certificate/test_grown.py",
        "tests/certificate/test_store.py",
        "tests/search/test_growth.py",
        "tests/test_recorded_answers.py",
    ),
    (
        "tests/commands/test_certify.py",
        "tests/commands/test_certify_mistakes.py",
        "tests/commands/test_shards.py",
    ),
)

# What takes longest, by how the names of the files begin: handed out first, for what
# comes last keeps one worker waiting. By seconds of CPU, 50 to 15.
_FIRST = (
    "tests/certificate/test_grown.py",
    "tests/trace/test_precision.py",
    "tests/branch/test_neurons.py",
    "tests/commands/test_certify.py",
    "tests/bounds/test_soundness.py",
    "tests/oracle/test_complete.py",
    "tests/checker/",
    "tests/search/test_dual.py",
    "tests/commands/test_verify.py",
    "tests/learning/test_train.py",
    "tests/witness/test_ties.py",
    "tests/test_docs.py",
    "tests/report/test_page.py",
    "tests/test_doctests.py",
    "tests/test_strict.py",
    "tests/trace/test_patterns.py",
    "tests/branch/test_signs.py",
    "tests/studies/test_throughput.py",
    "tests/semantic/test_semantic.py",
    "tests/test_devices.py",
)

# A shell starts its background jobs with SIGINT ignored, and so would we our scripts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--optimised",
        action="store_true",
        help="the tests marked optimised alone, compiled as users' programs are",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves files out that have no test for --optimised; importing them takes long."""
    if not config.getoption("--optimised") or collection_path.suffix != ".py":
        return None
    return True if "mark.optimised" not in collection_path.read_text() else None


def pytest_collection_finish() -> None:
    """Looks for cycles less often: tracing makes millions of objects, few in cycles."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 10)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out whole files, and those of `_TOGETHER` to one worker."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((some[0] for some in _TOGETHER if file.startswith(some)), file)

    # Else files of many tests would be first, which are not those that take long.
    config.option.loadscopereorder = False
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    wanted = config.getoption("--optimised")
    sorted_out: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        marked = item.get_closest_marker("optimised") is not None
        sorted_out[marked == wanted].append(item)
    items[:] = sorted(sorted_out[True], key=_place)
    config.hook.pytest_deselected(items=sorted_out[False])


def _place(item: pytest.Item) -> int:
    """Returns where in the order a test comes; the others keep theirs, at the end."""
    places = (n for n, some in enumerate(_FIRST) if item.nodeid.startswith(some))
    return next(places, len(_FIRST))


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Drops all compiled programs before there are too many.

    Every one of them holds several memory maps, and the system allows a process 65,530:
    without this the compiler aborts after about 2,300 tests.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or len(maps.read_bytes().splitlines()) > _MOST_MAPS:
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
