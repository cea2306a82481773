"""Attacks the soundness of jaxcert with random and with planted networks.

    nice -n 15 python experiments/soundness_campaign.py --networks=10000 --seed=0 \
      --output=out/campaign

Whatever the library calls PROVED is contradicted if a point of the box violates the
spec; whatever it calls REFUTED, if the witness does not. Points are judged in
longdouble, suspicions in exact fractions (or in 100 digits where a network is not
rational), and small networks by exact least margins. Kinds of groups:

    bounds      bounds and verdicts of --networks random networks, ibp, crown, attack
    parameters  batch norms that are folded inside f, so that weights cancel there; a
                known limit (README.md), so only if named in --kinds
    underflow   weights whose products leave the range of float64 and come back
    exact       all oracles against exact minima, two inputs
    complete    branch and bound against points, wider and smooth networks
    certify     brackets, boxes and witnesses of certify
    planted     spikes and trained networks with a known counterexample
    published   the Fashion network with the nearly dead neuron, if --peer is there
    casts       bfloat16, float16, float8, reduce_precision and mixed products
    computed    weights that f computes from others: cancellation, folded batch norms
    double      weights and constants that float32 cannot hold
    ties        dyadic networks with margins of exactly zero
    strict      VNN-LIB properties with strict bounds, decided exactly
    layernorm   LayerNorm with a tiny eps, RMSNorm, softmax

Each of the last six has three networks for ten of --networks. Networks that round are
judged by f itself, operation by operation and compiled, in the types that it states.

Writes one line per group to OUTPUT/groups.jsonl and every violation, with what is
needed to reproduce it, to OUTPUT/violations. The exit code is 1 if there is any.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxcert.commands import console
from jaxcert.commands.options import Options, option
from jaxcert.errors import InputError
from studies.soundness_campaign.run import DEFAULT_KINDS, KINDS, reproduce, run, table

_PEER = Path(__file__).resolve().parents[4] / "shared/peers/parallelepipedonn"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of the study `soundness_campaign`."""

    networks: int = option(10000, "Networks of the kind bounds.", least=1)
    seed: int = option(0, "Of everything random.", least=0)
    output: str = option("", "Folder for what was found.")
    resume: bool = option(False, "Keep the groups already in --output.")
    kinds: tuple[str, ...] = option((), "Only these kinds; else all but parameters.")
    peer: str = option(str(_PEER), "Folder of the published networks and inputs.")
    reproduce: str = option("", "JSON file of a violation.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output and not self.reproduce:
            raise InputError("name a folder for the results with --output=DIR")
        if unknown := set(self.kinds) - set(KINDS):
            raise InputError(f"unknown kind {min(unknown)!r}: {', '.join(KINDS)}")


def main(request: Request) -> int:
    """Runs the study; returns its exit code."""
    if request.reproduce:
        return reproduce(console.expand(request.reproduce))
    output = console.expand(request.output)
    output.mkdir(parents=True, exist_ok=True)
    records = run(
        output, request.networks, request.seed, request.resume,
        kinds=request.kinds or DEFAULT_KINDS, peer=console.expand(request.peer),
    )  # fmt: skip
    print(table(records))
    return 1 if any(r["violations"] for r in records) else 0
