"""The measurements for accelerators: their parts, their rows, what stops them."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from device import conduct, profile, rates, results, summary
from device.parts import ACCELERATOR, HOST, TESTS, Part, Plan
from device.rows import ROWS, Rows, read_rows
from device.verdicts import VERDICTS
from in_process import ran

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("small", [False, True])
def test_every_part_is_a_command_that_exists(small):
    parts = Plan(Path("/pack"), small).parts()
    assert len({(part.lane, part.name) for part in parts}) == len(parts)
    assert {part.lane for part in parts} == {ACCELERATOR, HOST}
    assert not any("," in part.name for part in parts)  # --parts takes a list
    modules = {path.stem for path in (ROOT / "experiments/device").glob("*.py")}
    for part in parts:
        first, second = part.command[:2]
        if first == "-m":
            assert second in ("pytest", "device")
            assert second == "pytest" or part.command[2] in modules
        else:
            assert (ROOT / first).is_file()
        assert any("{out}" in word for word in part.command)
    assert all((ROOT / path).exists() for path in TESTS)


def test_rates_say_that_bounds_keep_all_bits(tmp_path, capsys):
    ended = ran(
        rates, capsys, "--size=64", "--copied=4096", "--seconds=0.01",
        f"--output={tmp_path}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = read_rows(tmp_path / ROWS)
    rows = {(row["figure"], row.get("precision")): row for row in found}
    bounds = rows["bounds of a linear network", None]
    assert bounds["full"] and 0 < bounds["worst_error"] < 5e-6
    assert rows["float32 product", "highest"]["error"] < 1e-6
    assert rows["float64 product", None]["error"] < 1e-14
    assert rows["copy", None]["gb_per_second"] > 0
    for size in (32, 64):
        assert 0 < max(rows[f"float{size} functions", None]["ulps"].values()) < 16
    assert rows["where float64 is computed", None]["evaluating"] == "cpu"
    assert rows["machine", None]["numpy"] == np.__version__


def test_a_product_of_fewer_bits_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(rates, "_bounds_error", lambda: 3e-4)
    flags = ("--size=16", "--copied=64", "--seconds=0.001", f"--output={tmp_path}")
    assert ran(rates, capsys, *flags).code == 1
    monkeypatch.setattr(rates, "_bounds_error", lambda: float("nan"))
    assert ran(rates, capsys, *flags).code == 1
    monkeypatch.undo()
    monkeypatch.setattr(rates, "_ulps", lambda dtype: {"exp": 1e3})
    assert ran(rates, capsys, *flags).code == 1


def python(name: str, lane: str, text: str, limit: float = 60.0) -> Part:
    return Part(name, lane, ("-c", text, "{out}"), limit)


WRITES = (
    "import sys, pathlib, os; print('said'); "
    '(pathlib.Path(sys.argv[1]) / \'rows.jsonl\').write_text(\'{"figure": "x", '
    '"device": "d", "value": 2.5}\\n\' + os.environ.get(\'TORN\', \'\'))'
)


def conducted(monkeypatch, tmp_path, capsys, parts, *flags):
    monkeypatch.setattr(Plan, "parts", lambda self: parts)
    out = tmp_path / "out"
    ended = ran(conduct, capsys, f"--pack={tmp_path}", f"--output={out}", *flags)
    found = [json.loads(line) for line in (out / "results.jsonl").open()]
    return ended, found, out


def test_parts_are_run_and_what_they_found_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TORN", '{"figure": "torn')
    parts = [
        python("good", ACCELERATOR, WRITES),
        python("bad", ACCELERATOR, "import sys; sys.exit(7)"),
        python("lane", HOST, "import os; assert os.environ['JAX_PLATFORMS'] == 'cpu'"),
    ]
    ended, found, out = conducted(monkeypatch, tmp_path, capsys, parts)
    assert ended.code == 1
    ends = {row["part"]: row["end"] for row in found if row["figure"] == "end"}
    assert ends == {"good": "0", "bad": "7", "lane": "0"}
    (kept,) = [row for row in found if row["figure"] == "x"]
    assert kept["value"] == 2.5 and kept["lane"] == ACCELERATOR
    assert "said" in (out / "log.txt").read_text()
    assert "x: value 2.5" in (out / "summary.txt").read_text()
    again = ran(conduct, capsys, f"--pack={tmp_path}", f"--output={out}")
    assert again.code == 1 and "name a new folder" in again.err


def test_a_part_ends_at_its_limit_and_keeps_its_rows(monkeypatch, tmp_path, capsys):
    slow = WRITES + "; import time; time.sleep(60)"
    parts = [python("slow", ACCELERATOR, slow, 8.0), python("next", HOST, WRITES)]
    ended, found, _ = conducted(monkeypatch, tmp_path, capsys, parts)
    assert ended.code == 1
    ends = {row["part"]: row["end"] for row in found if row["figure"] == "end"}
    assert ends == {"slow": "stopped", "next": "0"}
    assert {row["part"] for row in found if row["figure"] == "x"} == {"slow", "next"}


def test_a_part_hears_that_it_is_to_end_though_the_shell_was_deaf(
    monkeypatch, tmp_path, capsys
):
    heard = (
        "import pathlib, sys, time\n"
        "try: time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "  path = pathlib.Path(sys.argv[1]) / 'rows.jsonl'\n"
        '  path.write_text(\'{"figure": "heard"}\\n\')\n'
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        parts = [python("slow", ACCELERATOR, heard, 10.0)]
        _, found, _ = conducted(monkeypatch, tmp_path, capsys, parts)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [row["figure"] for row in found] == ["end", "heard"]


def test_no_part_begins_when_time_is_up(monkeypatch, tmp_path, capsys):
    parts = [python("late", ACCELERATOR, WRITES)]
    ended, found, _ = conducted(
        monkeypatch, tmp_path, capsys, parts, "--time_limit=5"
    )  # fmt: skip
    assert ended.code == 1
    assert [row["end"] for row in found] == ["no time"]


def test_mistakes_are_named(tmp_path, capsys):
    ended = ran(conduct, capsys, f"--pack={tmp_path}/no", f"--output={tmp_path}/out")
    assert "run experiments/device/pack.sh" in ended.err
    flags = (f"--pack={tmp_path}", f"--output={tmp_path}/out", "--parts=ratse")
    assert "no part 'ratse'; known: rates, tests" in ran(conduct, capsys, *flags).err
    command = [sys.executable, "-m", "device", "rate"]
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'experiments'}"}
    said = subprocess.run(command, capture_output=True, text=True, env=paths)
    assert said.returncode == 1 and "name one of conduct, rates" in said.stderr


def test_files_of_the_commands_are_read(tmp_path):
    csv = tmp_path / "results.csv"
    csv.write_text("onnx,vnnlib,result,seconds\na,b,sat,1.5\na,c,timeout,9\n")
    (row,) = results.rows_of(csv, csv.name)
    assert (row["sat"], row["timeout"], row["seconds_of_decided"]) == (1, 1, 1.5)
    assert results.rows_of(tmp_path / "none.csv", "results.csv") == []


@pytest.mark.parametrize("workers", [0, 1])
def test_what_became_of_tests_is_written_as_they_end(tmp_path, workers):
    path = tmp_path / "test_some.py"
    path.write_text(
        "import os, pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "@pytest.fixture\ndef broken(): raise OSError('no')\n"
        "def test_broken(broken): pass\n"
        "@pytest.mark.skip\ndef test_left_out(): pass\n"
    )
    command = [
        sys.executable, "-m", "pytest", "-p", "device.verdicts", "-n", str(workers),
        f"--verdicts={tmp_path}", f"--rootdir={tmp_path}", str(path),
    ]  # fmt: skip
    where = {**os.environ, "PYTHONPATH": str(ROOT / "experiments")}
    said = subprocess.run(command, capture_output=True, text=True, env=where)
    assert said.returncode == 1, said.stderr
    written = tmp_path / VERDICTS
    rows = read_rows(written)
    assert sum("assert 1 == 2" in row["said"] for row in rows) == 1
    (row,) = results.rows_of(written, VERDICTS)
    assert (row["passed"], row["skipped"]) == (1, 1)
    failed = [name.rpartition("::")[2] for name in row["failed"]]
    assert sorted(failed) == ["test_bad", "test_broken"]
    written.write_text("")  # stopped before the first
    assert results.rows_of(written, VERDICTS)[0]["passed"] == 0


def trace_of(tmp_path, *events):
    path = tmp_path / "trace.json.gz"
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": list(events)}, file)
    return path


def line(pid, tid, name):
    return {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid,
            "args": {"name": name}}  # fmt: skip


def event(pid, tid, name, micros, **about):
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "dur": micros,
            "args": about}  # fmt: skip


def test_an_accelerators_kernels_count_once(tmp_path):
    path = trace_of(
        tmp_path,
        line(1, 7, "Stream #20(Compute)"), line(1, 8, "XLA Ops"), line(2, 1, "python"),
        event(1, 7, "sm90_gemm", 3e6, hlo_op="dot.3", hlo_module="jit_run"),
        event(1, 7, "MemcpyD2H", 1e6), event(1, 8, "dot.3", 3e6, hlo_op="dot.3"),
        event(2, 1, "PjitFunction(f)", 9e6),
    )  # fmt: skip
    row = profile.costs(path, 5)
    assert row["device_seconds"] == 4.0
    assert row["operations"] == [["jit_run/dot.3", 3.0, 1], ["?/MemcpyD2H", 1.0, 1]]


def test_of_a_cpu_operations_count_but_not_what_spans_them(tmp_path):
    path = trace_of(
        tmp_path, line(1, 1, "tf_XLAEigen/1"),
        event(1, 1, "dot.1", 2e6, hlo_op="dot.1", hlo_module="m"),
        event(1, 1, "while.1", 5e6, hlo_op="while.1", hlo_module="m"),
        event(1, 1, "cond.20", 4e6, hlo_op="cond.20", hlo_module="m"),
        event(1, 1, "ThreadpoolListener", 7e6),
    )  # fmt: skip
    assert profile.costs(path, 5)["operations"] == [["m/dot.1", 2.0, 1]]


def test_what_takes_long_to_compile_is_noted_before_any_figure(tmp_path):
    rows = Rows(str(tmp_path))
    for seconds in (0.2, 2.5):
        jax.monitoring.record_event_duration_secs(
            "/jax/core/compile/backend_compile_duration", seconds, fun_name="jit(f)"
        )
    (row,) = read_rows(rows.path)
    assert (row["figure"], row["program"]) == ("compile", "jit(f)")
    assert (row["seconds"], rows.compiling.seconds) == (2.5, 2.7)
    kept = {"part": "mnist", "lane": ACCELERATOR, **row}
    path = tmp_path / "results.jsonl"
    path.write_text(f"{json.dumps(kept)}\n" * 2)
    said = "compiling in mnist: 2 long programs, 5.0 s, the longest jit(f) 2.5 s"
    assert said in summary.summary(path)


def test_the_summary_sets_tools_side_by_side(tmp_path):
    def row(tool, batch, speed):
        return {
            "part": "throughput", "lane": ACCELERATOR, "figure": "throughput",
            "network": "cnn", "method": "crown", "batch": batch, "tool": tool,
            "boxes_per_second": speed, "problem": None, "fraction_of_floor": None,
        }  # fmt: skip

    rows = [row("jaxcert", 8, 50.0), row("jaxcert", 64, 600.0),
            row("torch", 8, 100.0), row("torch", 64, 60.0)]  # fmt: skip
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    text = summary.summary(path)
    assert "cnn crown: jaxcert 600, torch 100, 6.0 times the best other" in text
