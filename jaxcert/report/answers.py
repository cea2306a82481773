"""One page for what a command answered: a sentence, facts, pictures, tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcert.report.charts import Picture
from jaxcert.report.page import data_fact as data_fact
from jaxcert.report.page import render, value_text, write_html
from jaxcert.scope import Scope


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture with its heading and caption."""

    title: str
    picture: Picture
    caption: str


@dataclasses.dataclass(frozen=True)
class Rows:
    """A table with its heading; every cell is a text."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a page says.

    Attributes:
      title: what was done, to what.
      sentence: what came out.
      claims: what is claimed, on what it rests and what it leaves out.
      facts: what was asked, by name.
      terms: words that the page uses, and what they mean.
      tables: of all that was answered.
      pictures: above the tables.
    """

    title: str
    sentence: str
    claims: Sequence[str]
    facts: Mapping[str, Any]
    terms: Mapping[str, str]
    tables: Sequence[Rows]
    pictures: Sequence[Shown] = ()

    def scoped(self, scope: Scope | None) -> Answers:
        """Returns the page with what proofs cover among its claims."""
        if scope is None:
            return self
        return dataclasses.replace(self, claims=(*self.claims, scope.words))


def write_answers(target: Path, page: Answers) -> Path:
    """Writes the page into one file that needs no other, and returns its path.

    Raises:
      InputError: it cannot be written.
    """
    told = [
        (name.replace("_", " "), value_text(value))
        for name, value in page.facts.items()
        if value is not None
    ]
    text = render(
        "answers.html",
        title=page.title,
        sentence=page.sentence,
        claims=page.claims,
        facts=told,
        terms=list(page.terms.items()),
        pictures=page.pictures,
        tables=page.tables,
        notices=(),
    )
    return write_html(target, text)
