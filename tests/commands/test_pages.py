"""The page that each command leaves, made of lines as it writes them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jaxcert.commands.audit.page import write_page as audit_page
from jaxcert.commands.dual.page import write_page as dual_page
from jaxcert.commands.semantic.page import write_page as semantic_page
from jaxcert.commands.semantic.run import Request as Semantic
from jaxcert.commands.smoothing.page import write_page as smoothing_page
from jaxcert.commands.sweep.page import write_page as sweep_page
from jaxcert.commands.verify.instances import Instance, Row
from jaxcert.commands.verify.page import write_page as verify_page
from jaxcert.network import Network
from jaxcert.scope import Scope

NET = Network(lambda p, x: x, {}, (2,), 2, "net.onnx", "ab" * 32)
SCOPE = Scope(("float32",), (), ("Proofs are about the network in real numbers.",))


def audit(target: Path) -> None:
    common = {
        "label": 1, "min_edge": 0.5, "found_by": "attack", "subproblems": 3,
        "seconds": 0.1,
    }  # fmt: skip
    records = [
        {"input": "a<b", "verdict": "broken", "witness_class": 0,
         "witness_margin": -0.25, **common},
        {"input": "c", "verdict": "sound", "witness_class": None,
         "witness_margin": None, **common},
    ]  # fmt: skip
    audit_page(target, records, {"required_margin": 0.0}, NET, SCOPE)


def dual(target: Path) -> None:
    record = {
        "input": None, "class": 1, "status": "closed", "faces": 4, "on_domain": 2,
        "smaller": 1, "open": 0, "widest_bracket": 0.01, "subproblems": 9,
        "seconds": 1.0,
    }  # fmt: skip
    dual_page(target, [record], {"tolerance": 0.01}, NET, SCOPE)


def semantic(target: Path) -> None:
    record = {
        "family": "brightness", "input": "7", "label": 1, "status": "certified",
        "lower": 0.25, "upper": 0.5, "boxes": 4, "seconds": 0.2,
    }  # fmt: skip
    semantic_page(target, [record], Semantic(), NET, SCOPE, np.ones((1, 2)))


def smoothing(target: Path) -> None:
    record = {
        "input": "7", "label": 1, "predicted": 1, "hits": 99, "samples": 100,
        "radius": 0.5, "seconds": 0.2, "clean": True,
    }  # fmt: skip
    groups = {"net 0.25": [record, {**record, "predicted": -1, "radius": 0.0}]}
    smoothing_page(target, groups, {"radii": (0.0, 0.25)}, "Probabilistic.", "l2")


def sweep(target: Path) -> None:
    row = {
        "setting": {"width": 16, "lr": 0.1}, "radius": 0.1, "clean": 0.9,
        "attacked": 0.7, "certified": 0.5, "network": "networks/a.npz", "images": 50,
    }  # fmt: skip
    worse = {**row, "setting": {"width": 32, "lr": 0.2}, "clean": 0.8, "certified": 0.4}
    lost = {
        **row, "setting": {"width": 32, "lr": 0.1}, "clean": None, "attacked": None,
        "certified": None, "network": None,
    }  # fmt: skip
    sweep_page(target, [worse, row, lost], {"data set": "digits"}, ("width", "lr"))


def verify(target: Path) -> None:
    instances = [
        Instance("n.onnx", f"{k}.vnnlib", target.parent, 60.0, "sat") for k in (1, 2)
    ]
    rows = {instances[0].key: Row("sat", 0.5)}
    verify_page(target, instances, rows, "jaxcert verify --instances=i.csv")


PAGES = {
    audit: ("1 of 2 boxes contain an adversarial example", "<td>a&lt;b</td>"),
    dual: ("1 boxes: 1 closed, 0 open, 0 empty.", "<td>the domain</td>"),
    semantic: ("half of the correctly classified inputs", "<td>brightness</td>"),
    smoothing: ("1 of 2 keep their label within 0.25", "<td>abstained</td>"),
    sweep: ("certified at radius 0.1: the best keeps 50.00 % of 50", "diverged"),
    verify: ("1 of 2 instances answered: 1 sat.", "<td>1.vnnlib</td>"),
}


@pytest.mark.parametrize("make", PAGES, ids=lambda make: make.__name__)
def test_a_page_says_what_came_out_and_lists_it(make, tmp_path):
    make(tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text()
    for part in PAGES[make]:
        assert part in text
    assert "<dt>command</dt>" in text or make not in (semantic, verify)
    assert not re.findall(r'(?:src|href|srcset)="(?!data:)', text)
    assert 'class="sortable"' in text and "How to read this report" in text
