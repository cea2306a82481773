"""The script `certify` on several devices and in several processes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from made_runs import CONFIG, arrays, record

from jaxcert.checker.check import check_certificate
from jaxcert.commands.certify import command as certify
from jaxcert.commands.certify.shards import Whole, merge
from jaxcert.report import BOX_KEYS, RunFiles, read_run

COUNT = 11  # batches of 4, 4 and 3: the last is padded to another size
FLAGS = f"--inputs=0:{COUNT}", "--batch_size=4", "--noreport"


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def alone(kept, run_certify) -> Path:
    """The run of a single process."""
    out = kept / "alone"
    if not out.exists():
        assert run_certify(*FLAGS, f"--output={out}").code == 0
    return out


@pytest.fixture
def sharded(kept, run_certify, tmp_path) -> Path:
    """The shards of two processes, not yet merged."""
    out = kept / "sharded"
    if not out.exists():
        for index in range(2):
            ended = run_certify(*FLAGS, *own(index), f"--output={out}")
            assert ended.code == 0
            last = ended.out.splitlines()[-1]
            assert last == f"shard {index}-of-2: merge when all 2 are done"
    return Path(shutil.copytree(out, tmp_path / "out"))


def own(index: int) -> tuple[str, str]:
    return "--processes=2", f"--process={index}"


def same(one: Path, other: Path) -> None:
    """Asserts that two runs agree in all but times, flags and dates."""
    first, second = read_run(one), read_run(other)
    assert without_times(first.records) == without_times(second.records)
    for key in BOX_KEYS[1:]:
        np.testing.assert_array_equal(getattr(first, key), getattr(second, key), key)
    left, right = (
        json.loads((out / "summary.json").read_text()) for out in (one, other)
    )
    assert left.keys() == right.keys() and left["complete"] and right["complete"]
    for key in left.keys() - {"seconds", "wall_seconds", "date", "flags", "command"}:
        assert left[key] == right[key], key
    configs = [(out / "run.json").read_text() for out in (one, other)]
    assert json.loads(configs[0])["config"] == json.loads(configs[1])["config"]


def without_times(records: list[dict]) -> list[dict]:
    return [{**record, "seconds": None} for record in records]


def test_merged_shards_are_the_run_of_one_process(run_certify, alone, sharded):
    names = [
        [r["input"] for r in read_run(sharded / "shards" / f"{i}-of-2").records]
        for i in range(2)
    ]
    assert names == [[*map(str, [0, 1, 2, 3, 8, 9, 10])], ["4", "5", "6", "7"]]
    ended = run_certify(*FLAGS, "--merge", f"--output={sharded}", "--report")
    assert ended.code == 0 and ended.err == ""
    assert ended.out.startswith(
        run_certify(*FLAGS, "--resume", f"--output={alone}").out
    )
    same(alone, sharded)
    assert (sharded / "report.html").stat().st_size > 1000
    summary = json.loads((sharded / "summary.json").read_text())
    longest = max(
        json.loads((path / "summary.json").read_text())["wall_seconds"]
        for path in (sharded / "shards").iterdir()
    )
    assert summary["wall_seconds"] >= longest

    before = (sharded / "certificates.jsonl").read_bytes()
    text = run_certify(*FLAGS, "--merge", f"--output={sharded}")
    assert text.code == 1 and "already holds a run" in text.err
    assert run_certify(*FLAGS, "--merge", "--resume", f"--output={sharded}").code == 0
    assert (sharded / "certificates.jsonl").read_bytes() == before


def test_a_shard_is_continued(run_certify, calls, alone, sharded):
    """A kill after the first batch of process 0; then nothing is done twice."""
    folder = sharded / "shards" / "0-of-2"
    lines = (folder / "certificates.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "certificates.jsonl").write_bytes(b"".join(lines[:4]))
    ended = run_certify(*FLAGS, "--merge", f"--output={sharded}")
    assert ended.code == 1 and ended.err == (
        "error: shard 0-of-2 is incomplete: 3 of its 7 inputs are not answered, the "
        "first is '8'. Run it with --processes=2 --process=0 --resume and otherwise "
        "the same flags\n"
    )
    assert not (sharded / "certificates.jsonl").exists()
    calls.clear()
    flags = *FLAGS, *own(0), "--resume", f"--output={sharded}"
    assert run_certify(*flags).code == 0 and calls == [3]
    assert run_certify(*FLAGS, "--merge", f"--output={sharded}").code == 0
    same(alone, sharded)


def test_certificates_are_put_together(run_certify, tmp_path):
    out = tmp_path / "out"
    flags = "--inputs=0:8", "--batch_size=4", "--noreport", f"--output={out}"
    for index in range(2):
        assert run_certify(*flags, *own(index), "--proofs").code == 0
    assert run_certify(*flags, "--merge", "--proofs").code == 0
    certified = [r for r in read_run(out).records if r["status"] == "certified"]
    assert len(certified) >= 2
    for one in certified:
        assert check_certificate(out / "proofs" / f"{one['input']}.npz").accepted


def meeting(index: int, port: int, slurm: bool) -> tuple[list[str], dict[str, str]]:
    """Returns flags and environment of one of two processes."""
    if not slurm:
        return [*own(index), f"--coordinator=localhost:{port}"], {}
    return ["--distributed"], {
        "SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2", "SLURM_PROCID": str(index), "SLURM_LOCALID": str(index),
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


MET = """
import jax
from jaxcert.commands.certify.request import Request
from jaxcert.commands.certify.shards import this_shard
print(this_shard(Request(distributed=True)), float(jax.numpy.ones(3).sum()))
"""


@pytest.mark.campaign
def test_two_processes_learn_who_they_are_and_compute_alone(environment):
    port, both = free_port(), []
    for index in range(2):
        _, told = meeting(index, port, slurm=True)
        words = [sys.executable, "-c", MET]
        both.append(
            subprocess.Popen(
                words, env=environment | told, stdout=subprocess.PIPE, text=True
            )
        )
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert printed == ["0-of-2 3.0\n", "1-of-2 3.0\n"]


@pytest.mark.campaign
@pytest.mark.parametrize("slurm", [True, False])
def test_two_processes_that_meet(start, run_certify, alone, tmp_path, slurm):
    port, both = free_port(), []
    for index in range(2):
        flags, told = meeting(index, port, slurm)
        both.append(start(*FLAGS, *flags, f"--output={tmp_path}", more=told))
    for index, process in enumerate(both):
        printed, said = process.communicate(timeout=300)
        assert process.returncode == 0 and "error" not in said, said
        assert f"shard {index}-of-2" in printed
    assert run_certify(*FLAGS, "--merge", f"--output={tmp_path}").code == 0
    same(alone, tmp_path)


def test_a_shard_that_is_missing(run_certify, sharded):
    shutil.rmtree(sharded / "shards" / "1-of-2")
    ended = run_certify(*FLAGS, "--merge", f"--output={sharded}")
    assert ended.code == 1 and ended.err == (
        f"error: shard 1-of-2 is missing: there is no {sharded}/shards/1-of-2. Run it "
        "with --processes=2 --process=1 --resume and otherwise the same flags\n"
    )
    assert sorted(path.name for path in sharded.iterdir()) == ["shards"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tolerance=1e-3"], "shard 0-of-2 has other settings: tolerance is 0.0001 "),
        (["--batch_size=5"], "shard 0-of-2 has other settings: batch_size is 4 there"),
        (["--inputs=0:12"], "shard 0-of-2 is incomplete: 1 of its 8 inputs"),
        (["--processes=3"], "{} holds no shards to merge"),
    ],
)
def test_shards_of_another_run(run_certify, sharded, flags, message):
    ended = run_certify(*FLAGS, *flags, "--merge", f"--output={sharded}")
    assert ended.code == 1
    assert ended.err.startswith("error: " + message.format(sharded))


def test_shards_of_two_numbers_of_processes(run_certify, sharded):
    (sharded / "shards" / "0-of-3").mkdir()
    ended = run_certify(*FLAGS, "--merge", f"--output={sharded}")
    assert ended.code == 1 and "of runs with 2 and 3 processes" in ended.err
    flags = *FLAGS, "--merge", "--processes=2", f"--output={sharded}"
    assert run_certify(*flags).code == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes=2"], "--processes and --process go together: give both or none"),
        (["--processes=2", "--process=2"], "--process is 2; it must lie in 0 .. 1"),
        (["--coordinator=here:1"], "--coordinator needs --processes and --process"),
        (
            ["--coordinator=here", "--processes=2", "--process=0"],
            "--coordinator is 'here'; write HOST:PORT",
        ),
        (
            # The process of the tests has computed already, and JAX refuses.
            ["--coordinator=localhost:1", "--processes=2", "--process=0"],
            "the other processes cannot be met at localhost:1 (",
        ),
        (["--distributed", "--processes=2", "--process=0"], "--distributed finds out"),
        (["--merge", "--process=0"], "--merge is one process's work"),
        (["--merge"], "{} holds no shards to merge. Give the --output that"),
        (["--merge", "--model=demo"], "several processes need one network: name its"),
        (["--devices=9999"], "devices is 9999; this process has "),
    ],
)
def test_flags_that_do_not_fit(run_certify, tmp_path, flags, message):
    ended = run_certify(*FLAGS, *flags, f"--output={tmp_path}")
    assert ended.code == 1 and ended.err.count("\n") == 1
    assert ended.err.startswith("error: " + message.format(tmp_path))


def test_no_cluster(start, tmp_path):
    process = start(*FLAGS, "--distributed", f"--output={tmp_path}")
    printed, said = process.communicate(timeout=300)
    assert (process.returncode, printed) == (1, "")
    assert said.startswith("error: --distributed: JAX found no cluster here (")
    assert said.count("\n") == 1


# Several devices


@pytest.fixture
def three(monkeypatch) -> None:
    """Threads of three devices, which are one; test_devices.py has real ones."""
    monkeypatch.setattr(certify, "local_devices", lambda: jax.local_devices()[:1] * 3)


def test_devices_give_the_run_of_one(run_certify, alone, tmp_path, three):
    ended = run_certify(*FLAGS, f"--output={tmp_path}")
    assert (ended.code, ended.err) == (0, "")
    same(alone, tmp_path)
    flags = *FLAGS, "--devices=4", f"--output={tmp_path / 'out'}"
    assert run_certify(*flags).err == "error: devices is 4; this process has 3\n"


def test_ctrl_c_and_the_time_limit_on_devices(
    run_certify, alone, calls, monkeypatch, tmp_path, three
):
    counted = certify.Certifier.batch_with_proofs
    flags = *FLAGS, "--resume", f"--output={tmp_path}"

    def interrupted(self, x, *rest):
        if calls:
            raise KeyboardInterrupt
        return counted(self, x, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(certify.Certifier, "batch_with_proofs", interrupted)
        ended = run_certify(*flags)
    assert ended.code == 130 and calls == [4]
    assert ended.out.endswith("stopped by Ctrl-C; continue with --resume\n")
    assert len(read_run(tmp_path).records) == 4
    ended = run_certify(*flags, "--time_limit=1e-9")
    assert ended.code == 0 and calls == [4]
    assert ended.out.endswith("stopped by the time limit; continue with --resume\n")
    assert run_certify(*flags).code == 0 and calls == [4, 4, 3]
    same(alone, tmp_path)


def test_what_a_shard_refines_is_merged_again(tmp_path):
    wide = [record("0"), record("1")]
    narrow = [record("0", 0.055, 0.0575), record("1")]
    rows = arrays(wide), arrays(narrow)  # around the same inputs
    chosen: Any = SimpleNamespace(names=("0", "1"))
    whole = Whole(tmp_path, chosen, 2, None)
    shard = tmp_path / "shards" / "0-of-1"
    names = ("x", "lo", "hi", "witness", "witness_class")
    for resume, found in ((False, wide), (True, narrow)):
        with RunFiles(shard, resume, CONFIG) as files:
            if resume:
                own = zip(names, (a[:1] for a in rows[1]), strict=True)
                files.refine(narrow[:1], **dict(own))
            else:
                files.append(wide, *rows[0])
            files.finish()
        with RunFiles(tmp_path, resume, CONFIG) as files:
            merge(files, [read_run(shard)], whole)
            files.finish()
        merged = read_run(tmp_path)
        assert merged.records == found
        np.testing.assert_array_equal(merged.lo, rows[resume][1])
