"""The page of a benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxcert.commands.verify.instances import RESULTS, Instance, Key, Row
from jaxcert.report.answers import Answers, Rows, write_answers

_MOST_HASHES = 8
_HEADS = ("network", "property", "result", "expected", "seconds")


def _hashes(instances: Sequence[Instance]) -> dict[str, str]:
    """Returns the SHA-256 of the first networks' files, as far as they are there."""
    files = dict.fromkeys(path for i in instances for path in i.networks().values())
    return {
        f"{path.name}, SHA-256": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in list(files)[:_MOST_HASHES]
        if path.is_file()
    }


def write_page(
    target: Path,
    instances: Sequence[Instance],
    rows: Mapping[Key, Row],
    command: str,
) -> Path:
    """Writes the page of what is answered; returns its path."""
    done = [i for i in instances if i.key in rows]
    kinds = [rows[i.key].kind for i in done]
    told = ", ".join(f"{kinds.count(r)} {r}" for r in RESULTS if r in kinds)
    claim = (
        "Claim: sat says that the stored counterexample satisfies the property as the "
        "file states it; unsat that it is proved that no input does, in float64 with a "
        "margin for rounding. Unknown and timeout claim nothing. What proofs of each "
        "network take for granted is in the file of scopes beside the results."
    )
    table = [
        (*i.key, rows[i.key].result, i.expected or "-", f"{rows[i.key].seconds:.2f}")
        for i in done
    ]
    page = Answers(
        title="Benchmark of properties",
        sentence=f"{len(done)} of {len(instances)} instances answered: {told}.",
        claims=(claim,),
        facts={"command": command, **_hashes(done)},
        terms={
            "property": "A VNN-LIB file: a set of inputs, and what outputs are "
            "forbidden for them.",
            "sat, unsat": "A forbidden output exists (sat), or none does (unsat).",
            "expected": "The answer that the list states, where it states one.",
        },
        tables=(Rows("All instances", _HEADS, table),),
    )
    return write_answers(target, page)
