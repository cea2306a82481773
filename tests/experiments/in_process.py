"""Running a script in the process of the tests."""

from __future__ import annotations

import dataclasses
import logging as python_logging
from collections.abc import Callable
from typing import Any

from absl import logging
from absl.testing import flagsaver

from jaxcert.commands import console


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run of a script ended."""

    code: int | None
    out: str
    err: str


def answered(main: Callable[..., int | None], script: str, capsys: Any) -> Ended:
    """Returns how `main` ends, guarded as in the script, but for its flags."""
    capsys.readouterr()
    # logtostderr: to the stream of the moment, not to that of the import.
    with flagsaver.flagsaver(logtostderr=True):
        try:
            code = console.guarded(main)([script])
        finally:
            python_logging.root.removeHandler(logging.get_absl_handler())
    return Ended(code, *capsys.readouterr())
