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

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxcert.commands import console
from jaxcert.errors import InputError
from studies.soundness_campaign.run import DEFAULT_KINDS, KINDS, reproduce, run, table

_NETWORKS = flags.DEFINE_integer("networks", 10000, "Networks of the kind bounds.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of everything random.", 0)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for what was found.")
_RESUME = flags.DEFINE_bool("resume", False, "Keep the groups already in --output.")
_KINDS = flags.DEFINE_list("kinds", [], "Only these kinds; else all but parameters.")
_PEER = flags.DEFINE_string(
    "peer",
    str(Path(__file__).resolve().parents[2] / "shared/peers/parallelepipedonn"),
    "Folder of the published networks and inputs.",
)
_REPRODUCE = flags.DEFINE_string("reproduce", None, "JSON file of a violation.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    if _REPRODUCE.value:
        return reproduce(console.expand(_REPRODUCE.value))
    if not _OUTPUT.value:
        raise InputError("name a folder for the results with --output=DIR")
    unknown = set(_KINDS.value) - set(KINDS)
    if unknown:
        raise InputError(f"unknown kind {min(unknown)!r}: {', '.join(KINDS)}")
    output = console.expand(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    records = run(
        output, _NETWORKS.value, _SEED.value, _RESUME.value,
        kinds=tuple(_KINDS.value) or DEFAULT_KINDS, peer=console.expand(_PEER.value),
    )  # fmt: skip
    print(table(records))
    return 1 if any(r["violations"] for r in records) else 0
