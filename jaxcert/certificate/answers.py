"""Proofs of answers to VNN-LIB properties, as files that the checker reads.

As in `store.py`, a file stays only if the independent checker accepts it. What is
written down is found here again: the search that answered keeps no trace of itself.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import special

from jaxcert.box import Box
from jaxcert.branch.brackets import close_brackets
from jaxcert.branch.instances import ApothemTask
from jaxcert.branch.leaves import Proof
from jaxcert.branch.rounds import prove_in_rounds
from jaxcert.branch.signs import BranchOptions
from jaxcert.certificate.checked import write_checked
from jaxcert.certificate.halving import halving_tree
from jaxcert.certificate.network_file import NetworkFile, network_file
from jaxcert.certificate.ranges import range_arrays
from jaxcert.certificate.trees import EVERY, ProofArrays
from jaxcert.checker.answers import property_text
from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.checker.bounds import Bounds
from jaxcert.checker.claim import AnswerReport
from jaxcert.checker.clauses import Clauses
from jaxcert.checker.network import network_of
from jaxcert.checker.older import of_signs
from jaxcert.devices import float64
from jaxcert.errors import UnsupportedError
from jaxcert.interop.vnnlib import Case, Property, load_vnnlib
from jaxcert.model import Model
from jaxcert.network import Network
from jaxcert.oracle.complete import splits_inputs
from jaxcert.runs.files import write_atomically

# Subproblems of the whole network after which ranges of neurons are branched.
_FEW = 256


@dataclasses.dataclass(frozen=True)
class WrittenAnswer:
    """The proof of one answer.

    Attributes:
      path: the file; None if there is none.
      refused: why there is none.
      leaves, size: of the file, which has so many bytes.
      finding, checking: seconds that it took.
    """

    path: Path | None
    refused: str = ""
    leaves: int = 0
    size: int = 0
    finding: float = 0.0
    checking: float = 0.0


@dataclasses.dataclass(frozen=True)
class Question:
    """One property of one network.

    Attributes:
      model: the network.
      prop: the property, and text: of its file, unpacked.
      branch: how branch and bound runs, where signs are split.
    """

    model: Model
    prop: Property
    text: bytes
    branch: BranchOptions

    @staticmethod
    def of(network: Network, vnnlib: Path, branch: BranchOptions) -> Question:
        """Returns the question of a VNN-LIB file, .vnnlib or .vnnlib.gz.

        Raises:
          InputError, UnsupportedError: see `load_vnnlib`; or the file is of another
            version than 1.0, or about more than boxes and the outputs of one network.
        """
        text, prop = property_text(vnnlib), load_vnnlib(vnnlib)
        if prop.networks or not prop.is_plain:
            raise UnsupportedError(
                f"{vnnlib}: proofs are of VNN-LIB 1.0, of boxes and conditions "
                "on outputs alone"
            )
        return Question(network.model, prop, text, branch)


@functools.lru_cache(maxsize=1)
@float64()
def stored_network(model: Model) -> NetworkFile:
    """Returns the network as certificates refer to it; raises as `network_file`."""
    return network_file(model.program, model.double)


@float64()
def write_answer(
    path: Path, asked: Question, witness: np.ndarray | None, deadline: float = np.inf
) -> WrittenAnswer:
    """Writes the proof of "sat" or "unsat", the network and the property beside it.

    Args:
      path: of the file, .npz; its folder is made if missing.
      asked: the question.
      witness: of "sat", float64; None for "unsat".
      deadline: `time.monotonic()` after which no proof is looked for.

    Raises:
      UnsupportedError: the network is not made of affine maps and ReLUs.
      OSError: the folder cannot be written.
    """
    begin, folder = time.monotonic(), path.parent
    network = stored_network(asked.model)
    network.write(folder)
    arrays: dict[str, np.ndarray] | None
    if witness is not None:
        arrays = {"witness": np.asarray(witness, np.float64).reshape(-1)}
    else:
        raw = (folder / network.name).read_bytes()
        cases = asked.prop.cases
        arrays = Trees(asked.model, cases, asked.branch, raw, deadline).found()
    finding = time.monotonic() - begin
    if arrays is None:
        return WrittenAnswer(None, "no proof was found in time", finding=finding)
    copy = PropertyCopy.into(folder, asked.text)
    head = {
        "version": 11,
        "claim": "unsat" if witness is None else "sat",
        "network": network.reference,
        "property": dataclasses.asdict(copy),
    }
    report, size = write_checked(path, head, arrays)
    assert isinstance(report, AnswerReport)
    if not report.holds:
        refused = f"the checker does not accept it: {report.reason}"
        return WrittenAnswer(None, refused, finding=finding)
    return WrittenAnswer(path, "", report.leaves, size, finding, report.seconds)


@dataclasses.dataclass(frozen=True)
class PropertyCopy:
    """The copy of a property beside its proofs: its sha256 and the file's name."""

    sha256: str
    file: str

    @staticmethod
    def into(folder: Path, text: bytes) -> PropertyCopy:
        """Returns the copy in a folder, which is written if it is not there."""
        sha256 = hashlib.sha256(text).hexdigest()
        copy = PropertyCopy(sha256, f"property-{sha256[:16]}.vnnlib")
        if not (folder / copy.file).exists():
            write_atomically(folder / copy.file, text)
        return copy


class Trees:
    """Finds trees that exclude cases, box by box, and what their leaves need."""

    def __init__(
        self,
        model: Model,
        cases: Sequence[Case],
        branch: BranchOptions,
        raw: bytes,
        deadline: float,
    ) -> None:
        """Reads the network.

        Args:
          model: the network.
          cases: boxes, and what is excluded in them.
          branch: how branch and bound runs, where signs are split.
          raw: bytes of the network file.
          deadline: `time.monotonic()` after which no proof is looked for.
        """
        self._model, self._cases, self._branch = model, cases, branch
        self._deadline, self._network = deadline, network_of(raw, False)
        self._proof = ProofArrays(self._network.neurons)
        self._ranges: dict[str, np.ndarray] = {}

    def found(self) -> dict[str, np.ndarray] | None:
        """Returns the arrays of the file; None if something was not proved."""
        cases, first = self._cases, 0
        with np.errstate(all="ignore"):
            for number, case in enumerate(cases):
                if not self._box(number, case, first):
                    return None
                first += len(case.disjuncts)
        counts = [len(d) for case in cases for _, d in case.disjuncts]
        return self._ranges | self._proof.arrays(max(counts, default=0))

    def _box(self, number: int, case: Case, first: int) -> bool:
        """Finds the trees of one box, whose first clause is that; False without."""
        model, arithmetic = self._model, Arithmetic(False)
        bounds = Bounds(arithmetic, self._network, case.lo, case.hi, {})
        question = Clauses(bounds, case.disjuncts)
        shape = model.input_shape
        box = Box(case.lo.reshape(shape), case.hi.reshape(shape))  # type: ignore[arg-type]
        nodes: np.ndarray | None
        if splits_inputs(model, box, self._branch):
            nodes = halving_tree(bounds, question, self._deadline)
        else:
            nodes = halving_tree(bounds, question, self._deadline, most=1)
        if nodes is not None:
            self._proof.add(number, EVERY, nodes)
            return True
        if splits_inputs(model, box, self._branch):
            return False
        proof = self._signs(box, case)
        if proof is None:
            return False
        slopes = {k: np.asarray(v) for k, v in proof.range_slopes.items()}
        self._ranges |= {f"range_slopes_{number}_{k}": v for k, v in slopes.items()}
        self._ranges |= range_arrays(self._network, number, proof.trees)
        bounds = Bounds(arithmetic, self._network, case.lo, case.hi, slopes)
        question = Clauses(bounds, case.disjuncts)
        leaves, signs = proof.leaves, np.asarray(proof.leaves.signs, np.int8)
        for clause in range(len(case.disjuncts)):
            own = np.flatnonzero(np.asarray(leaves.clause) == clause)
            made, order = of_signs(signs[own], len(case.lo), f"clause {clause}")
            rows = leaves.rows(own[order]).multipliers
            given = _multipliers(question, clause, signs[own[order]], rows)
            self._proof.add(number, first + clause, np.array(made), *given)
        return True

    def _signs(self, box: Box, case: Case) -> Proof | None:
        """Returns the proof of a box by splitting signs; None if there is none."""
        branch = dataclasses.replace(self._branch, record=True, cuts=None)
        spec = case.spec()
        one = jax.tree.map(lambda v: np.asarray(v)[None], (box, spec))
        task, model, deadline = ApothemTask.of_boxes(*one), self._model, self._deadline
        found = close_brackets(model, task, branch, deadline, most=_FEW)
        if found.open[0]:
            proof = prove_in_rounds(model, task, self._branch, deadline)
            if proof is not None:
                return proof
            found = close_brackets(model, task, branch, deadline)
        return found.proof.of(0) if found.proof is not None else None


def _multipliers(
    question: Clauses, clause: int, signs: np.ndarray, found: Any
) -> tuple[np.ndarray, ...]:
    """Returns weights of the clause's rows, slopes and betas of some leaves.

    The search repeats the first row of clauses that have fewer rows than others. A leaf
    without signs was proved by its best row alone.
    """
    count = int(np.append(question.first, len(question.c))[clause + 1])
    count -= int(question.first[clause])
    weights = special.softmax(np.asarray(found.row, np.float64), axis=1)
    weights[:, 0] += weights[:, count:].sum(axis=1)
    weights = weights[:, :count].astype(np.float32)
    slopes = np.where(signs == 0, np.clip(found.slope, 0, 1), 0)
    betas = np.where(signs != 0, np.maximum(found.split, 0), 0)
    one_row = weights.max(initial=0) == 1
    if count > 1 and len(signs) == 1 and not signs.any() and not one_row:
        tried = np.vstack([weights, np.eye(count, dtype=np.float32)])
        zero = np.zeros(len(tried), int)
        given = (np.repeat(v, len(tried), axis=0) for v in (slopes, betas))
        bounds = question.bounds
        made = bounds.enclose(bounds.box, signs)
        best = question.weighed(made, zero, zero + clause, tried, *given).argmax()
        weights = tried[best : best + 1]
    return weights, slopes, betas
