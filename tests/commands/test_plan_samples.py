"""The command `plan_samples`: the table, and mistakes in one line."""

from __future__ import annotations

import pytest
from in_process import Ended, ran

from jaxcert.commands.plan_samples import command


@pytest.fixture
def plan(capsys):
    def run(*flags: str) -> Ended:
        return ran(command, capsys, *flags)

    return run


def test_the_table_of_a_plan(plan):
    ended = plan("--sigma=1", "--radius=1", "--n=1000", "--agreements=0.8,0.9,0.99")
    assert ended.code == 0, ended.err
    rows = {}
    for line in ended.out.splitlines():
        assert len(line) <= 80
        if line[:1] == " " and line.split()[0].startswith("0."):
            rows[line.split()[0]] = line.split()[1:]
    assert rows["0.8"][0] == "0.8416" and rows["0.8"][2:] == ["0.000", "none"]
    assert rows["0.9"][0] == "1.2815" and rows["0.9"][3] == "659"
    assert float(rows["0.9"][1]) == pytest.approx(1.135, abs=0.02)
    assert rows["0.99"][2] == "1.000"
    assert "largest radius of 1,000 samples: 2.4633" in ended.out
    assert "100: 0.486, 1,000: 0.815, 10,000: 0.939, 100,000: 0.980" in ended.out


@pytest.mark.parametrize(
    ("flag", "message", "code"),
    [
        ("--power=2", "error: power is 2.0; it must lie in (0, 1)", 1),
        ("--agreements=0.9,2", "error: the agreement is 2.0; it must lie in [0, 1]", 1),
        ("--agreements=", "error: --agreements is empty: give numbers with commas", 1),
        ("--radius=-1", "error: radius is -1.0; it must be a number >= 0", 1),
        ("--radius=x", "error: flag --radius=x: could not convert string", 2),
    ],
)
def test_mistakes_are_one_line(plan, flag, message, code):
    ended = plan(flag)
    assert ended.code == code and not ended.out
    assert message in ended.err and len(ended.err.splitlines()) == 1
