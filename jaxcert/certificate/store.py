"""Writing certificates: what was proved, and everything a checker needs to repeat it.

A certificate is written only after the independent checker (`jaxcert/checker`) found
that all it claims is so: that check, in outward-rounded float64, is the
rigorous re-proof of what is reported. If rounding stands in its way, the box shrinks by
the least that makes it pass.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxcert.ball import Ball, Region, enclosing
from jaxcert.bounds.alpha import Layout, Multipliers, default_slopes, layout_of
from jaxcert.bounds.crown import CrownOptions, bound_layers
from jaxcert.bounds.tighten import TightenOptions, recorded_ranges
from jaxcert.box import Box, Rates
from jaxcert.branch.brackets import close_brackets
from jaxcert.branch.instances import ApothemTask
from jaxcert.branch.leaves import Leaves, Proof, RecordedCuts
from jaxcert.branch.signs import BranchOptions
from jaxcert.certificate.checked import write_checked
from jaxcert.certificate.network_file import NetworkFile, network_file
from jaxcert.certificate.trees import ProofArrays
from jaxcert.certification import Certification
from jaxcert.certifier import Certifier
from jaxcert.checker.claim import Report, Status
from jaxcert.checker.older import of_signs
from jaxcert.checker.reading import Rejected
from jaxcert.devices import float64
from jaxcert.model import Model
from jaxcert.runs.files import file_stem
from jaxcert.spec import Spec

# How much of the radius may be given up, step by step, until the checker agrees.
_SHRINK = {
    "real": (0.0, 2.0**-30, 2.0**-22, 2.0**-16, 2.0**-12),
    "float32": (0.0, 2.0**-14, 2.0**-12, 2.0**-10, 2.0**-8, 2.0**-6, 2.0**-4, 0.5),
}


# Of branch and bound, for a box whose proof was not recorded.
_BRANCH_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, eq=False)
class Claim:
    """What a certificate states of one input; flat numpy float64.

    Attributes:
      name: of the input; the file is called after it.
      label: the class that every point of the box keeps.
      x, lo, hi: the input and its box, (d,); of a ball, no box (NaN).
      lower: the apothem that is claimed; inf if all faces are the domain's. Of a ball,
        its radius; inf if it is all of the domain.
      upper: distance of the witness; inf if there is none.
      witness: (d,), or NaN.
    """

    name: str
    label: int
    x: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    lower: float
    upper: float
    witness: np.ndarray

    @staticmethod
    def of_answer(name: str, x: np.ndarray, row: int, found: Certification) -> Claim:
        """Returns the claim about one input of a batch that was certified."""
        return Claim(
            name=name,
            label=int(found.label[row]),
            x=np.asarray(x, np.float64).reshape(-1),
            lo=np.asarray(found.box.lo[row]).reshape(-1),
            hi=np.asarray(found.box.hi[row]).reshape(-1),
            lower=float(found.lower[row]),
            upper=float(found.upper[row]),
            witness=np.asarray(found.witness[row]).reshape(-1),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Written:
    """One certificate on disk.

    Attributes:
      claim: what it states: that of the caller, or one with a slightly smaller box.
      report: what the checker said, of the last attempt; None if there was none.
      path: the file; None if there was no attempt, or every one was rejected.
      size: its bytes.
      checking: seconds that the last check took.
      refused: why the file does not hold the proof of its box, if it was refused.
    """

    claim: Claim
    report: Report | None
    path: Path | None
    size: int = 0
    checking: float = 0.0
    refused: str = ""


class CertificateWriter:
    """Writes the certificates of one network into a folder."""

    @float64()
    def __init__(
        self,
        model: Model,
        domain: Box,
        rates: Rates,
        folder: Path,
        required_margin: float = 0.0,
        arithmetic: str = "real",
        branch: BranchOptions | None = None,
    ) -> None:
        """Writes the network file.

        Args:
          model: the network.
          domain, rates: of the claims, numpy float64.
          folder: where the files go; made if missing.
          required_margin: what the margin is claimed to exceed.
          arithmetic: of the claims, real or float32.
          branch: how a box is proved whose proof was not recorded.

        Raises:
          UnsupportedError: see `network_file`.
          OSError: the folder cannot be written.
        """
        self._norm = rates.norm
        self._layout = layout_of(model.program, joint=self._norm != "linf")
        self._model = model
        self._shape = model.input_shape
        self._domain, self._rates = domain, rates
        self._margin, self._arithmetic = float(required_margin), arithmetic
        self._branch = dataclasses.replace(
            branch or BranchOptions(), record=True, cuts=None
        )
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.network: NetworkFile = network_file(
            model.program, model.double, arithmetic
        )
        self.network.write(folder)

    @classmethod
    def into(cls, folder: Path, certifier: Certifier, arithmetic: str = "real") -> Self:
        """Returns the writer of what a certifier answers; see `__init__`."""
        return cls(
            certifier.model, certifier.domain, certifier.rates, folder,
            required_margin=certifier.required_margin, arithmetic=arithmetic,
            branch=certifier.options.branch,
        )  # fmt: skip

    def path(self, name: str) -> Path:
        """Returns where the certificate of an input goes."""
        return self.folder / f"{file_stem(name)}.npz"

    @float64()
    def write(
        self,
        claim: Claim,
        proof: Proof | None,
        deadline: float = np.inf,
        least: float = 0.0,
    ) -> Written:
        """Writes the certificate of one claim.

        Args:
          claim: the claim.
          proof: that of its input, clause j standing for the j-th other class; None
            if it was not recorded: then the bounds alone are tried.
          deadline: `time.monotonic()` after which no other proof is looked for.
          least: apothem below which none is written: what was there stays.

        What the checker does not accept is proved once more by branch and bound, of
        this very box: bounds may rest on what no file records, and a leaf that was
        proved of a larger box need not have a bound of the smaller one, since CROWN's
        own slopes follow the ranges.
        """
        written = self._write(claim, proof or self._unbranched(claim), least)
        if written.path is None:
            proof = self._branched(claim, deadline)
            written = written if proof is None else self._write(claim, proof, least)
        return written

    @float64()
    def _write(self, claim: Claim, proof: Proof | None, least: float = 0.0) -> Written:
        """Writes a claim with its proof; None for one that says that it has none."""
        path = self.path(claim.name)
        try:
            arrays = self._proof_arrays(proof) if proof is not None else {}
        except Rejected as rejected:  # the leaves are not those of a tree
            return Written(claim, Report(Status.REJECTED, str(rejected), 0.0), None)
        for share in _SHRINK[self._arithmetic]:
            smaller = self._shrunk(claim, share)
            if share and smaller.lower < least:
                break
            content, claimed = self._header(smaller), self._arrays(smaller)
            report, size = write_checked(path, content, claimed | arrays)
            assert isinstance(report, Report)
            if report.holds:
                return Written(smaller, report, path, size, report.seconds)
            if not smaller.lower < np.inf:
                break
        assert isinstance(report, Report)
        return Written(claim, report, None)

    def _shrunk(self, claim: Claim, share: float) -> Claim:
        if share == 0 or not np.isfinite(claim.lower):
            return claim
        lower = claim.lower * (1 - share)
        if self._norm != "linf":
            return dataclasses.replace(claim, lower=lower)
        x: Any = claim.x.reshape(self._shape)
        box = Box.ball(x, lower, self._domain, self._rates, outward=True)
        lo, hi = (np.asarray(face, np.float64).reshape(-1) for face in (box.lo, box.hi))
        lo, hi = np.maximum(lo, claim.lo), np.minimum(hi, claim.hi)
        return dataclasses.replace(claim, lower=lower, lo=lo, hi=hi)

    def _region(self, claim: Claim) -> Region:
        """Returns what the claim is about, in the shape of one input."""
        shape, full = self._shape, self._norm != "linf" and claim.lower == np.inf
        if full:
            return self._fixed_at(claim.x.reshape(shape))
        if self._norm == "linf":
            faces: Any = [face.reshape(shape) for face in (claim.lo, claim.hi)]
            return Box(*faces)
        x: Any = claim.x.reshape(shape)
        radius: Any = np.float64(claim.lower)
        return Ball(x, radius, self._domain, self._rates)

    def _fixed_at(self, x: np.ndarray) -> Box:
        """Returns the domain with the sides of rate 0 at x."""
        lo = np.where(self._rates.lower > 0, self._domain.lo, x)
        hi = np.where(self._rates.upper > 0, self._domain.hi, x)
        return Box(lo, hi)  # type: ignore[arg-type]

    def _branched(self, claim: Claim, deadline: float = np.inf) -> Proof | None:
        """Returns the proof of a claim by branch and bound; None if it is not found.

        Without ReLUs there are no signs to split.
        """
        if self._layout.size == 0 or deadline <= time.monotonic():
            return None
        region = self._region(claim)
        spec = Spec.classification(
            claim.label, self._model.num_outputs, self._margin, np.float64
        )
        task = ApothemTask.of_region(region, spec)
        deadline = min(deadline, time.monotonic() + _BRANCH_SECONDS)
        answer = close_brackets(self._model, task, self._branch, deadline)
        return answer.proof.of(0) if answer.proof is not None else None

    def _unbranched(self, claim: Claim) -> Proof:
        """Returns range slopes, and one leaf without signs for every other class."""
        layout = self._layout
        region = jax.tree.map(jnp.asarray, self._region(claim))
        slopes, default = jax.device_get(
            _range_slopes(layout, self._branch.tighten, self._model, region)
        )
        number = {node.output: k for k, node in enumerate(layout.nodes)}
        count = layout.program.output_shape[0] - 1
        blank: Any = np.zeros((count, layout.size), np.float32)
        row: Any = np.zeros((count, 1), np.float32)
        owner: Any = np.zeros(count, np.int32)
        clause: Any = np.arange(count, dtype=np.int32)
        multipliers: Any = Multipliers(blank + default, blank, row)
        leaves = Leaves(owner, clause, blank.astype(np.int8), multipliers)
        return Proof(leaves, {number[i]: np.asarray(s) for i, s in slopes.items()})

    def _proof_arrays(self, proof: Proof) -> dict[str, np.ndarray]:
        """Returns the proof, whose leaves are trees of signs of every other class."""
        leaves, features = proof.leaves, int(np.prod(self._shape))
        signs = np.asarray(leaves.signs, np.int8)
        slope = np.where(signs == 0, np.clip(leaves.multipliers.slope, 0, 1), 0)
        split = np.where(signs != 0, np.maximum(leaves.multipliers.split, 0), 0)
        made, every = ProofArrays(self._layout.size), [np.zeros(0, int)]
        for clause in range(self._layout.program.output_shape[0] - 1):
            own = np.flatnonzero(np.asarray(leaves.clause) == clause)
            nodes, order = of_signs(signs[own], features, f"clause {clause}")
            own = own[order]
            every.append(own)
            one = np.ones((len(own), 1))
            made.add(0, clause, np.array(nodes), one, slope[own], split[own])
        ranges = {f"range_slopes_0_{k}": v for k, v in proof.range_slopes.items()}
        cuts = _cut_arrays(proof, np.concatenate(every))
        return made.arrays(1 if len(every) > 1 else 0) | ranges | cuts

    def _arrays(self, claim: Claim) -> dict[str, np.ndarray]:
        region = self._region(claim)
        box = enclosing(region)
        faces: dict[str, Any] = {
            "x": claim.x, "lo": box.lo, "hi": box.hi,
            "domain_lo": self._domain.lo, "domain_hi": self._domain.hi,
            "rate_lo": self._rates.lower, "rate_hi": self._rates.upper,
        }  # fmt: skip
        shape = claim.x.shape
        arrays = {
            name: np.array(
                np.broadcast_to(np.asarray(v, np.float64).reshape(-1), shape)
            )
            for name, v in faces.items()
        }
        if np.isfinite(claim.upper):
            arrays["witness"] = np.asarray(claim.witness, np.float64)
        if self._norm != "linf":
            arrays["ball"] = np.array([int(self._norm[1:])], np.int32)
        return arrays

    def _header(self, claim: Claim) -> dict[str, Any]:
        return {
            "version": 6,
            "claim": "box",
            "input": claim.name,
            "network": self.network.reference,
            "arithmetic": self._arithmetic,
            "label": int(claim.label),
            "required_margin": self._margin,
            "apothem_lower": claim.lower if np.isfinite(claim.lower) else None,
            "apothem_upper": claim.upper if np.isfinite(claim.upper) else None,
        }


def _cut_arrays(proof: Proof, order: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the format says of cuts: of groups that some leaf needs.

    The leaves stand in that order.
    """
    arrays: dict[str, np.ndarray] = {}
    for k, cuts in proof.cuts.items():
        weights = np.maximum(proof.leaves.multipliers.cut[k], 0)
        used = weights.any(axis=(0, 2))
        if not used.any():
            continue
        kept: RecordedCuts = jax.tree.map(lambda v, used=used: v[used], cuts)
        arrays |= {
            f"cut_neurons_0_{k}": kept.index.astype(np.int32),
            f"cut_inputs_0_{k}": kept.at_input,
            f"cut_outputs_0_{k}": kept.at_output,
            f"cut_scales_0_{k}": kept.scales,
            f"cut_slopes_0_{k}": kept.slopes,
            f"leaf_cuts_0_{k}": weights[order][:, used].astype(np.float32),
        }
    return arrays


@functools.partial(jax.jit, static_argnames=("layout", "options"))
def _range_slopes(
    layout: Layout, options: TightenOptions, model: Model, box: Region
) -> tuple[dict[int, Array], Array]:
    """Returns recorded slopes for a box that was never branched, and CROWN's slopes."""
    program = layout.program
    values32, values64 = model.values(jnp.float32), model.values(jnp.float64)
    layers = bound_layers(program, values64, box, CrownOptions())
    ranges = {i: layers.boxes[i] for i in layout.needed()}
    ranges, slopes = recorded_ranges(layout, values32, values64, box, ranges, options)
    return slopes, default_slopes(layout, ranges)
