"""Running a command in the process of the tests."""

from __future__ import annotations

import dataclasses
import logging as python_logging
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from absl import logging
from absl.testing import flagsaver

from jaxcert.commands import console, options


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run of a command ended."""

    code: int | str | None
    out: str
    err: str


def answered(main: Callable[[], int | None], capsys: Any) -> Ended:
    """Returns how `main` ends, guarded as in a process of its own."""
    return _ended(lambda: console.guarded(main)(["command"]), capsys)


def ran(command: ModuleType, capsys: Any, *words: object, **flags: object) -> Ended:
    """Returns how a command ends as its process would.

    Args:
      command: a module as `console.launch` takes it.
      capsys: of the test.
      words: of the command line.
      flags: more of them, by name; None where one is not given.
    """
    values = options.flags_of(command.Request)
    line = ["command", *map(str, words), *_words(flags)]

    def run() -> int | None:
        rest = console.parse(values, line)
        main = console.guarded(
            lambda: command.main(options.read(command.Request, values))
        )
        return main(rest)

    return _ended(run, capsys)


def _words(flags: dict[str, object]) -> Iterator[str]:
    for name, value in flags.items():
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no{name}"
        elif isinstance(value, (list, tuple)):
            yield f"--{name}={','.join(map(str, value))}"
        elif value is not None:
            yield f"--{name}={value}"


def _ended(run: Callable[[], int | None], capsys: Any) -> Ended:
    capsys.readouterr()
    with flagsaver.flagsaver(logtostderr=True), pytest.MonkeyPatch.context() as patch:
        # This process belongs to all tests; their compilations are not to be kept.
        patch.setattr(console, "use_compilation_cache", lambda: None)
        code: int | str | None
        try:
            code = run()
        except SystemExit as stopped:
            code = stopped.code
        finally:
            python_logging.root.removeHandler(logging.get_absl_handler())
    return Ended(code, *capsys.readouterr())
