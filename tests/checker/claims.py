"""What certificates of claims that name their own boxes have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from answer_builder import trees, without_leaves
from builder import Stored

from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Finding, Status

Change = Callable[[Stored], object]


def halved(features: int, depth: int) -> list[int]:
    """Returns the nodes of a tree that halves every feature in turn, to a depth."""
    nodes, todo = [], [0]
    while todo:
        at = todo.pop()
        nodes.append(-1 if at == depth else at % features)
        todo += [at + 1, at + 1] if at < depth else []
    return nodes


def halved_boxes(
    boxes: int, features: int, depth: int, neurons: int, rows: int = 1
) -> dict[str, np.ndarray]:
    """Returns the arrays of such a tree for every box, without multipliers."""
    parts = [(k, -1, halved(features, depth)) for k in range(boxes)]
    return trees(parts) | without_leaves(neurons, rows)


def named(network: Stored, **head) -> dict:
    """Returns the header of a certificate of a network."""
    file = f"network-{network.sha256[:16]}.npz"
    words = {"sha256": network.sha256, "file": file}
    return {"format": "jaxcert certificate", "network": words, **head}


def checked(network: Stored, made: Stored, folder: Path, **options) -> Finding:
    """Writes both and returns what the checker says."""
    network.write(folder / f"network-{network.sha256[:16]}.npz")
    return check_certificate(made.write(folder / "made.npz"), **options)


def rejected(network: Stored, made: Stored, change: Change, folder: Path) -> str:
    """Returns why the changed certificate is rejected."""
    changed = made.copy()
    change(changed)
    report = checked(network, changed, folder)
    assert report.status is Status.REJECTED, report
    assert not report.claim
    return report.reason


def rejections(
    kind: str,
    mutations: Mapping[str, tuple[str, Callable]],
    given: Mapping[str, Any],
    folder: Path,
    rewritten: Callable[[Any], Any] = lambda mutant: mutant,
) -> list[Finding]:
    """Returns what the checker says of every mutant: rejected, for the stated reason.

    Args:
      kind: of the mutation.
      mutations: reason (a pattern) and function by kind; None is no mutant.
      given: what is mutated, by name.
      folder: where mutants are written.
      rewritten: the form in which they are.
    """
    reason, mutate = mutations[kind]
    random, found = np.random.default_rng(sum(map(ord, kind))), []
    for name, one in given.items():
        mutant = mutate(one, random)
        if mutant is None:
            continue
        report = check_certificate(rewritten(mutant).write(folder))
        assert report.status is Status.REJECTED, f"{name} is accepted"
        assert re.search(reason, report.reason), f"{name}: {report.reason}"
        found.append(report)
    return found
