"""Certifier: runs the stages of a certification over batches of inputs."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import ArrayLike

from jaxcert.ball import enclosing
from jaxcert.bounds.crown import crown
from jaxcert.bounds.ibp import ibp
from jaxcert.box import Box, Family, Norm, Rates, distance_above, norms
from jaxcert.branch.brackets import ApothemAnswer
from jaxcert.branch.instances import ApothemTask
from jaxcert.branch.leaves import Proof
from jaxcert.branch.linear_program import is_piecewise_linear
from jaxcert.branch.rounds import close_in_rounds
from jaxcert.certification import (
    Asked,
    Certification,
    CertifyOptions,
    Outcome,
    Seconds,
    plain,
)
from jaxcert.checks import (
    LARGEST,
    check_inputs,
    check_labels,
    check_no_cuts,
    checked_domain,
    checked_norm,
    checked_number,
    checked_options,
    checked_rates,
)
from jaxcert.devices import float64, local_devices
from jaxcert.errors import InputError
from jaxcert.limit import TimeLimitError, run_until
from jaxcert.model import Model
from jaxcert.network import content_hash
from jaxcert.oracle.bounds import BoundOracle
from jaxcert.rows import expand, select
from jaxcert.search import stages
from jaxcert.search.apothem import SearchOptions, SearchState
from jaxcert.search.growing import grow_boxes
from jaxcert.search.growth import Growth, GrowthOptions, GrowthTask
from jaxcert.spec import Spec
from jaxcert.trace.pinned import own_settings, pinned
from jaxcert.witness.attack import AttackOptions, AttackOracle
from jaxcert.witness.judge import Judge

Found = TypeVar("Found")

# Radii per step of the attack; it descends from several starts at each. With 4 it takes
# half as long again on a CPU, and finds nothing nearer.
_ATTACK_CANDIDATES = 2
# Inputs per call of bounds and attack on a CPU: there, a batch takes as long as its
# slowest input, for every input.
_BLOCK = 8
# The least part of a radius proved in float32 that float64 agrees to, or it searches.
_AGREEMENT = 0.9


@dataclasses.dataclass(frozen=True, eq=False)
class _Findings:
    """What the stages established about a batch; radius -1 where nothing was proved."""

    x: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    radius: np.ndarray
    box: Box
    upper: np.ndarray
    witness: np.ndarray
    witness_class: np.ndarray
    calls: np.ndarray
    subproblems: np.ndarray
    suspect: np.ndarray
    suspect_margin: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class _Refuted:
    """What the attack found: distances (inf: none), points, and points in doubt."""

    calls: np.ndarray
    upper: np.ndarray
    witness: np.ndarray
    suspect: np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """Brackets that an earlier search left, numpy float64, n inputs.

    Attributes:
      lower: proved, (n,); 0 where nothing was.
      box: of that apothem, leaves (n, *d); NaN where there is none.
      upper: distances of the counterexamples, (n,); inf where there is none.
      witness: these, (n, *d); NaN where there is none.
    """

    lower: np.ndarray
    box: Box
    upper: np.ndarray
    witness: np.ndarray

    def narrowed(
        self, radius: np.ndarray, box: Box, upper: np.ndarray, witness: np.ndarray
    ) -> tuple[np.ndarray, Box, np.ndarray, np.ndarray]:
        """Returns the better of each end, and of what is known; radius -1: nothing."""
        above, below = self.lower > np.maximum(radius, 0), self.upper < upper
        return (
            np.where(above, self.lower, radius), select(above, self.box, box),
            np.where(below, self.upper, upper), select(below, self.witness, witness),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """What an answer rests on, of one input: it needs no other words to go on from.

    Attributes:
      certifier: what answered: the network, and what was asked of it.
      x: the input, numpy float64, shape d.
      proof: the branching tree of its box; None if bounds alone proved it, or nothing.
    """

    certifier: Certifier
    x: np.ndarray
    proof: Proof | None


class Certifier:
    """Certifies batches of inputs of one network; see `certify`.

    Checks its arguments once; then `batch` may be called any number of times. Compiled
    programs are shared between certifiers of equal architecture and options.
    """

    @own_settings()
    def __init__(
        self,
        f: Callable[[Any, Any], Any],
        params: Any,
        domain: Box | tuple[ArrayLike, ArrayLike] | None,
        input_shape: tuple[int, ...],
        *,
        rates: Rates | ArrayLike | None = None,
        norm: Norm = "linf",
        tolerance: float = 1e-4,
        required_margin: float = 0.0,
        options: CertifyOptions | None = None,
    ) -> None:
        """Checks the arguments, and traces f; see `certify`."""
        self.options = checked_options(options, CertifyOptions)
        self.seconds = Seconds()
        self.input_shape = input_shape
        tolerance = checked_number("tolerance", tolerance)
        required_margin = checked_number("required_margin", required_margin)
        if not 0 < tolerance <= LARGEST:
            raise InputError(
                f"tolerance is {tolerance}; it must be > 0, at most {LARGEST:g}"
            )
        if not abs(required_margin) <= LARGEST:
            raise InputError(
                f"required_margin is {required_margin}; it must be a number of "
                f"magnitude at most {LARGEST:g}"
            )
        self.tolerance, self.required_margin = tolerance, required_margin
        self.model = Model(f, params, input_shape)
        self.domain = checked_domain(domain, input_shape)
        self.norm = checked_norm(norm)
        self.rates = checked_rates(rates, input_shape, self.norm)
        check_no_cuts(self.norm, self.options.branch.cuts)
        self._judge = Judge(self.model)
        shape = self.model.program.output_shape
        if len(shape) != 1 or shape[0] < 2:
            raise InputError(
                f"the network returns shape {shape} for one input; "
                "certification needs a vector of at least 2 logits"
            )
        (self.num_classes,) = shape
        bounds = ibp if self.options.oracle == "ibp" else crown
        self.prover = BoundOracle(bounds(self.model.f))
        self._name = pinned(f).name

    @functools.cached_property
    def asked(self) -> Asked:
        """What every input is asked."""
        rates = self.rates
        both = bool(np.array_equal(rates.lower, rates.upper))
        own = plain(rates.lower) if both else None
        return Asked(
            network=self._name,
            content_hash=content_hash("", jax.tree.map(_numbers, self.model.double)),
            num_classes=self.num_classes,
            oracle=self.options.oracle,
            tolerance=self.tolerance,
            required_margin=self.required_margin,
            domain_lower=plain(self.domain.lo),
            domain_upper=plain(self.domain.hi),
            rates=None if own == 1.0 else own,
            one_sided=not both,
            norm=self.norm,
        )

    def batch(
        self,
        x: np.ndarray,
        labels: np.ndarray | None,
        deadline: float = math.inf,
        *,
        strict: bool = False,
    ) -> Certification:
        """Returns the answers for at most `batch_size` inputs.

        Args:
          x: shape (n, *input_shape), inside the domain.
          labels: shape (n,) or None for the predicted classes.
          deadline: `time.monotonic()` after which branch and bound stops; what is
            proved by then is returned. An array () may come forward meanwhile.
          strict: leave bounds and attack behind then, too (`jaxcert.limit`), and answer
            what is known; else they are computed whatever the time.

        Raises:
          InputError: wrong shape, NaN, an input outside the domain, a label out of
            range.
        """
        return self.batch_with_proofs(x, labels, deadline, strict=strict)[0]

    @own_settings()
    def batch_with_proofs(
        self,
        x: np.ndarray,
        labels: np.ndarray | None,
        deadline: float = math.inf,
        *,
        strict: bool = False,
        known: Known | None = None,
    ) -> tuple[Certification, Proof | None]:
        """Returns what `batch` does, and the proof.

        None without branch and bound, or where its options do not record them: then
        bounds proved every box, or nothing was kept of what did.

        Args:
          known: brackets to go on from, which are believed; no proof of their boxes
            is recorded.
        """
        x, labels = self._checked(x, labels)
        count = len(x)
        size = self.options.padded(count)
        x = _padded(x, size)
        known = jax.tree.map(partial(_padded, size=size), known)
        predicted = np.argmax(self._logits(x), axis=1).astype(np.int32)
        label = predicted if labels is None else _padded(labels, size).astype(np.int32)
        limit = deadline if strict else math.inf
        limits = deadline, limit
        result, proof = self._run(x, label, predicted, count, limits, known)
        asked = dataclasses.replace(self.asked, labelled=labels is not None)
        result = dataclasses.replace(result, asked=asked)
        return jax.tree.map(lambda v: v[:count], result), proof

    def _run(
        self,
        x: np.ndarray,
        label: np.ndarray,
        predicted: np.ndarray,
        count: int,
        limits: tuple[float, float],
        known: Known | None,
    ) -> tuple[Certification, Proof | None]:
        """Returns the answers and proofs; rows from `count` on are padding.

        The limits are the `time.monotonic()` at which branch and bound looks up, and at
        which a stage is left behind: then the answer is what others found.
        """
        deadline, limit = limits
        none, nowhere = np.zeros(len(x), np.int32), np.full(x.shape, np.nan)
        kept = (predicted == label) & (np.arange(len(x)) < count)

        def branch() -> ApothemAnswer:
            wanted = kept & (radius >= 0)
            with self.seconds.measure("branch"):
                task = self._apothem_task(x, label, radius, upper, witness, wanted)
                return self._close(task, deadline)

        calls, low, radius = none.copy(), np.zeros(len(x)), np.full(len(x), -1.0)
        box: Any = Box(nowhere.copy(), nowhere.copy())
        blocks = _blocks(count, self._block(len(x)))
        for rows in blocks:
            prove = partial(self._prove, x[rows], label[rows], kept[rows])
            if (proved := _in_time(prove, limit)) is None:
                break
            calls[rows], low[rows], radius[rows], own = proved
            box.lo[rows], box.hi[rows] = own.lo, own.hi
        upper, witness = np.full(len(x), np.inf), nowhere.copy()
        suspect = nowhere.copy()
        for rows in blocks if self.options.attack is not None else ():
            each = x[rows], label[rows], kept[rows], low[rows]
            if (refuted := _in_time(partial(self._refute, *each), limit)) is None:
                break
            calls[rows] += refuted.calls
            upper[rows], witness[rows] = refuted.upper, refuted.witness
            suspect[rows] = refuted.suspect
        if known is not None:
            radius, box, upper, witness = known.narrowed(radius, box, upper, witness)
        subproblems, proof = none, None
        complete = self.options.oracle == "complete"
        answer = _in_time(branch, limit) if complete else None
        if answer is not None:
            radius, upper, witness = answer.lower, answer.upper, answer.witness
            subproblems, proof = answer.processed, answer.proof
            improved = expand(answer.improved, x)
            own = enclosing(answer.box) if self.norm == "linf" else box
            box = jax.tree.map(partial(np.where, improved), own, box)
        upper = self._distances(x, upper, witness)
        winner = self._witness_class(x, label, witness)
        doubtful = kept & np.isinf(upper)
        suspect = np.where(expand(doubtful, x), suspect, np.nan)
        margin = self._margins(x, label, suspect)
        found = _Findings(
            x, label, predicted, radius, box, upper, witness, winner, calls,
            subproblems, suspect, margin,
        )  # fmt: skip
        return self._assemble(found), proof

    def _block(self, size: int) -> int:
        """Returns how many of `size` inputs bounds and attack take in one call."""
        on_cpu = local_devices()[0].platform == "cpu"
        return min(size, _BLOCK) if on_cpu else size

    @property
    def _types(self) -> tuple[Any, ...]:
        """Float types to search in, one after the other until they find something.

        Of a function that computes in float64, float32 may see nothing, or what is not.
        """
        double = self.model.program.typed.x64
        return (np.float32, np.float64) if double else (np.float32,)

    def _search(
        self,
        oracle: BoundOracle | AttackOracle,
        options: SearchOptions,
        x: np.ndarray,
        label: np.ndarray,
        low: np.ndarray,
        dtype: Any,
    ) -> SearchState:
        """Returns what a search above the radii `low` finds in a float type."""
        double = dtype is np.float64
        weights = self.model.double if double else self.model.single
        with float64() if double else jax.enable_x64(False):
            return jax.device_get(
                stages.search(
                    oracle, options, self.num_classes, weights,
                    self._task(x, label, dtype), low.astype(dtype),
                    dtype(self.tolerance),
                )
            )  # fmt: skip

    def _prove(
        self, x: np.ndarray, label: np.ndarray, kept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Box]:
        """Returns calls, radii where to go on, proved radii (-1: none) and boxes."""
        options = SearchOptions(
            self.options.candidates, self.options.max_steps, "prove"
        )
        calls, low = np.zeros(len(x), np.int32), np.zeros(len(x))
        radius, box = np.full(len(x), -1.0), Box.point(np.full(x.shape, np.nan))
        for dtype in self._types:
            begin = np.maximum(radius, 0)
            with self.seconds.measure("prove"):
                found = self._search(self.prover, options, x, label, begin, dtype)
            calls, low = calls + found.calls, np.maximum(found.lower, begin)
            proved, own = self._reprove(x, label, found.lower)
            better = proved > radius
            radius, box = np.where(better, proved, radius), select(better, own, box)
            lost = (radius <= 0) | (radius < _AGREEMENT * found.lower)
            if not (kept & lost).any():
                break
        return calls, low, radius, box

    def _refute(
        self, x: np.ndarray, label: np.ndarray, kept: np.ndarray, low: np.ndarray
    ) -> _Refuted:
        """Returns counterexamples, and the points that were taken for some in vain."""
        options = SearchOptions(_ATTACK_CANDIDATES, self.options.max_steps, "refute")
        attacker = AttackOracle(self.model.f, self.options.attack or AttackOptions())
        calls, upper = np.zeros(len(x), np.int32), np.full(len(x), np.inf)
        witness, suspect = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
        for dtype in self._types:
            with self.seconds.measure("refute"):
                found = self._search(attacker, options, x, label, low, dtype)
            distance, points = self._confirm(x, label, found.witness)
            nearer = distance < upper
            calls, upper = calls + found.calls, np.where(nearer, distance, upper)
            witness = select(nearer, points, witness)
            suspect = select(np.isinf(distance), np.float64(found.witness), suspect)
            if not (kept & np.isinf(upper)).any():
                break
        return _Refuted(calls, upper, witness, suspect)

    def recorded(
        self, answer: Certification, x: np.ndarray, proof: Proof | None
    ) -> Certification:
        """Returns an answer that carries what `jaxcert.grow` goes on from.

        Args:
          answer, proof: what `batch_with_proofs` returned.
          x: of what.
        """
        kept = np.empty(len(x), object)
        for row, one in enumerate(np.asarray(x, np.float64)):
            own = None if proof is None else proof.of(row)
            kept[row] = Recorded(self, one, own)
        return dataclasses.replace(answer, recorded=kept)

    @own_settings()
    def grow(
        self,
        x: np.ndarray,
        found: Certification,
        options: GrowthOptions | None = None,
        deadline: float = math.inf,
        progress: Callable[[int, int], None] | None = None,
        record: bool = False,
        *,
        strict: bool = False,
    ) -> Growth:
        """Returns maximal boxes around inputs that were certified.

        Args:
          x: shape (n, *input_shape), n <= batch_size: what `batch` was given.
          found: what `batch` of this certifier answered, whose boxes are believed; only
            certified inputs grow, the box of all others is the input itself.
          options: objective and resolution.
          deadline: `time.monotonic()` after which no further round begins.
          progress: told the round and how many inputs are not done.
          record: keep the proofs of the boxes, which certificates are made of.
          strict: leave a round behind then, too (`jaxcert.limit`), and answer the given
            boxes; else it is waited for.

        Raises:
          InputError: wrong shapes, or a network with other activations than ReLU.
        """
        if self.norm != "linf":
            raise InputError(
                f"the answer is about {self.norm} balls, and only boxes grow: certify "
                'with norm="linf"'
            )
        x, _ = self._checked(x, None)
        if found.label.shape != x.shape[:1]:
            raise InputError(
                f"x holds {len(x)} inputs, the answers are for {found.label.shape}: "
                "pass what `batch` was given, and its answer"
            )
        inside = (found.box.lo <= x) & (x <= found.box.hi)
        strange = (found.outcome == Outcome.CERTIFIED) & ~inside.all(
            axis=tuple(range(1, x.ndim))
        )
        if strange.any():
            raise InputError(
                f"input {int(np.argmax(strange))} does not lie in the box of its "
                "answer: pass what `batch` was given, and its answer"
            )
        if len(x) > self.options.batch_size:
            raise InputError(
                f"{len(x)} inputs are more than batch_size = {self.options.batch_size}"
            )
        if not is_piecewise_linear(self.model.program):
            raise InputError(
                "boxes grow by branch and bound over the signs of ReLUs; this network "
                "has other activations"
            )
        count = len(x)
        size = self.options.padded(count)
        padded = partial(_padded, size=size)

        certified = padded(found.outcome) == Outcome.CERTIFIED
        x = padded(x)
        nothing = np.zeros(size)
        task = GrowthTask(
            x=x,
            box=select(certified, jax.tree.map(padded, found.box), Box.point(x)),
            witness=padded(found.witness),
            domain=self.domain,
            rates=self.rates,
            spec=self._apothem_task(
                x, padded(found.label), nothing, nothing, x, certified
            ).spec,
            wanted=certified & (np.arange(size) < count),
        )
        branch = dataclasses.replace(self.options.branch, record=record)
        options = options or GrowthOptions()

        def work() -> Growth:
            return grow_boxes(self.model, task, options, branch, deadline, progress)

        growth = _in_time(work, deadline if strict else math.inf)
        return (growth or Growth.unchanged(task, options.delta)).rows(count)

    def _apothem_task(
        self,
        x: np.ndarray,
        label: np.ndarray,
        radius: np.ndarray,
        upper: np.ndarray,
        witness: np.ndarray,
        wanted: np.ndarray,
    ) -> ApothemTask:
        return ApothemTask(
            family=Family.many(Box.point(x), self.domain, self.rates),
            spec=self._specs(label),
            lower=np.maximum(radius, 0),
            upper=upper,
            witness=witness,
            reach=_reach(x, self.domain, self.rates),
            wanted=wanted,
            tolerance=self.tolerance,
        )

    def _specs(self, label: np.ndarray) -> Spec:
        """Returns the specs of a batch of labels, leaves (n, ...)."""
        count, classes = len(label), self.num_classes
        others = np.array([[j for j in range(classes) if j != c] for c in label])
        eye = np.eye(classes)
        rows: Any = eye[label][:, None] - eye[others]
        offset: Any = np.full((count, classes - 1), -self.required_margin)
        clause: Any = np.tile(np.arange(classes - 1), (count, 1))
        return Spec(rows, offset, clause, classes - 1)

    def _close(self, task: ApothemTask, deadline: float) -> ApothemAnswer:
        branch = self.options.branch
        return close_in_rounds(self.model, task, branch, deadline, self._judge)

    def _logits(self, x: np.ndarray) -> np.ndarray:
        logits = self.model.outputs(x)
        if not np.all(np.isfinite(logits)):
            where = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
            raise InputError(
                f"the network's output is not finite at input {where} of the batch: "
                "check its weights and the input's scale"
            )
        return logits

    def _task(self, x: np.ndarray, label: np.ndarray, dtype: Any) -> stages.Task:
        def cast(v: Any) -> Any:
            return np.asarray(v, dtype)

        return stages.Task(
            x=cast(x),
            label=label,  # type: ignore[arg-type]  # numpy goes where jax goes
            domain=jax.tree.map(cast, self.domain),
            rates=jax.tree.map(cast, self.rates),
            required_margin=cast(self.required_margin),
        )

    @float64(share=1.0)
    def _reprove(
        self, x: np.ndarray, label: np.ndarray, lower: np.ndarray
    ) -> tuple[np.ndarray, Box]:
        reach32 = _reach(x.astype(np.float32), self.domain, self.rates)
        reach64 = _reach(x, self.domain, self.rates)
        full = lower >= np.float32(1 - 1e-6) * reach32.astype(np.float32)
        radius = np.where(full, reach64, lower.astype(np.float64))
        with self.seconds.measure("reprove"):
            task = self._task(x, label, np.float64)
            return jax.device_get(
                stages.reprove(
                    self.prover, self.num_classes, self.model.double, task, radius
                )
            )

    @float64(share=1.0)
    def _confirm(
        self, x: np.ndarray, label: np.ndarray, witness: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (distance, witness) of every point that is one; inf where not."""
        given = witness.astype(np.float64)
        with self.seconds.measure("confirm"):
            task = self._task(x, label, np.float64)
            model = self.model
            found = stages.confirm(model.f, self.num_classes, model.double, task, given)
            distance, witness = map(np.array, jax.device_get(found))
            rejected = np.isinf(distance) & np.isfinite(given).all(
                axis=tuple(range(1, x.ndim))
            )
            # What is left of them may be ties, which float64 does not tell from wins.
            for j in np.flatnonzero(rejected):
                family = Family(Box.point(x[j]), self.domain, self.rates)
                at = self.rates.pin(x[j], family.domain.project(given[j]))
                spec = jax.tree.map(lambda v: v[0], self._specs(label[j : j + 1]))
                tie = self._judge.nearest(spec, family, np.asarray(at))
                if tie is not None:
                    witness[j] = tie.point
                    distance[j] = distance_above(family.core, self.rates, tie.point)
        return distance, witness

    def _distances(
        self, x: np.ndarray, upper: np.ndarray, witness: np.ndarray
    ) -> np.ndarray:
        """Returns the least numbers that are no less than the witnesses' distances."""
        upper = np.array(upper)
        for j in np.flatnonzero(np.isfinite(upper)):
            upper[j] = distance_above(Box.point(x[j]), self.rates, witness[j])
        return upper

    def _witness_class(
        self, x: np.ndarray, label: np.ndarray, witness: np.ndarray
    ) -> np.ndarray:
        """Returns which class wins, or ties with the label, at witnesses; -1: none."""
        missing = np.isnan(witness).any(axis=tuple(range(1, x.ndim)))
        if missing.all():
            return np.full(len(x), -1)
        logits = np.array(self._logits(np.where(expand(missing, x), x, witness)))
        if self.required_margin <= 0:
            # At a tie rounding decides which of the two is greater.
            logits[np.arange(len(x)), label] = -np.inf
        return np.where(missing, -1, np.argmax(logits, axis=1))

    def _margins(
        self, x: np.ndarray, label: np.ndarray, points: np.ndarray
    ) -> np.ndarray:
        """Returns margins in float64, less the required one; NaN where no point is."""
        missing = np.isnan(points).any(axis=tuple(range(1, x.ndim)))
        if missing.all():
            return np.full(len(x), np.nan)
        at = np.clip(points, self.domain.lo, self.domain.hi)
        logits = np.array(self._logits(np.where(expand(missing, x), x, at)))
        own = logits[np.arange(len(x)), label].copy()
        logits[np.arange(len(x)), label] = -np.inf
        margin = own - logits.max(axis=1) - self.required_margin
        return np.where(missing, np.nan, margin)

    def _assemble(self, found: _Findings) -> Certification:
        x, box, upper = found.x, found.box, found.upper
        wrong = found.predicted != found.label
        lower = np.maximum(found.radius, 0)
        if self.norm == "linf":
            full = (found.radius >= 0) & self._at_boundary(box)
        else:
            full = found.radius >= _reach(x, self.domain, self.rates)
        lower = np.where(full, np.inf, lower)
        contradiction = ~wrong & (lower > upper)
        if np.any(contradiction):
            i = int(np.flatnonzero(contradiction)[0])
            raise AssertionError(
                f"input {i}: a box of apothem {lower[i]!r} was proved, although it "
                f"holds a counterexample at {upper[i]!r}. This is a bug of jaxcert: "
                "please report it with the network and the input"
            )
        outcome = np.where(lower > 0, Outcome.CERTIFIED, Outcome.UNKNOWN)
        outcome = np.where(wrong, Outcome.MISCLASSIFIED, outcome)
        boxed = (outcome == Outcome.CERTIFIED) & (self.norm == "linf")
        no_box = expand(~boxed, x)
        gone = expand(wrong, x)
        return Certification(
            outcome=outcome.astype(np.int32),
            label=found.label,
            predicted=found.predicted,
            lower=np.where(wrong, 0.0, lower),
            upper=np.where(wrong, 0.0, upper),
            box=jax.tree.map(lambda v: np.where(no_box, np.nan, v), box),
            witness=np.where(gone, np.nan, found.witness),
            witness_class=np.where(wrong, -1, found.witness_class).astype(np.int32),
            oracle_calls=found.calls,
            subproblems=found.subproblems,
            x=x,
            suspect=found.suspect,
            suspect_margin=found.suspect_margin,
        )

    def _at_boundary(self, box: Box) -> np.ndarray:
        """Whether every face that may move has reached the domain's boundary."""
        axes = tuple(range(1, np.ndim(box.lo)))
        low = (self.rates.lower == 0) | (box.lo <= self.domain.lo)
        high = (self.rates.upper == 0) | (box.hi >= self.domain.hi)
        return np.all(low & high, axis=axes)

    def _checked(
        self, x: np.ndarray, labels: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        x = np.asarray(x, np.float64)
        if x.shape[1:] != self.input_shape or not len(x):
            raise InputError(
                f"inputs have shape {x.shape}; the network takes (n, "
                f"{', '.join(map(str, self.input_shape))}) with n >= 1"
            )
        check_inputs(x, self.domain)
        if labels is not None:
            labels = np.asarray(labels)
            check_labels(labels, len(x), self.num_classes)
        return x, labels


def recorded_question(
    answer: Certification,
) -> tuple[Certifier, np.ndarray, Certification]:
    """Returns what answered, the inputs, and the answer with an axis over them.

    Raises:
      InputError: it is no answer, was not recorded, or is not of one call.
    """
    if not isinstance(answer, Certification):
        raise InputError(
            f"answer must be what jc.certify returns, got {type(answer).__name__}"
        )
    if answer.recorded is None:
        raise InputError(
            "the answer does not know its question: ask with "
            "jc.certify(..., record=True)"
        )
    if isinstance(answer.recorded, Recorded):
        answer = jax.tree.map(lambda v: np.asarray(v)[None], answer)
    kept: list[Recorded] = list(answer.recorded)  # type: ignore[arg-type]
    certifiers = list({one.certifier for one in kept})
    if len(certifiers) != 1:
        raise InputError(
            f"the answer is of {len(certifiers)} calls of jc.certify: pass that of one"
        )
    return certifiers[0], np.stack([one.x for one in kept]), answer


def _numbers(leaf: Any) -> Any:
    """Returns what numpy can hold of a leaf of params: of a random key, its words."""
    key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
    return jax.random.key_data(leaf) if key else leaf


def _padded(rows: Any, size: int) -> np.ndarray:
    """Returns rows with the last one repeated until there are `size`."""
    rows = np.asarray(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


def _blocks(count: int, block: int) -> list[slice]:
    """Returns slices of `block` rows that hold the first `count`.

    Batches are padded to a multiple of the block, or are smaller than it.
    """
    return [slice(start, start + block) for start in range(0, count, block)]


def _in_time(stage: Callable[[], Found], limit: float) -> Found | None:
    """Returns what a stage finds; None if it is not done by then."""
    if time.monotonic() >= limit:
        return None
    try:
        return run_until(stage, limit)
    except TimeLimitError:
        return None


def _reach(x: np.ndarray, domain: Box, rates: Rates) -> np.ndarray:
    """Returns the radius at which the ball of every input fills the domain.

    Of another norm than "linf", rounded up by more than it may be wrong.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        down = np.where(rates.lower > 0, (x - domain.lo) / rates.lower, 0)
        up = np.where(rates.upper > 0, (domain.hi - x) / rates.upper, 0)
    most = np.maximum(down, up)
    exact = rates.norm == "linf"
    share = 0 if exact else 4 * (most[0].size + 8) * np.finfo(most.dtype).eps
    return (1 + share) * norms(most, rates.norm)
