"""Every example in a docstring of jaxcert is executed; see test_docs for pages."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import jaxcert

ROOT = Path(jaxcert.__file__).parent


def _has_examples(module: str) -> bool:
    path = ROOT.parent.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ">>>" in file.read_text()


MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages([str(ROOT)], prefix="jaxcert.")
    if _has_examples(name)
]
# They compile whole searches, as the tour of the README does, which `make test` runs.
LONG = ("jaxcert.api", "jaxcert.answer")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.campaign) if name in LONG else name
        for name in MODULES
    ],
)
def test_docstring_examples(name: str):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


def test_there_are_examples_of_every_public_question():
    assert {"jaxcert.api", "jaxcert.bounds.crown", "jaxcert.bounds.ibp"} <= set(MODULES)
