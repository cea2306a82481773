"""What checked answers say of the answers of other tools, at zero tolerance.

A file of answers has rows of six columns, as VNN-COMP collects them (benchmark, onnx,
vnnlib, seconds to prepare, result, seconds), or those of a results file
(`results.py`). An answer is contradicted if the opposite one is proved: an input that
satisfies the property was confirmed, or that there is none was proved. Instances are
told apart by the names of their two files, without folders and .gz; where a name means
two instances, nothing is said of it.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .reading import Rejected, read

_SAYS = {"sat": "sat", "violated": "sat", "unsat": "unsat", "holds": "unsat"}
_OWN = ["onnx", "vnnlib", "result", "seconds"]
Instance = tuple[str, str]


def instance(onnx: str, vnnlib: str) -> Instance:
    """Returns what tells an instance from others."""
    one, two = (
        name.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".gz")
        for name in (onnx.strip(), vnnlib.strip())
    )
    return one, two


def table(path: Path) -> list[list[str]]:
    """Returns the rows of a file; raises OSError."""
    try:
        return list(csv.reader(read(path).decode("utf-8-sig").splitlines()))
    except (Rejected, UnicodeDecodeError, csv.Error) as error:
        raise OSError(f"{path} is no table: {error}") from error


def proved(answers: Iterable[tuple[Instance, str]]) -> dict[Instance, str]:
    """Returns the answers of instances of which there is one kind of answer alone.

    The answer "" says that nothing is proved. It is a kind of its own: where one of two
    instances of the same names is proved, the other one may be meant.
    """
    found: dict[Instance, str] = {}
    several = set()
    for key, answer in answers:
        if found.setdefault(key, answer) != answer:
            several.add(key)
    return {
        key: answer for key, answer in found.items() if answer and key not in several
    }


@dataclass(frozen=True)
class Comparison:
    """Answers of a file beside what is proved.

    Attributes:
      answers: rows that say sat or unsat.
      agree: how many of them are proved.
      contradicted: of each other one with a proof, its line number, its instance, what
        it says, and what is proved.
    """

    answers: int
    agree: int
    contradicted: tuple[tuple[int, Instance, str, str], ...]


def compare(path: Path, known: dict[Instance, str]) -> Comparison:
    """Returns what is proved of the answers of a file; raises OSError."""
    answers, agree, contradicted, found = 0, 0, [], []
    meant: dict[Instance, set[tuple[str, ...]]] = {}
    for number, row in enumerate(table(path), 1):
        if not row or row == _OWN:
            continue
        if len(row) not in (len(_OWN), 6):
            raise OSError(f"{path}, line {number}: it has {len(row)} columns, not 6")
        *where, result = row[:3] + row[4:5] if len(row) == 6 else row[:3]
        key = instance(*where[-2:])
        meant.setdefault(key, set()).add(tuple(where))
        found.append((number, key, _SAYS.get(result.strip().lower())))
    for number, key, says in found:
        answers += says is not None
        if says is None or key not in known or len(meant[key]) > 1:
            continue
        agree += says == known[key]
        if says != known[key]:
            contradicted.append((number, key, says, known[key]))
    return Comparison(answers, agree, tuple(contradicted))
