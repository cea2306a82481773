"""What `jaxcert certify` is asked."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jaxcert.bounds.multineuron import CutOptions
from jaxcert.box import NORMS
from jaxcert.branch.signs import BranchOptions
from jaxcert.certification import CertifyOptions
from jaxcert.commands.certify.grow import NOTHING
from jaxcert.commands.options import (
    DATASET,
    Options,
    data_dir,
    folder,
    option,
    seed,
    time_limit,
)
from jaxcert.errors import InputError
from jaxcert.report.summary import OBJECTIVE, OBJECTIVES
from jaxcert.search.growth import FAIRNESS
from jaxcert.witness.attack import AttackOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `jaxcert certify`."""

    model: str = option(
        "demo", "An .onnx file, a checkpoint (.npz), or 'demo' to train one."
    )
    dataset: str = option("digits", DATASET)
    data_dir: str | None = data_dir()
    split: str = option("test", "train or test.")
    inputs: str = option(
        "0:100",
        "Indices (0:100; 3,17; all), a folder of PNG, JPEG or CSV files, or an "
        ".npy/.npz file.",
    )
    scale: float | None = option(
        None,
        "What the numbers of --inputs files are divided by (255 for bytes); images "
        "are bytes and divided by 255.",
        above=0,
        below=math.inf,
    )
    objective: str = option(OBJECTIVE, "What the box maximises.")
    norm: str = option(
        "linf",
        "Balls of which norm: linf for boxes, l1 or l2.",
        choices=NORMS,
    )
    oracle: str = option(
        "complete", "What proves: ibp, crown, or complete (exact brackets)."
    )
    tolerance: float = option(
        1e-4, "Width of the bracket to reach, in input units.", above=0
    )
    required_margin: float = option(
        0.0, "Prove margin > this; -1 reproduces published slack."
    )
    domain_lower: float = option(0.0, "Least legal value of a feature.")
    domain_upper: float = option(1.0, "Greatest legal value of a feature.")
    candidates: int = option(
        8, "Radii checked per input and call.", least=1, most=2**16
    )
    batch_size: int = option(64, "Inputs per call.")
    restarts: int = option(2, "Starts of the attack per class.", least=1, most=2**10)
    cuts: bool = option(
        False, "Relax neurons in pairs in branch and bound (docs/relaxations.md)."
    )
    time_limit: float = time_limit(
        0.0, "after which no batch begins and --oracle=complete stops"
    )
    seed: int = seed("the attack and the demo network")
    output: str = folder("out/certify")
    resume: bool = option(False, "Continue the run in --output.")
    report: bool = option(True, "Write report.html.")
    proofs: bool | None = option(
        None,
        "Write a certificate per input that `jaxcert check` checks; default: where it "
        "takes little time.",
    )
    arithmetic: str = option(
        "real",
        "What is proved: the network in real numbers, or every float32 evaluation of "
        "it (implies --proofs).",
        choices=("real", "float32"),
    )
    grow: str = option(
        NOTHING,
        "Grow every box on to a maximal one, for this objective; with --proofs, "
        "certificates of the grown boxes are written as well.",
        choices=(NOTHING, *FAIRNESS),
    )
    delta: float = option(
        1e-3, "No face of a grown box can move on by this, in input units."
    )
    devices: int = option(0, "Devices of this process to compute on; 0: all.", least=0)
    radius: float | None = option(
        None,
        "Radius of the first sentence; default: one that half reach.",
        least=0,
        below=math.inf,
    )
    again: bool = option(
        False, "Certify a second time, to print times without compilation."
    )
    distributed: bool = option(
        False,
        "One of several processes, of which JAX finds number and coordinator (SLURM, "
        "TPU pods, Open MPI).",
    )
    coordinator: str | None = option(
        None, "HOST:PORT of process 0, to be told to every process."
    )
    processes: int | None = option(None, "How many processes there are.")
    process: int | None = option(None, "Which of them this is, from 0.")
    merge: bool = option(
        False, "Compute nothing: put together what the processes have written."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective != OBJECTIVE:
            raise InputError(
                f"unknown objective '{self.objective}'; choose {OBJECTIVE}"
            )
        if self.cuts and self.oracle != "complete":
            raise InputError("--cuts belongs to --oracle=complete: no other branches")

        if self.norm != "linf":
            for flag, given in (("cuts", self.cuts), ("grow", self.grow != NOTHING)):
                if given:
                    raise InputError(
                        f"--{flag} is about boxes, and --norm={self.norm} asks for "
                        "balls: leave one of them out"
                    )

    @property
    def wants_proofs(self) -> bool:
        """Nothing but the checker proves what float32 evaluations do."""
        return bool(self.proofs) or self.arithmetic == "float32"

    @property
    def wants_cheap_proofs(self) -> bool:
        """Whether proofs are written where they take little time."""
        return self.proofs is None and not self.wants_proofs

    @property
    def options(self) -> CertifyOptions:
        """How to certify."""
        cuts = CutOptions() if self.cuts else None
        return CertifyOptions(
            oracle=self.oracle,
            candidates=self.candidates,
            batch_size=self.batch_size,
            attack=AttackOptions(restarts=self.restarts, seed=self.seed),
            branch=BranchOptions(record=self.wants_proofs, cuts=cuts),
        )

    def settings(self) -> dict[str, Any]:
        """Returns what decides what the lines of a run say."""
        names = (
            "domain_lower", "domain_upper", "objective", "oracle", "arithmetic",
            "required_margin", "tolerance", "candidates", "restarts", "seed",
        )  # fmt: skip
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found["objective"] = OBJECTIVES[self.norm]
        if self.cuts:
            found["cuts"] = True
        if self.grow != NOTHING:
            found |= {"grow": self.grow, "delta": self.delta}
        return found
