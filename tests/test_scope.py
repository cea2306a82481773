"""What proofs cover, in words and in the files of commands."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import ran

from jaxcert.commands.audit import command as audit
from jaxcert.commands.audit import run as auditing
from jaxcert.commands.certify import command as certify
from jaxcert.commands.dual import command as dual
from jaxcert.commands.dual import run as dualising
from jaxcert.commands.inputs import Selection
from jaxcert.commands.semantic import command as semantic
from jaxcert.commands.semantic import run as changing
from jaxcert.commands.verify import answer as answering
from jaxcert.commands.verify import command as verify
from jaxcert.commands.verify import worker as working
from jaxcert.network import Network
from jaxcert.report import read_run, write_report
from jaxcert.scope import Scope, scope_of

REAL = "Proofs are about the network as a function of real numbers, its weights as "
SUMMED = "summed in float32 or wider"


def rounding(params, x):
    """Logits (x, 0.5), the first by a product in bfloat16."""
    product = x.astype(jnp.bfloat16) @ params["w"].astype(jnp.bfloat16)
    return product.astype(jnp.float32) + params["b"]


PARAMS = {
    "w": np.array([[1.0, 0.0], [0.0, 0.0]], np.float32),
    "b": np.array([0.0, 0.5], np.float32),
}
NETWORK = Network(
    rounding, PARAMS, (2,), 2, "rounding", "ab" * 32, types=("float32", "bfloat16")
)


@pytest.fixture
def point(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0.9, 0.25]]))
    return tmp_path / "x.npy"


@pytest.fixture
def certified(point, tmp_path, monkeypatch, capsys):
    """Runs certify on a network, on one input, into tmp_path/out."""

    def run(network, *words, **flags):
        monkeypatch.setattr(certify, "select_network", lambda *_: network)
        given = {"inputs": point, "output": tmp_path / "out", "oracle": "crown"}
        ended = ran(certify, capsys, *words, **(given | flags))
        assert ended.code == 0, ended.err
        return ended

    return run


def read(path):
    return json.loads(path.read_text())


# Words


def scope(f, params, types=("float32",), arithmetic="real"):
    model = Network(f, params, (2,), 2, "", "").model
    return scope_of(model.program, types, arithmetic)


def test_a_plain_network_is_one_of_real_numbers():
    plain = scope(lambda p, x: p @ x, np.eye(2, dtype=np.float32))
    assert plain.words == REAL + "stored."
    assert plain.types == ("float32",) and plain.assumptions == ()
    single = scope(
        lambda p, x: p @ x, np.eye(2, dtype=np.float32), arithmetic="float32"
    )
    assert "every float32 evaluation of the network" in single.words


def test_types_are_told_and_what_they_mean():
    double = scope(lambda p, x: p @ x, np.eye(2), ("float64",))
    assert double.sentences[1:] == (
        "It computes in float64.", "What it states in float64 is decided as that.",
    )  # fmt: skip
    rounded = scope(rounding, PARAMS, NETWORK.types)
    assert rounded.sentences[1] == "It computes in float32 and bfloat16."
    assert "count as the roundings they are" in rounded.words
    computed = scope(lambda p, x: (p * 0.3) @ x, np.eye(2, dtype=np.float32))
    assert "another order of evaluation may change" in computed.words


def test_assumptions_are_told():
    (assumed,) = scope(rounding, PARAMS).assumptions
    assert SUMMED in assumed
    assert scope(rounding, PARAMS).sentences[-1] == f"Taken for granted: {assumed}."


def test_nothing_that_was_said_is_lost():
    one = Scope(("float32",), ("a",), ("x.", "Taken for granted: a."))
    other = Scope(("float32",), ("b",), ("x.", "Taken for granted: b."))
    both = one.joined(other)
    assert both.assumptions == ("a", "b") and both.types == ("float32",)
    assert both.words == "x. Taken for granted: a. Taken for granted: b."
    assert Scope.read(json.loads(json.dumps(both.record()))) == both
    for wrong in (None, [], {}, both.record() | {"types": [1]}, {"types": []}):
        with pytest.raises(ValueError):
            Scope.read(wrong)


# Files


def test_certify_tells_it_in_its_files_and_report(certified, tmp_path):
    ended = certified(NETWORK)
    expected = scope(rounding, PARAMS, NETWORK.types)
    out = tmp_path / "out"
    assert read(out / "run.json")["scope"] == expected.record()
    assert read(out / "summary.json")["scope"] == expected.record()
    page = " ".join((out / "report.html").read_text().split())
    assert SUMMED in page and "It computes in float32 and bfloat16." in page
    assert f"taken for granted: {expected.assumptions[0]}" in ended.err
    assert "scope" not in read(out / "run.json")["config"]
    assert read_run(out).scope == expected


def test_old_runs_are_continued_and_then_tell_it(certified, tmp_path):
    out = tmp_path / "out"
    certified(NETWORK, "--noreport")
    told = read(out / "run.json")
    record = told.pop("scope")
    (out / "run.json").write_text(json.dumps(told))
    summary = read(out / "summary.json")
    del summary["scope"]
    (out / "summary.json").write_text(json.dumps(summary))
    lines = (out / "certificates.jsonl").read_text()
    assert read_run(out).scope is None
    assert "Proofs are about" not in write_report(out).read_text()
    certified(NETWORK, "--resume")
    assert (out / "certificates.jsonl").read_text() == lines
    assert read(out / "run.json")["scope"] == record
    assert "Proofs are about" in (out / "report.html").read_text()


def test_what_earlier_answers_took_for_granted_stays(certified, tmp_path):
    out = tmp_path / "out"
    certified(NETWORK, "--noreport")
    told = read(out / "run.json")
    told["scope"]["assumptions"].append("the moon is round")
    (out / "run.json").write_text(json.dumps(told))
    certified(NETWORK, "--noreport", "--resume")
    assert "the moon is round" in read(out / "summary.json")["scope"]["assumptions"]


def test_a_damaged_scope_is_refused(certified, tmp_path):
    out = tmp_path / "out"
    certified(NETWORK, "--noreport")
    told = read(out / "run.json")
    (out / "run.json").write_text(json.dumps(told | {"scope": ["no"]}))
    with pytest.raises(
        ValueError, match="run.json: scope is not what .* another --out"
    ):
        read_run(out)


@pytest.mark.campaign
def test_audit_tells_it_beside_its_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(auditing, "load_network", lambda _: NETWORK)
    np.savez(tmp_path / "b.npz", lo=[[0.8, 0.2]], hi=[[0.9, 0.3]])
    out = tmp_path / "out"
    given = {"model": "n.npz", "boxes": tmp_path / "b.npz", "output": out}
    ended = ran(audit, capsys, **given)
    assert ended.code == 0, ended.err
    expected = scope(rounding, PARAMS, NETWORK.types).record()
    settings = read(out / "audit.json")
    assert settings[
        "scope"
    ] == expected and f"granted: {expected['assumptions'][0]}" in (ended.err)
    # An old audit, which says nothing of it, is continued.
    old = {k: v for k, v in settings.items() if k != "scope"}
    (out / "audit.json").write_text(json.dumps(old))
    ended = ran(audit, capsys, "--resume", **given)
    assert ended.code == 0 and "1 boxes are done already" in ended.err
    assert read(out / "audit.json") == settings


@pytest.mark.campaign
def test_dual_tells_it_beside_its_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dualising, "load_network", lambda _: NETWORK)
    given = {"model": "n.npz", "output": tmp_path / "out", "time_limit": 0.01}
    for words in ((), ("--resume",)):
        ended = ran(dual, capsys, *words, **given)
        assert ended.code == 0, ended.err
        expected = scope(rounding, PARAMS, NETWORK.types)
        assert read(tmp_path / "out" / "dual.json")["scope"] == expected.record()
        assert f"taken for granted: {expected.assumptions[0]}" in ended.err


def test_semantic_tells_it_beside_its_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(semantic, "select_network", lambda *_: NETWORK)
    x, label = np.array([[0.9, 0.25]]), np.zeros(1, int)
    labelled = Selection("x.npy", ("0",), x, label, None)
    monkeypatch.setattr(semantic, "select_inputs", lambda *_: labelled)
    monkeypatch.setattr(changing, "_family", lambda *_: iter(()))
    given = {"changes": "brightness,contrast", "output": tmp_path / "out"}
    for words in ((), ("--resume",)):
        ended = ran(semantic, capsys, *words, **given)
        assert ended.code == 0, ended.err
        told = Scope.read(read(tmp_path / "out" / "semantic_scope.json")["scope"])
        assert told.types == NETWORK.types
        (assumed,) = told.assumptions
        assert SUMMED in assumed and SUMMED in told.words
        assert ended.err.count(f"taken for granted: {assumed}") == 1


PROPERTY = """
(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (>= X_0 0.8)) (assert (<= X_0 0.9)) (assert (>= X_1 0)) (assert (<= X_1 1))
(assert (<= Y_0 Y_1))
"""


def test_verify_tells_it_of_every_network(tmp_path, monkeypatch, capsys):
    (tmp_path / "p.vnnlib").write_text(PROPERTY)
    for name in ("n.onnx", "m.onnx"):
        (tmp_path / name).touch()
    (tmp_path / "i.csv").write_text("n.onnx,p.vnnlib,60\nm.onnx,p.vnnlib,60\n")
    plain = dataclasses.replace(
        NETWORK, apply=lambda p, x: x @ p["w"] + p["b"], types=("float32",)
    )
    networks = {"n.onnx": NETWORK, "m.onnx": plain}

    class Here:
        """A worker in this process."""

        def __init__(self, _):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def start(self):
            pass

        def ask(self, question, _):
            effort = verify.Request(onnx="n", vnnlib="p", restarts=1).effort
            load = lambda onnx, shapes=None: networks[onnx.name]  # noqa: E731
            found = working.answered(question, effort, load)
            return json.loads(json.dumps(working.told(found))) | {"worn": False}

    monkeypatch.setattr(answering, "Worker", Here)
    given = {"instances": tmp_path / "i.csv", "output": tmp_path / "r.csv"}
    ended = ran(verify, capsys, **given)
    assert ended.code == 0, ended.err
    rows = (tmp_path / "r.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows[1:]] == ["unsat", "unsat"]
    told = read(tmp_path / "r_scopes.json")
    assert told == {
        "n.onnx": scope(rounding, PARAMS, NETWORK.types).record(),
        "m.onnx": scope(plain.apply, PARAMS).record(),
    }


def test_verify_of_one_instance_warns(tmp_path, monkeypatch, capsys):
    (tmp_path / "p.vnnlib").write_text(PROPERTY)
    (tmp_path / "n.onnx").touch()
    monkeypatch.setattr(answering, "load_subject", lambda *_: NETWORK)
    ended = ran(verify, capsys, onnx=tmp_path / "n.onnx", vnnlib=tmp_path / "p.vnnlib")
    assert ended.out == "unsat\n" and SUMMED in ended.err
    assert not jax.config.jax_enable_x64
