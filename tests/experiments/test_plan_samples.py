"""plan_samples.py as a process: the table, and mistakes in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "experiments/plan_samples.py"


@pytest.fixture
def plan(environment):
    def run(*flags: str) -> subprocess.CompletedProcess:
        words = [sys.executable, str(SCRIPT), *flags]
        return subprocess.run(words, env=environment, capture_output=True, text=True)

    return run


def test_the_table_of_a_plan(plan):
    ended = plan("--scale=1", "--radius=1", "--n=1000", "--agreements=0.8,0.9,0.99")
    assert ended.returncode == 0, ended.stderr
    rows = {}
    for line in ended.stdout.splitlines():
        assert len(line) <= 80
        if line[:1] == " " and line.split()[0].startswith("0."):
            rows[line.split()[0]] = line.split()[1:]
    assert rows["0.8"][0] == "0.8416" and rows["0.8"][2:] == ["0.000", "none"]
    assert rows["0.9"][0] == "1.2815" and rows["0.9"][3] == "659"
    assert float(rows["0.9"][1]) == pytest.approx(1.135, abs=0.02)
    assert rows["0.99"][2] == "1.000"
    assert "largest radius of 1,000 samples: 2.4633" in ended.stdout
    assert "100: 0.486, 1,000: 0.815, 10,000: 0.939, 100,000: 0.980" in ended.stdout


@pytest.mark.parametrize(
    ("flag", "message", "code"),
    [
        ("--power=2", "error: power is 2.0; it must lie in (0, 1)", 1),
        ("--agreements=0.9,2", "error: the agreement is 2.0; it must lie in [0, 1]", 1),
        ("--agreements=", "error: --agreements is empty: give numbers with commas", 1),
        ("--radius=-1", "error: flag --radius=-1: -1.0 is not a non-negative", 2),
    ],
)
def test_mistakes_are_one_line(plan, flag, message, code):
    ended = plan(flag)
    assert ended.returncode == code and not ended.stdout
    assert message in ended.stderr and len(ended.stderr.splitlines()) == 1
