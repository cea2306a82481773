"""A plugin of pytest that writes what became of a test as soon as that is known.

    python -m pytest -p device.verdicts --verdicts=FOLDER tests

A report that is written at the end is lost where the tests are stopped.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

VERDICTS = "tests.jsonl"
_MOST_WORDS = 2000  # of a failure that are kept


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the flag."""
    parser.addoption("--verdicts", help="the folder of the file", required=True)


def pytest_configure(config: pytest.Config) -> None:
    """Listens, in the process that hears of all tests."""
    if not hasattr(config, "workerinput"):
        path = Path(config.getoption("--verdicts")) / VERDICTS
        config.pluginmanager.register(_Writer(path))


class _Writer:
    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Appends a row once a test has run, or could not."""
        if report.when != "call" and report.passed:
            return
        row = {
            "test": report.nodeid, "outcome": report.outcome,
            "seconds": report.duration, "said": report.longreprtext[-_MOST_WORDS:],
        }  # fmt: skip
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
