"""Certifies inputs against brightness, contrast, blur and gamma changes.

    python experiments/semantic.py --model=NET.npz --dataset=fashion_mnist \\
        --data_dir=DIR --inputs=0:200 --grid=2500 --output=out/semantic

The set of changed inputs is exact, clip((1 + c) x + b) and the like; per input the
greatest range of the parameters is bracketed: proved up to `lower`, violated at
`upper`. --grid checks every certified range on a dense grid, with code of its own; exit
code 1 if a grid point contradicts it. Writes semantic.jsonl into --output, line by
line, and what its proofs cover into semantic_scope.json; --resume continues and redoes
nothing, and with a larger --timeout goes on with the brackets that are open. --proofs
writes a file per certified input that only the independent checker accepts.
"""

from __future__ import annotations

from jaxcert.commands import console
from jaxcert.commands.inputs import select_inputs, select_network
from jaxcert.commands.semantic.page import write_page
from jaxcert.commands.semantic.proofs import PROOFS, write_proofs
from jaxcert.commands.semantic.run import (
    SCOPES,
    Request,
    run,
    sentence,
    table,
    violations,
)
from jaxcert.runs.files import read_json
from jaxcert.runs.scopes import read_scope


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    output = console.expand(request.output)
    network = select_network(
        request.model, output, request.dataset, request.data_dir, request.seed
    )
    chosen = select_inputs(
        request.inputs, network, request.dataset, request.split, request.data_dir
    )
    records = run(request, network, chosen, output)
    print(table(records, request))
    print(sentence(records, request))
    told = ""
    if request.proofs:
        told = write_proofs(
            output / PROOFS, network.model, request.families, records,
            dict(zip(chosen.names, chosen.x, strict=True)),
        )  # fmt: skip
        print(told)
    scope = read_scope(output / SCOPES, read_json(output / SCOPES, "Remove it"))
    page = write_page(
        output / "report.html", records, request, network, scope, chosen.x, told
    )
    print(f"report: {page}")
    return 1 if violations(records) else 0
