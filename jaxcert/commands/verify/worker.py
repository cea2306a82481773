"""The process in which a benchmark's instances are answered; started by verify.py.

A first argument says as JSON how to answer. See `_worker` for what it speaks.
"""

from __future__ import annotations

import functools
import json
import logging as python_logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging
from absl.logging import converter

from jaxcert.branch.signs import BranchOptions
from jaxcert.cache import use_compilation_cache
from jaxcert.commands.verify.answer import (
    Answer,
    Request,
    load_subject,
    verify_files,
)
from jaxcert.commands.verify.proofs import prove
from jaxcert.commands.verify.subject import Load
from jaxcert.errors import JaxcertError, OutOfMemoryError
from jaxcert.limit import left_behind
from jaxcert.memory import free_bytes, resident_bytes
from jaxcert.oracle.decide import Effort
from jaxcert.runs.worker import Questions

# Linux gives a process 65,530 memory maps, and every compiled program holds several.
_MOST_MAPS = 32_000


class _Forward(python_logging.Handler):
    """Sends what is logged to the one who asks."""

    def __init__(self, questions: Questions) -> None:
        super().__init__()
        self._questions = questions

    def emit(self, record: python_logging.LogRecord) -> None:
        level = converter.standard_to_absl(record.levelno)
        self._questions.answer({"log": [level, record.getMessage()]})


def main(text: str) -> None:
    """Answers until nobody asks any more."""
    given = json.loads(text)
    _limit_memory(given.pop("memory_gb"))
    level = given.pop("level")
    effort = Request(onnx="asked for", vnnlib="asked for", **given).effort
    use_compilation_cache()
    questions = Questions()
    python_logging.getLogger("jax._src.xla_bridge").setLevel(python_logging.ERROR)
    logging.get_absl_logger().setLevel(level)
    python_logging.root.handlers = [_Forward(questions)]
    # Most benchmarks ask many questions about one network, one after the other.
    load = functools.lru_cache(maxsize=2)(load_subject)
    for question in questions:
        if "prove" in question:
            questions.answer(prove(question, effort.branch or BranchOptions(), load))
            continue
        found = answered(question, effort, load)
        questions.answer(told(found) | {"worn": _worn()})


def answered(question: Mapping[str, Any], effort: Effort, load: Load) -> Answer:
    """Returns the answer; whatever goes wrong is the result 'error'."""
    begin = time.monotonic()
    try:
        onnx = {name: Path(file) for name, file in question["onnx"].items()}
        vnnlib = Path(question["vnnlib"])
        deadline = begin + question["seconds"]
        return verify_files(onnx, vnnlib, deadline, effort, load)
    except Exception as error:
        # Also one of our own mistakes must not cost the answers that follow.
        kind = "" if isinstance(error, JaxcertError) else f"{type(error).__name__}: "
        logging.error("%s: %s%s", question["name"], kind, error)
        logging.debug("%s", question["name"], exc_info=True)
        memory = isinstance(error, OutOfMemoryError)
        return Answer("error: out of memory" if memory else "error")


def told(found: Answer) -> dict[str, Any]:
    """Returns an answer as JSON has it."""
    scope = None if found.scope is None else found.scope.record()
    return {
        "result": found.result, "counterexample": found.counterexample, "scope": scope
    }  # fmt: skip


def _worn() -> bool:
    """Returns whether another process should answer the next question."""
    try:
        maps = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        maps = 0
    return left_behind() or maps > _MOST_MAPS or resident_bytes() > free_bytes()


def _limit_memory(gigabytes: float | None) -> None:
    if gigabytes is not None:
        import resource

        size = int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    main(sys.argv[1])
