"""Sweeps: settings, groups, fronts, and a kill in the middle."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from in_process import ran

from jaxcert.commands.sweep import command, report
from jaxcert.commands.sweep import run as sweeping
from jaxcert.commands.sweep.run import Sweep
from jaxcert.commands.sweep.settings import Setting, grouped, settings
from jaxcert.errors import InputError
from jaxcert.learning.data import load_dataset
from jaxcert.learning.models import load_checkpoint

SCRIPT = Path(__file__).parents[2] / "experiments/sweep.py"


def test_a_grid_is_all_combinations():
    found = settings("train_eps=0,0.05,0.1; lr=1e-3,3e-4 ;width=64,128;epochs=2", 0, 0)
    assert len(found) == 12 == len({s.id for s in found})
    expected = set(itertools.product((0.0, 0.05, 0.1), (1e-3, 3e-4), (64, 128)))
    assert {(s.train_eps, s.lr, s.width) for s in found} == expected
    assert all(s.epochs == 2 for s in found)
    assert settings("", 0, 0) == [Setting()]
    assert settings("seed=1,1", 0, 0) == [Setting(seed=1)]


def test_random_draws_lie_in_their_ranges():
    text = "lr=1e-4..1e-2:log;train_eps=0..0.2;width=16..64;method=ibp,pgd"
    found = settings(text, 300, 7)
    assert found == settings(text, 300, 7) != settings(text, 300, 8)
    assert all(1e-4 <= s.lr <= 1e-2 and 0 <= s.train_eps <= 0.2 for s in found)
    assert {type(s.width) for s in found} == {int}
    assert {s.width for s in found} <= set(range(16, 65))
    assert {s.method for s in found} == {"ibp", "pgd"}
    # In logarithms: as many draws below 1e-3 as above.
    assert 0.4 < np.mean([s.lr < 1e-3 for s in found]) < 0.6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "^--grid: 'lr' is not NAME=VALUES with one of arch, width, depth"),
        ("rate=1", "^--grid: 'rate=1' is not NAME=VALUES with one of arch"),
        ("lr=1;lr=2", "^--grid: lr is given twice$"),
        ("width=6.5", "^--grid: width takes int values with commas, got '6.5'$"),
        ("lr=a", "^--grid: lr takes float values with commas, got 'a'$"),
        ("lr=0..1", "^--grid: lr is a range; draw from it with --random=N, or write"),
        ("lr=0..1:log", "^--grid: lr takes LOW..HIGH or LOW..HIGH:log, with LOW <= H"),
        ("lr=2..1", "^--grid: lr takes LOW..HIGH or LOW..HIGH:log, with LOW <= HIGH"),
        ("lr=1..x", "^--grid: lr takes LOW..HIGH or LOW..HIGH:log, got '1..x'$"),
        ("method=0..1", "^--grid: method takes words, not a range$"),
        ("method=trades", "^--grid: method is 'trades'; choose one of standard, pgd"),
        ("depth=-1", "^--grid: depth must be at least 0$"),
        ("cert_eps=0.1", "^--grid: networks are compared at one radius: .* --epsilon"),
        ("lr=-1", "^learning_rate must be above 0, got -1.0$"),
    ],
)
def test_malformed_grids(text, message):
    with pytest.raises(InputError, match=message):
        settings(text, 0, 0)


def test_groups_share_their_shape():
    found = settings("width=8,16;lr=1e-3,2e-3,3e-3;seed=0,1;method=ibp,standard", 0, 0)
    groups = grouped(found, 4)
    assert sorted(s.id for group in groups for s in group) == sorted(
        s.id for s in found
    )
    assert all(len({s.group for s in group}) == 1 for group in groups)
    assert sorted(len(group) for group in groups) == [2] * 4 + [4] * 4


def rows_of(pairs, radius=0.1):
    return [
        {
            "setting": {"lr": 10.0**-i, "width": 8 * (i % 3), "method": "ibp"},
            "clean": clean, "attacked": clean, "certified": certified,
            "radius": radius, "id": str(i),
        }
        for i, (clean, certified) in enumerate(pairs)
    ]  # fmt: skip


def test_the_front_is_what_nobody_beats():
    random = np.random.default_rng(0)
    pairs = random.integers(0, 8, size=(40, 2)) / 8
    rows = rows_of(pairs.tolist())
    rows.append(rows_of([(None, None)])[0])
    best = report.front(rows)
    for row in rows[:-1]:
        c, v = row["clean"], row["certified"]
        beaten = ((pairs[:, 0] >= c) & (pairs[:, 1] > v)).any()
        beaten |= ((pairs[:, 0] > c) & (pairs[:, 1] >= v)).any()
        assert (row in best) == (not beaten)
    assert [r["clean"] for r in best] == sorted(r["clean"] for r in best)


def test_the_table_ranks_and_fits(tmp_path):
    rows = rows_of([(0.9, 0.1), (0.8, 0.7), (0.5, 0.5)])
    rows.append(rows_of([(None, None)])[0])
    rows[-1]["setting"]["lr"] = 1.0
    assert report.varying(rows) == ["lr", "width"]
    lines = report.table(rows).splitlines()
    assert max(map(len, lines)) <= 80
    assert ["70.00" in lines[2], "50.00" in lines[3], "10.00" in lines[4]] == [True] * 3
    assert [line.endswith("*") for line in lines[2:6]] == [True, False, True, False]
    assert lines[0].split()[2] == "radius"
    assert [line.split()[2] for line in lines[2:6]] == ["0.1"] * 4
    assert lines[5].endswith("diverged")
    report.write_both(
        lambda scheme: report.front_chart(rows, scheme), tmp_path / "front"
    )
    report.write_both(
        lambda scheme: report.heat_map(rows, ("lr", "width"), scheme),
        tmp_path / "heat_map",
    )
    for name in ("front.png", "front-dark.png", "heat_map.png"):
        assert (tmp_path / name).stat().st_size > 5_000


def test_a_group_gives_rows_and_networks(tmp_path, monkeypatch):
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    text = "width=8;epochs=1;batch_size=256;lr=1e-3,1e30;train_eps=0;bound=ibp"
    group = settings(text, 0, 0)
    calls = []
    monkeypatch.setattr(sweeping, "evaluate_population", counting(sweeping, calls))
    sweep = Sweep(train, test, tmp_path, lambda text: None, 0.03)
    row, lost = sweep.run(group)
    assert lost["certified"] is None and lost["network"] is None
    assert 0 <= row["certified"] <= row["attacked"] <= row["clean"] <= 1
    # Trained at radius 0, and yet judged at the radius of all.
    assert row["radius"] == lost["radius"] == 0.03
    sweeping.check_row(row, 0.03, 360)
    sweeping.check_row(lost, 0.03, 360)
    for changes in (
        {"certified": 0.99, "attacked": 0.5}, {"clean": 1.5}, {"clean": None},
        {"radius": 0.0}, {"id": "0" * 12}, {"images": 3}, {"certified": "all"},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            sweeping.check_row(row | changes, 0.03, 360)
    assert row["images"] == 360 and row["group_size"] == 2 and calls == [1]
    network = load_checkpoint(tmp_path / row["network"])
    assert network.content_hash == row["content_hash"]
    assert len(list((tmp_path / "unfinished").iterdir())) == 1
    sweep.forget()
    assert not list((tmp_path / "unfinished").iterdir())


def counting(module, calls):
    original = module.evaluate_population

    def counted(networks, *rest):
        calls.append(len(networks))
        return original(networks, *rest)

    return counted


def stopped(words: list[str], capsys, monkeypatch) -> None:
    """Runs a sweep in this process, and presses Ctrl-C when one group is done."""
    run, groups = Sweep.run, []

    def interrupted(self, group):
        if groups:
            raise KeyboardInterrupt
        groups.append(group)
        return run(self, group)

    with monkeypatch.context() as patched:
        patched.setattr(Sweep, "run", interrupted)
        ended = ran(command, capsys, *words)
    assert ended.code == 130 and "stopped by Ctrl-C" in ended.err


def killed(words: list[str], lines: Path, environment) -> None:
    """Runs a sweep in a process of its own, and kills it when one group is done."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *words],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(1200):
            if lines.exists() and lines.stat().st_size:
                break
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.campaign
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_sweep_that_ended_early_is_continued_and_redoes_nothing(
    environment, tmp_path, capsys, monkeypatch, how
):
    out = tmp_path / "out"
    words = [
        "--dataset=digits", f"--output={out}", "--population=2", "--resume",
        "--grid=width=8,12;lr=1e-3,3e-3;epochs=4;batch_size=256;train_eps=0.02;bound=ibp",
    ]  # fmt: skip
    lines = out / "sweep.jsonl"
    if how == "stopped":
        stopped(words, capsys, monkeypatch)
    else:
        killed(words, lines, environment)
    before = lines.read_bytes()
    assert before.count(b"\n") == 2
    done = ran(command, capsys, *words)
    assert done.code == 0, done.err
    assert "2 of 4 settings, in 1 programs" in done.err
    after = lines.read_bytes()
    assert after.startswith(before) and after.count(b"\n") == 4
    rows = [json.loads(line) for line in after.splitlines()]
    assert len({row["id"] for row in rows}) == 4
    assert {row["setting"]["width"] for row in rows[:2]} == {8}
    assert "heat_map.png" in done.out and (out / "front.png").exists()
    assert not list((out / "unfinished").iterdir())
    again = ran(command, capsys, *words)
    assert "0 of 4 settings, in 0 programs" in again.err
    assert lines.read_bytes() == after and again.out == done.out
