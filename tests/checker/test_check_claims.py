"""What a certificate claims is said in words, and what says nothing is not accepted."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from builder import Case, Stored, change, replaced, set_to, stored_network

from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Expected, Report, Status

EVERY = slice(None)


def test_the_whole_claim_is_said(cases, tmp_path):
    case = cases["few"]
    report, head = check_certificate(case.write(tmp_path)), case.certificate.head
    rates = [case.certificate.arrays[f"rate_{side}"] for side in ("lo", "hi")]
    pattern = (
        rf"class {head['label']} of 3 wins by a margin > 0 everywhere in a box; "
        r"apothem at least 0\.\d{6}, a counterexample at 0\.\d{6}; domain \[0, 1\], "
        rf"5 of 5 features free, rates {np.min(rates)} \.\. {np.max(rates)}; "
        rf"real arithmetic; network {case.network.sha256[:16]}; "
        rf"proved by {report.leaves} leaves"
    )
    assert re.fullmatch(pattern, report.claim), report.claim


def test_printed_numbers_never_claim_more(cases, tmp_path):
    for name, case in cases.items():
        report = check_certificate(case.write(tmp_path, f"{name}.npz"))
        least = float(re.search(r"at least (\S+),", report.claim)[1])
        assert report.apothem_lower * (1 - 1e-5) < least <= report.apothem_lower
        found = re.search(r"a counterexample at ([^;]+);", report.claim)
        assert (found is None) == np.isinf(report.apothem_upper)
        if found:
            assert report.apothem_upper <= float(found[1])
            assert float(found[1]) < report.apothem_upper * (1 + 1e-5)


def test_counterexamples_to_float32_are_of_real_arithmetic(cases, tmp_path):
    case = change(cases["linear"], lambda s: replaced(s, arithmetic="float32"))
    words = "; float32 arithmetic{}; network "
    both = words.format(", counterexamples in real arithmetic")
    report = check_certificate(case.write(tmp_path))
    assert both in report.claim, report
    alone = change(case, without_witness, lambda s: replaced(s, apothem_upper=None))
    assert words.format("") in check_certificate(alone.write(tmp_path)).claim


# Claims that hold and say nothing


def margin_below_0(case: Case) -> Case:
    """Any class wins by more than -1e6, on all of the domain."""
    wide = [set_to(side, EVERY, end) for side, end in (("lo", 0.0), ("hi", 1.0))]
    nothing = {"apothem_lower": None, "apothem_upper": None}
    return change(
        case, *wide, without_witness,
        lambda s: replaced(s, required_margin=-1e6, label=other_class(s), **nothing),
        one_leaf_each,
    )  # fmt: skip


def margin_slightly_below_0(case: Case) -> Case:
    return change(case, lambda s: replaced(s, required_margin=-(2.0**-1074)))


def domain_is_the_input(case: Case) -> Case:
    x = case.certificate.arrays["x"]
    names = ("lo", "hi", "domain_lo", "domain_hi")
    return change(
        case, *(set_to(name, EVERY, x) for name in names), without_witness,
        lambda s: replaced(s, apothem_lower=None, apothem_upper=None),
    )  # fmt: skip


def rates_0(case: Case) -> Case:
    """Any apothem is right, where no face moves."""
    x = case.certificate.arrays["x"]
    return change(
        case, *(set_to(f"rate_{side}", EVERY, 0.0) for side in ("lo", "hi")),
        *(set_to(side, EVERY, x) for side in ("lo", "hi")), without_witness,
        lambda s: replaced(s, apothem_lower=1e6, apothem_upper=None),
    )  # fmt: skip


def rates_0_of_what_the_domain_lets_move(case: Case) -> Case:
    """Half of the features are fixed by the domain, and the others by their rates."""
    x = case.certificate.arrays["x"]
    half = slice(0, len(x) // 2)
    rest = slice(len(x) // 2, None)
    return change(
        case, *(set_to(side, EVERY, x) for side in ("lo", "hi")),
        *(set_to(f"domain_{side}", half, x[half]) for side in ("lo", "hi")),
        *(set_to(f"rate_{side}", rest, 0.0) for side in ("lo", "hi")), without_witness,
        lambda s: replaced(s, apothem_lower=1e6, apothem_upper=None),
    )  # fmt: skip


def box_is_the_input(case: Case) -> Case:
    x = case.certificate.arrays["x"]
    return change(
        case, *(set_to(side, EVERY, x) for side in ("lo", "hi")), without_witness,
        lambda s: replaced(s, apothem_lower=0.0, apothem_upper=None),
    )  # fmt: skip


def one_class(case: Case) -> Case:
    """A network of one output: its class wins over nobody, without any leaf."""
    layers = [*case.layers[:-1], tuple(part[:1] for part in case.layers[-1])]
    network = stored_network(layers)
    file = f"network-{network.sha256[:16]}.npz"
    changed = change(
        case, without_witness, no_leaves,
        lambda s: replaced(
            s, label=0, apothem_upper=None,
            network={"sha256": network.sha256, "file": file},
        ),
    )  # fmt: skip
    return Case(layers, network, changed.certificate)


def without_witness(stored: Stored) -> None:
    stored.arrays.pop("witness", None)


def other_class(stored: Stored) -> int:
    return (stored.head["label"] + 1) % 3


def no_leaves(stored: Stored) -> None:
    for name in ("leaf_target", "leaf_signs", "leaf_slopes", "leaf_betas"):
        stored.arrays[name] = stored.arrays[name][:0]


def one_leaf_each(stored: Stored) -> None:
    """One leaf without signs for every other class."""
    others = [j for j in range(3) if j != stored.head["label"]]
    shape = len(others), stored.arrays["leaf_signs"].shape[1]
    stored.arrays["leaf_target"] = np.array(others, np.int32)
    for name in ("leaf_signs", "leaf_slopes", "leaf_betas"):
        stored.arrays[name] = np.zeros(shape, stored.arrays[name].dtype)


Made = Callable[[Case], Case]
VACUOUS: dict[Made, str] = {
    margin_below_0: r"the required margin is -1000000.0, below 0",
    margin_slightly_below_0: r"the required margin is -5e-324, below 0",
    domain_is_the_input: r"no feature is free to move in the domain",
    rates_0: r"all rates are 0",
    rates_0_of_what_the_domain_lets_move: r"no feature is free to move in the domain",
    box_is_the_input: r"the box holds the input alone",
    one_class: r"the network has no other class",
}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("make", VACUOUS, ids=lambda make: make.__name__)
def test_a_claim_that_says_nothing_is_called_vacuous(cases, tmp_path, make, exact):
    report = check_certificate(make(cases["few"]).write(tmp_path), exact=exact)
    assert report.status is Status.VACUOUS, report.reason
    assert re.search(VACUOUS[make], report.reason)
    assert report.holds and not report.accepted
    assert report.claim.startswith("class ")


@pytest.mark.parametrize("name", ["few", "shallow", "deep", "linear"])
def test_a_margin_of_0_and_a_single_free_feature_say_something(cases, tmp_path, name):
    case = cases[name]
    x = case.certificate.arrays["x"]
    fixed = np.flatnonzero(np.arange(len(x)) != 1)
    names = ("lo", "hi", "domain_lo", "domain_hi")
    narrow = change(
        case, *(set_to(end, fixed, x[fixed]) for end in names), without_witness,
        lambda s: replaced(s, apothem_upper=None, required_margin=-0.0),
    )  # fmt: skip
    report = check_certificate(narrow.write(tmp_path))
    assert report.accepted, report.reason
    assert f"1 of {len(x)} features free" in report.claim
    assert "domain [0.0 .. " in report.claim or "domain [0 .. " in report.claim


def test_a_false_claim_is_rejected_and_not_called_vacuous(cases, tmp_path):
    """The reasons for being vacuous do not hide that the proof is none."""
    for make in VACUOUS:
        case = make(cases["few"])
        case.certificate.arrays["leaf_slopes"] = (
            case.certificate.arrays["leaf_slopes"] - 1
        )
        if case.certificate.arrays["leaf_slopes"].size:
            report = check_certificate(case.write(tmp_path))
            assert report.status is Status.REJECTED and report.claim == ""


# What the caller insists on


def checked(case: Case, folder, **expected) -> Report:
    return check_certificate(case.write(folder), expected=Expected(**expected))


def test_the_caller_names_the_network(cases, tmp_path):
    case = cases["few"]
    assert checked(case, tmp_path, network=case.network.sha256).accepted
    report = checked(case, tmp_path, network=cases["four"].network.sha256)
    assert report.status is Status.REJECTED and "another network" in report.reason


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_the_caller_names_the_claim(cases, tmp_path, rate):
    """Of each demand the right one is met, and the least other one is not."""
    case = change(
        cases["margin"], *(set_to(f"rate_{s}", EVERY, rate) for s in ("lo", "hi")),
        lambda s: replaced(s, apothem_lower=0.0, apothem_upper=None), without_witness,
    )  # fmt: skip
    margin = case.certificate.head["required_margin"]
    assert margin == 0.05
    good = dict(margin=margin, domain=(0.0, 1.0), rates=rate, arithmetic="real")
    assert checked(case, tmp_path, **good).accepted
    assert checked(case, tmp_path, margin=0.0).accepted  # it promises more than that
    other: dict[str, tuple[object, str]] = {
        "margin": (np.nextafter(margin, 1), "required_margin is 0.05, the caller"),
        "domain": ((0.0, float(np.nextafter(1, 2))), r"domain_hi is not 1\.0000"),
        "rates": (float(np.nextafter(rate, 2)), "rate_lo is not"),
        "arithmetic": ("float32", "arithmetic is real, the caller expects float32"),
    }
    for name, (value, reason) in other.items():
        report = checked(case, tmp_path, **(good | {name: value}))
        assert report.status is Status.REJECTED
        assert re.search(reason, report.reason), report.reason
    one = change(case, set_to("domain_lo", 2, -(2.0**-1074)))
    report = checked(one, tmp_path, domain=(0.0, 1.0))
    assert report.status is Status.REJECTED and report.reason.endswith(
        "expects, at [2]"
    )
