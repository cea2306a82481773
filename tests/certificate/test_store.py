"""Certificates that jaxcert writes: accepted by the checker, and right."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import exact32, random_network, relu_network, sampled

import jaxcert as jc
from jaxcert.bounds.multineuron import CutOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.certificate.network_file import network_file
from jaxcert.certificate.store import CertificateWriter, Claim
from jaxcert.certifier import Certifier, float64
from jaxcert.checker.check import check_certificate
from jaxcert.errors import UnsupportedError
from jaxcert.runs.files import file_stem
from jaxcert.trace.tracing import program_of

# Network "one" and these options are those of test_recorded_answers.py: compiled once.
OPTIONS = jc.CertifyOptions(
    oracle="complete", batch_size=8,
    branch=BranchOptions(block=32, narrow=0, record=True),
)  # fmt: skip
CUTS = dataclasses.replace(
    OPTIONS, attack=None,
    branch=dataclasses.replace(
        OPTIONS.branch, cuts=CutOptions(partners=2, iterations=2)
    ),
)  # fmt: skip


def dense(params, x):
    """A ReLU network."""
    x = x.reshape(-1)
    for w, b in params[:-1]:
        x = jax.nn.relu(w @ x + b)
    w, b = params[-1]
    return w @ x + b


def residual(params, x):
    """Two blocks with a shortcut, and clipping."""
    (w0, b0), (w1, b1), (w2, b2) = params
    h = jax.nn.relu(w0 @ x + b0)
    h = jnp.clip(h + jax.nn.relu(w1 @ h + b1), 0, 2)
    return w2 @ h + b2


def convolution(params, x):
    """A strided convolution and two linear maps."""
    kernel, (w0, b0), (w1, b1) = params
    x = jax.lax.conv_general_dilated(
        x[None], kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(w0 @ jax.nn.relu(x).reshape(-1) + b0)
    return w1 @ x + b1


def layers(sizes, seed):
    rng = np.random.default_rng(seed)
    return [
        (exact32(rng.normal(size=(n, m))), exact32(rng.normal(size=n) * 0.3))
        for m, n in zip(sizes, sizes[1:], strict=False)
    ]


CASES = {
    "one": (relu_network, random_network((4, 8, 3), 0), (4,)),
    "two": (dense, layers((3, 8, 8, 3), 1), (3,)),
    "residual": (residual, layers((3, 6, 6, 3), 2), (3,)),
    "convolution": (
        convolution,
        [
            exact32(np.random.default_rng(3).normal(size=(3, 3, 1, 2))),
            *layers((8, 5, 3), 3),
        ],
        (4, 4, 1),
    ),
}


@dataclasses.dataclass(frozen=True)
class Made:
    """What a case was certified to."""

    f: object
    params: object
    x: np.ndarray
    answer: jc.Certification
    written: list
    folder: Path


@pytest.fixture(scope="module", params=sampled(CASES))
def made(request, tmp_path_factory) -> Made:
    f, params, shape = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    return certified(f, params, shape, folder)


def certified(
    f, params, shape, folder, arithmetic="real", margin=0.0, options=OPTIONS
) -> Made:
    certifier = Certifier(
        f, params, (0.0, 1.0), shape, options=options, required_margin=margin,
        tolerance=1e-3,
    )  # fmt: skip
    x = np.random.default_rng(9).uniform(0.1, 0.9, (6, *shape))
    answer, trees = certifier.batch_with_proofs(x, None)
    with float64():
        writer = CertificateWriter(
            certifier.model, certifier.domain, certifier.rates,
            folder, required_margin=margin, arithmetic=arithmetic,
        )  # fmt: skip
        written = [
            writer.write(
                Claim(
                    f"input {i}", int(answer.label[i]), x[i].reshape(-1),
                    answer.box.lo[i].reshape(-1), answer.box.hi[i].reshape(-1),
                    float(answer.lower[i]), float(answer.upper[i]),
                    answer.witness[i].reshape(-1),
                ),
                trees.of(i),
            )
            for i in np.flatnonzero(answer.outcome == jc.Outcome.CERTIFIED)
        ]  # fmt: skip
    return Made(f, params, x, answer, written, folder)


def test_every_certificate_is_accepted_also_exactly(made):
    assert len(made.written) >= 5
    branched = 0
    for one in made.written:
        assert one.path is not None, one.report.reason
        assert check_certificate(one.path).accepted
        with np.load(one.path) as stored:
            branched += (stored["nodes"] == -1).sum() > 2
    assert branched, "no proof needed a branch: the case is too easy"
    exactly = check_certificate(made.written[0].path, exact=True)
    assert exactly.accepted, exactly.reason


def test_a_certificate_says_what_was_answered(made):
    for one, i in zip(made.written, range(6), strict=False):
        lower = float(made.answer.lower[i])
        assert one.claim.lower <= lower <= one.claim.lower * (1 + 1e-6)
        assert one.report.apothem_lower == one.claim.lower
        assert one.report.label == int(made.answer.label[i])
        assert one.claim.lower <= one.claim.upper <= one.claim.lower + 1.01e-3


def test_no_certificate_is_refuted_by_a_milp(made):
    """The point of the box where a MILP finds the least margin keeps the class."""
    if made.f not in (dense, relu_network):
        pytest.skip("the MILP knows fully connected networks alone")
    weights = [(w.T, b) for w, b in made.params]
    for one in made.written:
        with np.load(one.path) as stored:
            lo, hi = stored["lo"], stored["hi"]
        for other in {0, 1, 2} - {one.claim.label}:
            c = np.eye(3)[one.claim.label] - np.eye(3)[other]
            least = exact.exact_min_margin(weights, lo, hi, c, 0.0)
            point = np.clip(least.point, lo, hi)
            assert exact.evaluate(weights, point) @ c > 0


def test_another_input_of_the_same_network_shares_its_file(made):
    assert len(list(made.folder.glob("network-*.npz"))) == 1
    assert not list(made.folder.glob(".*"))


@pytest.mark.parametrize("deadline", sampled([-np.inf, np.inf]))
def test_a_box_beyond_the_proof_is_not_written(made, tmp_path, deadline):
    """The witness lies well inside the widened box, so that no proof exists.

    Neither bounds alone are one, nor what branch and bound finds where it has time.
    """
    f, params, shape = made.f, made.params, made.x.shape[1:]
    certifier = Certifier(f, params, (0.0, 1.0), shape, options=OPTIONS)
    with float64():
        writer = CertificateWriter(
            certifier.model, certifier.domain, certifier.rates,
            tmp_path,
        )  # fmt: skip
        claim = made.written[0].claim
        radius = 1.05 * claim.upper
        wide = dataclasses.replace(
            claim, lower=radius, lo=np.maximum(claim.x - radius - 1e-9, 0),
            hi=np.minimum(claim.x + radius + 1e-9, 1),
        )  # fmt: skip
        written = writer.write(wide, None, deadline)
    assert written.path is None and not written.report.accepted
    assert not list(tmp_path.glob("input*"))


def test_float32_shrinks_the_box_and_says_so(tmp_path):
    f, params, shape = CASES["one"]
    made = certified(f, params, shape, tmp_path, arithmetic="float32")
    for one, i in zip(made.written, range(6), strict=False):
        assert one.path is not None, one.report.reason
        assert one.claim.lower <= made.answer.lower[i]
        changed = one.path.read_bytes()
        assert b"float32" not in changed  # the header is compressed, not plain
        with np.load(one.path) as stored:
            assert b'"float32"' in stored["header"].tobytes()


@pytest.mark.parametrize("name", CASES)
def test_the_network_file_is_the_network(name):
    f, params, shape = CASES[name]
    with float64():
        program = program_of(f, params, np.zeros(shape, np.float32))
        wide = jax.tree.map(np.float64, params)
        stored = network_file(program, wide)
        x = np.random.default_rng(0).normal(size=(20, *shape))
        every = jax.jit(jax.vmap(program.evaluate, (None, 0)))(wide, jnp.asarray(x))
        for point, expected in zip(x, np.asarray(every), strict=True):
            got = evaluate(stored, point.reshape(-1))
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def evaluate(stored, x):
    """Returns the logits of a network file, by numpy."""
    import json

    values, arrays = [x], stored.arrays
    for node in json.loads(stored.header)["nodes"]:
        if node["op"] == "relu":
            values.append(np.maximum(values[node["input"]], 0))
            continue
        y = np.zeros(node["size"])
        for term in node["terms"]:
            v = values[term["input"]]
            if term["kind"] == "dense":
                y += arrays[term["weight"]].astype(float) @ v
            elif term["kind"] == "index":
                index = arrays[term["index"]]
                y += np.where(index >= 0, v[np.maximum(index, 0)], 0)
            else:
                start = arrays[term["start"]]
                rows = np.repeat(np.arange(node["size"]), np.diff(start))
                weight = arrays[term["data"]].astype(float)
                np.add.at(y, rows, weight * v[arrays[term["column"]]])
        if node["offset"]:
            y += arrays[node["offset"]].astype(float)
        values.append(y)
    return values[-1]


def test_the_hash_is_that_of_the_weights():
    f, params, shape = CASES["one"]
    other = jax.tree.map(np.copy, params)
    other[0][0][0, 0] = np.nextafter(other[0][0][0, 0], np.float32(9))
    with float64():
        program = program_of(f, params, np.zeros(shape, np.float32))
        first, again, changed = (
            network_file(program, jax.tree.map(np.float64, p)).sha256
            for p in (params, params, other)
        )
    assert first == again != changed


@pytest.mark.parametrize(
    ("g", "arithmetic", "reason"),
    [(jnp.sin, "real", "has other operations: sin."),
     (jnp.tanh, "float32", "this network has smooth activations")],
)  # fmt: skip
def test_what_the_checker_does_not_know_has_no_certificate(g, arithmetic, reason):
    def smooth(params, x):
        w, b = params[0]
        return g(w @ x + b)

    with float64(), pytest.raises(UnsupportedError, match=reason):
        program = program_of(smooth, layers((2, 3), 0), np.zeros(2, np.float32))
        network_file(program, layers((2, 3), 0), arithmetic)


def test_different_names_have_different_files():
    names = ["a/b.csv", "a_b.csv", "a b.csv", ".a_b.csv", "..", "/", "7"]
    files = [file_stem(name) for name in names]
    assert len(set(files)) == len(names)
    assert files[1] == "a_b" and files[-1] == "7"
    assert all("/" not in file and not file.startswith(".") for file in files)


# Cuts


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> Made:
    f, params, shape = CASES["two"]
    folder = tmp_path_factory.mktemp("cuts")
    return certified(f, params, shape, folder, options=CUTS)


def changed(path: Path, change) -> Path:
    """Returns a copy of a certificate, after `change(header, arrays)`."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored}
    head = json.loads(arrays.pop("header").tobytes())
    change(head, arrays)
    copy = path.with_name(f"changed-{path.name}")
    header = np.frombuffer(json.dumps(head).encode(), np.uint8)
    np.savez(copy, header=header, **arrays)
    return copy


@pytest.mark.campaign
def test_certificates_with_cuts_are_accepted(cut):
    assert len(cut.written) >= 5
    needed = 0
    for one, i in zip(cut.written, range(6), strict=False):
        assert one.path is not None, one.report.reason
        assert check_certificate(one.path).accepted
        # No radius was given up, and the brackets are closed.
        assert one.claim.lower == cut.answer.lower[i]
        assert cut.answer.upper[i] - one.claim.lower < 1.01e-3
        with np.load(one.path) as stored:
            names = [name for name in stored if name.startswith("leaf_cuts")]
            deep = "cut_slopes_0_1" in stored and stored["cut_slopes_0_1"].any()
        if not names:
            continue

        def forget(head, arrays, names=names):
            for name in names:
                arrays[name] = 0 * arrays[name]

        report = check_certificate(changed(one.path, forget))
        needed += deep and "bound" in report.reason
    assert needed >= 2, "no proof needs its cuts: the case is too easy"


def accepts_no_more_than_a_milp_finds(searched: Made) -> None:
    weights = [(w.T, b) for w, b in searched.params]
    for one in searched.written:
        with np.load(one.path) as stored:
            lo, hi = stored["lo"], stored["hi"]
        label, values = one.claim.label, []
        for other in {0, 1, 2} - {label}:
            c = np.eye(3)[label] - np.eye(3)[other]
            point = exact.exact_min_margin(weights, lo, hi, c, 0.0).point
            values.append(exact.evaluate(weights, np.clip(point, lo, hi)) @ c)
        assert min(values) > 0
        head_of = {"required_margin": min(values) + 1e-12, "apothem_upper": None}

        def demand(head, arrays, head_of=head_of):
            head |= head_of
            arrays.pop("witness", None)

        report = check_certificate(changed(one.path, demand))
        assert not report.accepted and "bound" in report.reason


def test_a_margin_beyond_what_a_milp_finds_is_not_accepted(made):
    if made.f not in (dense, relu_network):
        pytest.skip("the MILP knows fully connected networks alone")
    accepts_no_more_than_a_milp_finds(made)


@pytest.mark.campaign
def test_a_margin_beyond_what_a_milp_finds_is_not_accepted_with_cuts(cut):
    accepts_no_more_than_a_milp_finds(cut)
