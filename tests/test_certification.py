"""Answers as users handle them: counted, indexed, kept, shown and stopped early."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcert as jc
from jaxcert.search import stages
from jaxcert.trace.pinned import pinned

ROOT = Path(jc.__file__).parents[1]
W = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.4]], np.float32)
X = np.random.default_rng(0).uniform(0.05, 0.95, (11, 2))
LABELS = np.argmax(X, axis=1)


def f(w, x):
    return w @ x


@pytest.fixture(scope="module")
def answer() -> jc.Certification:
    return jc.certify(f, W, X, LABELS)


def test_an_answer_has_a_length_and_parts(answer):
    assert len(answer) == 11 and len(answer[2:5]) == 3
    assert [one.lower for one in answer] == answer.lower.tolist()
    near = answer[answer.lower < np.median(answer.lower)]
    assert len(near) == 5 and near.x.shape == (5, 2) and near.asked == answer.asked
    assert answer[-1].single and answer[-1].box.lo.shape == (2,)
    with pytest.raises(IndexError):
        answer[11]
    with pytest.raises(TypeError, match="of one input"):
        len(answer[0])
    with pytest.raises(TypeError, match="of one input"):
        answer[0][0]
    with pytest.raises(TypeError, match="is no bool"):
        bool(answer)


def test_an_answer_says_what_it_is_in_five_lines(answer):
    for part in (answer, answer[:1], answer[3]):
        lines = repr(part).splitlines()
        assert len(lines) == 5 and max(map(len, lines)) <= 100
    assert "11 inputs of shape (2,): 11 certified" in repr(answer)
    assert "one input of shape (2,): certified" in repr(answer[3])
    assert "crown, margin > 0, domain [0, 1], network f" in repr(answer)


def test_a_saved_answer_is_read_again(answer, tmp_path):
    for part in (answer, answer[4]):
        again = jc.load(part.save(tmp_path / "answer.npz"))
        assert jax.tree.structure(again) == jax.tree.structure(part)
        for mine, yours in zip(
            jax.tree.leaves(again), jax.tree.leaves(part), strict=True
        ):
            assert type(mine) is type(yours)
            np.testing.assert_array_equal(mine, yours)
        assert again.asked == part.asked and repr(again) == repr(part)
    with pytest.raises(jc.InputError, match="ends in .npz"):
        answer.save(tmp_path / "answer.pickle")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"head": np.array('{"format": "jaxcert certification 9"}')},
            "certification 9",
        ),
        ({"lower": np.full(11, 2.0)}, "a bracket is not ordered"),
        ({"outcome": np.full(11, 7)}, "outcome holds a value that is none"),
        ({"label": np.zeros(3, int)}, r"label is int64 of shape \(3,\)"),
    ],
)
def test_an_answer_of_another_form_is_refused(answer, change, reason, tmp_path):
    path = answer.save(tmp_path / "answer.npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **{**arrays, **change})
    with pytest.raises(jc.InputError, match=reason):
        jc.load(path)


def test_an_answer_is_shown_as_table_latex_and_figure(answer):
    assert "11 certified, each at a radius of its own" in answer.table()
    named = answer.table(names=[f"image {row}" for row in range(11)])
    assert "image 10" in named
    latex = answer.to_latex()
    assert latex.startswith(r"\begin{tabular}") and latex.count(r"\\") == 5
    assert r"all & 11 & 11 & 0 & 0" in latex
    (axes,) = answer.plot().axes
    assert axes.get_xlabel() == "radius (input units, 1 = full feature range)"


class Links(HTMLParser):
    """Gathers what a page loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [v for k, v in attrs if k in ("src", "srcset", "href")]


def test_a_report_is_one_file_that_needs_no_other(answer, tmp_path):
    path = answer[:2].report(
        tmp_path / "mail.html", class_names=["left", "right", "none"]
    )
    assert [path] == list(tmp_path.iterdir())
    text = path.read_text()
    found = Links(text).found
    assert found and all(link.startswith("data:image/png;base64,") for link in found)
    assert "@import" not in text and "url(" not in text
    assert "(left)" in text and answer.asked.content_hash in text
    assert "Claim: of each of the" in text
    assert "record=True and call jaxcert.write_certificates for" in " ".join(
        text.split()
    )


def test_proofs_are_there_where_they_were_recorded(answer):
    with pytest.raises(jc.InputError, match="record=True"):
        answer.proofs  # noqa: B018
    recorded = jc.certify(f, W, X[:2], record=True)
    assert recorded.proofs == [None, None]  # CROWN alone proves an affine network
    assert recorded[0].proofs == [None]


def test_an_unconfirmed_counterexample_is_named():
    """Where rounding hides the sign of a margin, the answer is not [0, inf] alone."""

    def g(one, x):
        return jnp.stack([jnp.exp(x[0]) * jnp.exp(-x[0]), one + 0 * x[0]])

    options = jc.CertifyOptions(
        oracle="ibp", attack=jc.AttackOptions(restarts=1, steps=2)
    )
    x = np.linspace(0.1, 0.9, 8)[:, None]
    label = np.zeros(8, int)
    answer = jc.certify(g, jnp.float32(1.0), x, label, options=options)
    assert np.isinf(answer.upper).all() and not answer.lower.any()
    assert (answer.outcome == jc.Outcome.UNKNOWN).all()
    assert np.isfinite(answer.suspect).all()
    assert (abs(answer.suspect_margin) < 1e-12).all() and len(answer.doubts()) == 8
    assert "8 unconfirmed, float64 margin" in repr(answer)


def interrupting(at: int):
    """Returns progress that presses Ctrl-C once, when so many are done."""

    def progress(done: int, total: int) -> None:
        if done == at:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def test_ctrl_c_answers_what_is_proved_so_far(answer):
    options = jc.CertifyOptions(batch_size=1)
    with pytest.warns(RuntimeWarning, match="stopped by Ctrl-C: 8 of 11 brackets"):
        part = jc.certify(f, W, X, LABELS, options=options, progress=interrupting(3))
    np.testing.assert_allclose(part.lower[:3], answer.lower[:3], atol=2e-4)
    assert (part.outcome[3:] == jc.Outcome.UNKNOWN).all() and len(part) == 11
    assert "Ctrl-C ended the search early" in repr(part)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_twice_raises():
    def progress(done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    options = jc.CertifyOptions(batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        jc.certify(f, W, X, options=options, progress=progress)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_verify_without_an_answer():
    def g(w, x):
        return w @ jnp.tanh(4 * x - 2) ** 2

    box = jc.Box(np.full(2, 0.4), np.full(2, 0.9))
    options = jc.CertifyOptions(oracle="complete", attack=None)
    verdict = jc.verify(
        g, W[:2] + 0.1, box, jc.Spec.classification(0, 2), options=options,
        progress=interrupting(1),
    )  # fmt: skip
    assert verdict.status == jc.Status.UNKNOWN and verdict.reason == jc.Reason.TIME


def test_progress_is_told_by_stages_or_shown(capfd):
    box = jc.Box(np.array([0.6, 0.0]), np.array([1.0, 0.5]))
    seen: list[tuple[int, int]] = []
    spec = jc.Spec.classification(0, 3)
    verdict = jc.verify(
        f, W, box, spec, progress=lambda done, total: seen.append((done, total))
    )
    assert verdict.proved and seen == [(0, 2), (2, 2)]
    jc.certify(f, W, X, LABELS, progress=True)
    shown = capfd.readouterr()
    assert "certifying" in shown.err and "11/11" in shown.err and not shown.out
    with pytest.raises(jc.InputError, match="progress is 3; pass True, or a function"):
        jc.certify(f, W, X, progress=3)


CELL = """
def network(w, x):
    offset = {constant}
    return w @ jax.nn.relu(x) + (lambda v: v * offset)(x[0])
"""


def cell(above: str = "", constant: str = "0.5"):
    """Returns the function of a notebook cell that is run (again)."""
    names = {"jax": jax}
    exec(compile(above + CELL.format(constant=constant), "<cell>", "exec"), names)
    return names["network"]


def test_a_cell_that_is_run_again_finds_its_programs():
    first = pinned(cell())
    assert pinned(cell("# a comment\n\n")) == first
    for other in ("0.25", "1", "True", "-0.5", "(0.5,)"):
        assert pinned(cell(constant=other)) != first
    bounds = jc.CertifyOptions(oracle="ibp", attack=None)
    jc.certify(cell(), W, X[0], options=bounds)
    programs = stages.search._cache_size()
    jc.certify(cell("import math\n\n\n"), W, X[1], options=bounds)
    assert stages.search._cache_size() == programs


def test_batches_are_worked_on_in_blocks_of_what_is_there(monkeypatch):
    sizes: list[int] = []
    search = stages.search

    def noted(oracle, options, classes, weights, task, *more):
        sizes.append(len(task.x))
        return search(oracle, options, classes, weights, task, *more)

    monkeypatch.setattr(stages, "search", noted)
    options = jc.CertifyOptions(attack=None)
    for count, blocks in ((1, [1]), (8, [8]), (11, [8, 8])):
        sizes.clear()
        jc.certify(f, W, X[:count], options=options)
        assert sizes == blocks
    assert [options.padded(n) for n in (1, 2, 8, 9, 17, 33, 64)] == [
        1, 8, 8, 16, 32, 64, 64,
    ]  # fmt: skip
    assert jc.CertifyOptions(batch_size=20).padded(20) == 24
    assert jc.CertifyOptions(batch_size=5).padded(3) == 5


def test_the_compilation_cache_is_one_line(tmp_path):
    code = (
        "import jax, jaxcert as jc\n"
        f"folder = {str(tmp_path)!r}\n"
        "assert str(jc.use_compilation_cache(folder)) == folder\n"
        "assert jax.config.jax_compilation_cache_dir == folder\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "jax.jit(lambda x: x + 1)(1.0)\n"
    )
    home = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPIL")}
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=home | {"JAX_PLATFORMS": "cpu"}
    )
    assert list(tmp_path.iterdir())


def test_the_package_states_its_version_types_and_names():
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", jc.__version__)
    assert (Path(jc.__file__).parent / "py.typed").exists()
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\bjc\.(\w+)", readme))
    assert named and named <= {*jc.__all__, "__version__"}


def test_warnings_are_for_ctrl_c_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        late = jc.certify(f, W, X, time_limit=1e-9)
    assert late.asked.stopped == "the time limit"
    assert (late.outcome == jc.Outcome.UNKNOWN).all()
