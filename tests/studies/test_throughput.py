"""Throughput: the networks handed around, the checks, the count of multiply-adds."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from cases import sampled
from in_process import ran
from studies.growth import run as growth
from studies.throughput import command, networks, report, tools
from studies.throughput import run as measuring
from studies.throughput.case import METHODS, Case
from studies.throughput.floor import multiply_adds
from studies.throughput.tools import TOOLS
from studies.throughput.with_jaxcert import jaxcert

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.models import build, load_network, save_checkpoint, to_network

# A study of the project; what it runs of the package has tests of its own.
pytestmark = pytest.mark.campaign

SCRIPT = Path(__file__).parents[2] / "experiments/throughput.py"


def case_of(subject, method, boxes=3, epsilon=0.05):
    network = subject.network
    x = np.random.default_rng(0).uniform(size=(boxes, *network.input_shape))
    x = x.astype(np.float32)
    logits = jax.vmap(network.apply, (None, 0))(network.params, x)
    labels = np.asarray(logits.argmax(axis=1))
    return Case(subject, method, x, labels, epsilon, 5, 2, 10.0)


@pytest.fixture(scope="module")
def mlp():
    return networks.random_mlp((6, 8, 7, 3), "6-8-7-3")


@pytest.fixture(scope="module")
def residual():
    builder = networks.Builder(1)
    builder.conv((2, 1, 3, 3), 2)
    before = builder.append("relu")
    builder.conv((2, 2, 3, 3), 1)
    builder.append("relu")
    after = builder.conv((2, 2, 3, 3), 1)
    builder.append("add", inputs=(before, after))
    builder.append("relu")
    builder.append("flatten")
    builder.dense(18, 3)
    return builder.build("residual", (1, 6, 6))


@pytest.mark.campaign
@pytest.mark.parametrize("kind", sampled(["cnn", "mlp"]))
def test_a_loaded_checkpoint_is_the_same_function(tmp_path, kind):
    from flax import nnx

    cnn = {"channels": (3, 4), "kernel": 3, "strides": (2, 1)} if kind == "cnn" else {}
    shape = (9, 8, 2)
    architecture = Architecture(kind, shape, num_classes=4, hidden=(5,), **cnn)
    network = to_network(build(architecture, nnx.Rngs(0)), architecture, kind)
    save_checkpoint(tmp_path / "net.npz", network)
    subject = networks.load(str(tmp_path / "net.npz"))
    images = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    theirs = images.transpose(0, 3, 1, 2) if kind == "cnn" else images.reshape(5, -1)
    found = jax.vmap(subject.network.apply, (None, 0))(subject.network.params, theirs)
    stored = load_network(tmp_path / "net.npz")
    expected = jax.vmap(stored.apply, (None, 0))(stored.params, images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_networks_that_cannot_be_loaded(tmp_path):
    from flax import nnx

    with pytest.raises(InputError, match="^there is no file absent.onnx: check the p"):
        networks.load("absent.onnx")
    with pytest.raises(InputError, match="^unknown network 'vgg'; known: 784-32-10, "):
        networks.standard("vgg")
    architecture = Architecture("mlp", (4,), hidden=(3,), batch_norm=True)
    network = to_network(build(architecture, nnx.Rngs(0)), architecture, "normal")
    save_checkpoint(tmp_path / "normal.npz", network)
    with pytest.raises(UnsupportedError, match="has pooling or batch norm, which the"):
        networks.load(str(tmp_path / "normal.npz"))


@pytest.mark.parametrize("name", networks.STANDARD)
def test_the_standard_networks_have_ten_classes(name):
    assert networks.standard(name).network.num_outputs == 10


@pytest.mark.campaign
@pytest.mark.parametrize("method", sampled(["crown", "ibp", "crown-ibp"]))
def test_bounds_of_jaxcert_pass_their_check(residual, method):
    case = case_of(residual, method)
    row = measuring._checked(case, "jaxcert", {"jaxcert": jaxcert(case)()})
    assert row["problem"] is None and row["worst_difference"] < 1e-5


@pytest.mark.campaign
@pytest.mark.parametrize("count", sampled([2, 3]))
def test_a_batch_is_spread_over_all_devices(mlp, count, monkeypatch):
    case = case_of(mlp, "crown")
    alone, device = jaxcert(case)(), jax.local_devices()[0]
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * count)
    np.testing.assert_allclose(jaxcert(case)(), alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_plain_torch_agrees(residual, mlp, method):
    pytest.importorskip("torch", reason="needs torch, which only benchmarks use")
    for subject in (residual, mlp):
        case = case_of(subject, method)
        answers = {tool: TOOLS[tool][1](case)() for tool in ("jaxcert", "torch")}
        for tool in answers:
            assert measuring._checked(case, tool, answers)["problem"] is None
        np.testing.assert_allclose(answers["torch"], answers["jaxcert"], atol=1e-4)


@pytest.mark.campaign
def test_alpha_crown_is_between_crown_and_the_centre(mlp):
    crown, alpha = (case_of(mlp, method) for method in ("crown", "alpha-crown"))
    plain, optimised = jaxcert(crown)(), jaxcert(alpha)()
    assert (optimised >= plain - 1e-5).all() and (optimised > plain + 1e-4).any()
    assert (
        measuring._checked(alpha, "jaxcert", {"jaxcert": optimised})["problem"] is None
    )
    raised = {"jaxcert": optimised + 100}
    problem = measuring._checked(alpha, "jaxcert", raised)["problem"]
    assert problem == "bounds above the value at the centre"


@pytest.mark.campaign
def test_a_wrong_tool_is_not_timed(mlp, monkeypatch):
    case = case_of(mlp, "crown")
    monkeypatch.setitem(TOOLS, "torch", ("torch", lambda case: wrong(jaxcert(case))))
    monkeypatch.setattr(measuring, "matrix_products", lambda tools: {"p": lambda: 0})
    rows = list(measuring.measure(case, measuring.Protocol(("jaxcert", "torch"), 0.0)))
    ours, theirs = rows
    assert ours["problem"] is None and ours["boxes_per_second"] > 0
    assert ours["calls"] >= 3
    assert theirs["problem"].startswith("differs from the reference by ")
    assert "boxes_per_second" not in theirs
    text = report.table(rows, ["jaxcert", "torch"])
    assert "wrong" in text and "not timed: torch on 6-8-7-3, crown" in text


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: 105 GB asked"), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried ..."), "out of memory"),
        (TypeError("of theirs"), "TypeError: of theirs"),
    ],
)
def test_a_tool_that_fails_is_told_of_and_the_others_are_timed(
    mlp, monkeypatch, error, problem
):
    def fails(case):
        raise error

    case = case_of(mlp, "crown")
    monkeypatch.setitem(TOOLS, "auto_LiRPA", ("auto_LiRPA", fails))
    monkeypatch.setattr(measuring, "matrix_products", lambda tools: {"p": lambda: 0})
    protocol = measuring.Protocol(("auto_LiRPA", "jaxcert"), 0.0)
    theirs, ours = measuring.measure(case, protocol)
    assert theirs["problem"] == problem and "boxes_per_second" not in theirs
    assert ours["problem"] is None and ours["boxes_per_second"] > 0
    text = report.table([ours, theirs], ["jaxcert", "auto_LiRPA"])
    assert "failed" in text and problem in text.replace("\n  ", " ")


def wrong(run):
    return lambda: run() - np.float32(1e-3) * np.arange(2)


def test_verdicts_that_contradict_are_not_timed(mlp):
    answers = {"jaxcert": np.array([1, -1, 0]), "Marabou": np.array([-1])}
    case = case_of(mlp, "complete")
    for tool, other in (("jaxcert", "Marabou"), ("Marabou", "jaxcert")):
        problem = measuring._checked(case, tool, answers)["problem"]
        assert problem == f"contradicts {other}"
    answers["Marabou"][0] = 0
    assert measuring._checked(case, "jaxcert", answers)["problem"] is None


@pytest.mark.campaign
def test_complete_decides_what_crown_proves_and_what_sampling_refutes(mlp):
    for epsilon in (0.01, 0.4):
        case = case_of(mlp, "complete", boxes=8, epsilon=epsilon)
        verdicts = jaxcert(case)()
        rows = jaxcert(dataclasses.replace(case, method="crown"))()
        assert (verdicts[(rows > 1e-3).all(axis=1)] == 1).all()
        random = np.random.default_rng(0)
        network, box = mlp.network, case.box
        for j in range(8):
            share = random.random((500, 6), np.float32)
            points = box.lo[j] + share * (box.hi[j] - box.lo[j])
            y = np.asarray(jax.vmap(network.apply, (None, 0))(network.params, points))
            broken = (y.argmax(axis=1) != case.labels[j]).any()
            assert not (broken and verdicts[j] == 1)
        assert (verdicts != 0).all()


def test_multiply_adds_are_counted_by_hand(mlp):
    """Two hidden layers: every term of the definition, from masks of our own."""
    case = case_of(mlp, "crown", boxes=4, epsilon=0.1)
    (w1, b1), _, (w2, b2), _, (w3, _) = mlp.network.params
    expected = []
    for lo, hi in zip(case.box.lo, case.box.hi, strict=True):
        lo1 = w1 @ (lo + hi) / 2 + b1 - np.abs(w1) @ (hi - lo) / 2
        hi1 = w1 @ (lo + hi) / 2 + b1 + np.abs(w1) @ (hi - lo) / 2
        on, off = lo1 >= 0, hi1 <= 0
        undecided = ~on & ~off
        # What CROWN finds for the second layer: its concretised lines, by hand.
        up = np.where(undecided, hi1 / (hi1 - lo1 + 1e-30), on)
        low = np.where(undecided, hi1 > -lo1, on).astype(float)
        shift = np.where(undecided, -up * lo1, 0)

        def least(rows, low=low, up=up, shift=shift, lo=lo, hi=hi):
            lines = np.where(rows > 0, rows * low, rows * up)
            const = (np.where(rows > 0, 0, rows) * shift).sum(axis=1) + lines @ b1
            c = lines @ w1
            return np.where(c > 0, c * lo, c * hi).sum(axis=1) + const

        z_lo, z_hi = np.maximum(lo1, 0), np.maximum(hi1, 0)
        center, radius = w2 @ (z_lo + z_hi) / 2 + b2, np.abs(w2) @ (z_hi - z_lo) / 2
        wanted = (center - radius < 0) & (center + radius > 0)
        hi2 = np.minimum(center + radius, np.where(wanted, -least(-w2) + b2, np.inf))
        alive1, alive2 = (~off).sum(), (~(hi2 <= 0)).sum()
        intervals = 2 * (8 * 6 + 7 * 8 + 3 * 7)
        inner = wanted.sum() * (2 * alive1 - on.sum()) * 6
        rows = 2 * (3 * alive2 + alive2 * alive1 + alive1 * 6)
        expected.append(intervals + inner + rows)
    assert len(set(expected)) > 1
    assert multiply_adds(case) == pytest.approx(np.mean(expected), rel=1e-6)
    fewer = multiply_adds(dataclasses.replace(case, method="crown-ibp"))
    intervals = multiply_adds(dataclasses.replace(case, method="ibp"))
    assert intervals == 2 * (8 * 6 + 7 * 8 + 3 * 7) < fewer < multiply_adds(case)
    assert multiply_adds(dataclasses.replace(case, method="complete")) is None


@pytest.mark.campaign
def test_the_table_fits_and_the_pictures_are_written(tmp_path):
    rows = [
        {
            "network": f"a-network-with-a-long-name-{n}", "method": method,
            "batch": 10_000, "tool": tool, "problem": None, "compile_seconds": 1.5,
            "boxes_per_second": 1_234_567.0 / (1 + n), "fraction_of_floor": 0.5,
        }
        for n in range(2) for method in METHODS for tool in TOOLS
    ]  # fmt: skip
    lines = report.table(rows, list(TOOLS)).splitlines()
    assert len(lines) == 2 + 2 * len(METHODS)
    assert {len(line) for line in lines} == {80}
    report.picture(rows, list(TOOLS), tmp_path / "throughput")
    assert (tmp_path / "throughput.png").stat().st_size > 10_000
    assert "s to trace and compile" in report.compilation(rows)


def test_the_exponent_of_a_power_law():
    sizes = (1, 2, 4, 8, 16, 32)
    rows = [
        {"series": "boxes", "method": "crown", "size": n, "seconds": 3 * n**1.5}
        for n in sizes
    ]
    # What holds for small sizes alone is not fitted.
    rows[0]["seconds"] = 1000.0
    law = growth.fitted(rows, "boxes", "crown")
    assert law.power == pytest.approx(1.5)
    assert (law.least, law.most) == (4, 32)
    assert law.at(32) == pytest.approx(3 * 32**1.5)


@pytest.mark.campaign
def test_the_script_measures_once_and_resumes(
    tiny, environment, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    flags = [
        f"--model={tiny.checkpoint}", "--methods=ibp", "--batches=2", "--seconds=0",
        "--tools=jaxcert", "--cores=1", f"--output={out}",
    ]  # fmt: skip
    # It pins its process to a core and sets JAX up: the first run has one of its own.
    words = [sys.executable, str(SCRIPT), *flags]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    monkeypatch.setattr(command, "_pin", lambda *_: 1)
    monkeypatch.setattr(command.jax.config, "update", lambda *_: None)

    def run(*more):
        return ran(command, capsys, *flags, *more)

    assert done.returncode == 0, done.stderr
    assert "GFLOP/s in matrix products" in done.stdout and "tiny" in done.stdout
    stored = (out / "throughput.jsonl").read_bytes()
    row = json.loads(stored)
    assert row["tool"] == "jaxcert" and row["boxes_per_second"] > 0
    assert 0 < row["fraction_of_floor"] and row["compile_seconds"] > 0
    assert (out / "throughput.png").exists()
    assert "tiny" in (out / "table.txt").read_text()
    again = run("--resume")
    assert again.code == 0 and "first call" not in again.err
    assert (out / "throughput.jsonl").read_bytes() == stored
    for more, message in (
        ((), "already holds rows. Continue it with --resume, or choose another"),
        (("--methods=lp",), "error: --methods: unknown 'lp'; known: ibp, crown-ibp"),
        (("--batches=0",), "error: --batches takes integers of at least 1, got '0'"),
        (("--resume", "--epsilon=0.5"), "is of other settings: epsilon is 0.02 there"),
    ):
        refused = run(*more)
        assert refused.code == 1
        assert message in refused.err and refused.err.count("\n") == 1


def test_a_tool_without_what_it_needs_is_not_there(monkeypatch):
    present = {"jaxcert", "auto_LiRPA"}
    monkeypatch.setattr(tools.importlib.util, "find_spec", lambda n: n in present)
    assert tools.available() == ["jaxcert"]
    present.add("torch")
    assert tools.available() == ["jaxcert", "torch", "auto_LiRPA"]
