"""Certifier: runs the stages of a certification over batches of inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jaxcert.bounds.crown import crown
from jaxcert.bounds.ibp import ibp, program_of
from jaxcert.box import Box, Rates
from jaxcert.errors import InputError
from jaxcert.oracle.attack import AttackOptions, AttackOracle
from jaxcert.oracle.incomplete import BoundOracle
from jaxcert.search import stages
from jaxcert.search.apothem import SearchOptions

ORACLES = ("ibp", "crown")


class Outcome(enum.IntEnum):
    """What became of an input."""

    CERTIFIED = 0
    """A box of positive apothem was proved."""
    MISCLASSIFIED = 1
    """The network predicts another class than the label: there is nothing to prove."""
    UNKNOWN = 2
    """No box of positive apothem was proved, for reasons of tightness or margin."""


@dataclasses.dataclass(frozen=True)
class CertifyOptions:
    """How an apothem is searched for.

    Attributes:
      oracle: "crown" or "ibp", what proves.
      candidates: radii per input that are checked in one call.
      batch_size: inputs per call; smaller rests are padded to 1, 8 or this size.
      max_steps: most calls per search and batch.
      attack: how hard the attack on the upper end tries; None for no attack.
    """

    oracle: str = "crown"
    candidates: int = 8
    batch_size: int = 64
    max_steps: int = 40
    attack: AttackOptions | None = AttackOptions()

    def __post_init__(self) -> None:
        if self.oracle not in ORACLES:
            raise InputError(
                f"unknown oracle '{self.oracle}'; choose one of {', '.join(ORACLES)}"
            )
        for name in ("candidates", "batch_size", "max_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be >= 1")

    def buckets(self) -> tuple[int, ...]:
        """Returns the batch sizes that are compiled for."""
        return tuple(sorted({min(1, self.batch_size), min(8, self.batch_size),
                             self.batch_size}))  # fmt: skip


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Certification:
    """The answer for every input: bracket of its apothem, proved box, witness.

    All arrays are numpy, float64, with a leading axis over the inputs (none if one
    input was given).

    Attributes:
      outcome: an `Outcome` value.
      label: the class that was to be kept.
      predicted: the class that the network predicts at x.
      lower: proved lower end of the bracket around the apothem optimum: the box has
        this apothem. 0 if nothing was proved; inf if all faces reach the domain's
        boundary.
      upper: upper end of the bracket: distance of the witness; inf if there is none;
        0 for a misclassified input.
      box: the proved box; NaN if there is none.
      witness: a point whose margin is not above the required one; NaN if none.
      witness_class: the class predicted at the witness; -1 if none.
      oracle_calls: boxes that the oracles were asked about.
    """

    outcome: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    box: Box
    witness: Float[np.ndarray, "n *d"]
    witness_class: Int[np.ndarray, " n"]
    oracle_calls: Int[np.ndarray, " n"]


@dataclasses.dataclass
class Seconds:
    """Wall seconds by stage, summed over batches; compilation is in the first call."""

    prove: float = 0.0
    refute: float = 0.0
    reprove: float = 0.0
    confirm: float = 0.0

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds the time spent inside the block to one stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            setattr(self, stage, getattr(self, stage) + spent)


def float64_device() -> jax.Device:
    """Returns where float64 is computed: the CPU if the accelerator has no float64."""
    default = jax.devices()[0]
    return jax.devices("cpu")[0] if default.platform == "tpu" else default


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Runs the block with float64 enabled, on a device that has it."""
    with jax.enable_x64(True), jax.default_device(float64_device()):
        yield


class Certifier:
    """Certifies batches of inputs of one network; see `certify`.

    Checks its arguments once; then `batch` may be called any number of times. Compiled
    programs are shared between certifiers of equal architecture and options.
    """

    def __init__(
        self,
        f: Callable[[Any, Any], Any],
        params: Any,
        domain: Box | tuple[ArrayLike, ArrayLike] | None,
        input_shape: tuple[int, ...],
        *,
        rates: Rates | None = None,
        tolerance: float = 1e-4,
        required_margin: float = 0.0,
        options: CertifyOptions | None = None,
    ) -> None:
        self.f = f
        self.options = options or CertifyOptions()
        self.seconds = Seconds()
        self.input_shape = input_shape
        if not (np.isfinite(tolerance) and tolerance > 0):
            raise InputError(f"tolerance is {tolerance}; it must be a number > 0")
        if not np.isfinite(required_margin):
            raise InputError(f"required_margin is {required_margin}; it must be finite")
        self.tolerance, self.required_margin = float(tolerance), float(required_margin)
        self.params32 = as_arrays(params, np.float32)
        self.params64 = as_arrays(params, np.float64)
        self.domain = _checked_domain(domain, input_shape)
        self.rates = _checked_rates(rates, input_shape)
        program = program_of(f, self.params32, np.zeros(input_shape, np.float32))
        if len(program.output_shape) != 1 or program.output_shape[0] < 2:
            raise InputError(
                f"the network returns shape {program.output_shape} for one input; "
                "certification needs a vector of at least 2 logits"
            )
        (self.num_classes,) = program.output_shape
        method = crown(f) if self.options.oracle == "crown" else ibp(f)
        self.prover = BoundOracle(method)

    def batch(self, x: np.ndarray, labels: np.ndarray | None) -> Certification:
        """Returns the answers for at most `batch_size` inputs.

        Args:
          x: shape (n, *input_shape), inside the domain.
          labels: shape (n,) or None for the predicted classes.

        Raises:
          InputError: wrong shape, NaN, an input outside the domain, a label out of
            range.
        """
        x, labels = self._checked(x, labels)
        count = len(x)
        size = next(b for b in self.options.buckets() if b >= count)
        x = np.concatenate([x, np.repeat(x[-1:], size - count, axis=0)])
        logits = self._logits(x)
        predicted = np.argmax(logits, axis=1).astype(np.int32)
        if labels is None:
            label = predicted
        else:
            label = np.concatenate([labels, np.repeat(labels[-1:], size - count)])
            label = label.astype(np.int32)
        result = self._run(x, label, predicted)
        return jax.tree.map(lambda v: v[:count], result)

    def _run(
        self, x: np.ndarray, label: np.ndarray, predicted: np.ndarray
    ) -> Certification:
        options, classes = self.options, self.num_classes
        task32 = self._task(x, label, np.float32)
        goals = {
            goal: SearchOptions(options.candidates, options.max_steps, goal)
            for goal in ("prove", "refute")
        }
        floor, tolerance = np.zeros(len(x), np.float32), np.float32(self.tolerance)
        with self.seconds.measure("prove"), jax.enable_x64(False):
            proved = jax.device_get(
                stages.search(
                    self.prover, goals["prove"], classes,
                    self.params32, task32, floor, tolerance,
                )
            )  # fmt: skip
        calls = proved.calls
        radius, box = self._reprove(x, label, proved.lower)
        upper = np.full(len(x), np.inf)
        witness, witness_class = np.full(x.shape, np.nan), np.full(len(x), -1)
        if options.attack is not None:
            attacker = AttackOracle(self.f, options.attack)
            with self.seconds.measure("refute"), jax.enable_x64(False):
                low = np.maximum(proved.lower, 0).astype(np.float32)
                refuted = jax.device_get(
                    stages.search(
                        attacker, goals["refute"], classes,
                        self.params32, task32, low, tolerance,
                    )
                )  # fmt: skip
            calls = calls + refuted.calls
            upper, witness, witness_class = self._confirm(x, label, refuted.witness)
        return self._assemble(
            label, predicted, radius, box, upper, witness, witness_class, calls, x
        )

    def _logits(self, x: np.ndarray) -> np.ndarray:
        with float64():
            logits = np.asarray(stages.outputs(self.f, self.params64, x))
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

    def _reprove(
        self, x: np.ndarray, label: np.ndarray, lower: np.ndarray
    ) -> tuple[np.ndarray, Box]:
        reach32 = _reach(x.astype(np.float32), self.domain, self.rates)
        reach64 = _reach(x, self.domain, self.rates)
        full = lower >= np.float32(1 - 1e-6) * reach32.astype(np.float32)
        radius = np.where(full, reach64, lower.astype(np.float64))
        with self.seconds.measure("reprove"), float64():
            task = self._task(x, label, np.float64)
            return jax.device_get(
                stages.reprove(
                    self.prover, self.num_classes, self.params64, task, radius
                )
            )

    def _confirm(
        self, x: np.ndarray, label: np.ndarray, witness: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with self.seconds.measure("confirm"), float64():
            task = self._task(x, label, np.float64)
            distance, witness, logits = jax.device_get(
                stages.confirm(
                    self.f, self.num_classes, self.params64, task,
                    witness.astype(np.float64),
                )
            )  # fmt: skip
        found = np.isfinite(distance)
        return distance, witness, np.where(found, np.argmax(logits, axis=1), -1)

    def _assemble(
        self,
        label: np.ndarray,
        predicted: np.ndarray,
        radius: np.ndarray,
        box: Box,
        upper: np.ndarray,
        witness: np.ndarray,
        witness_class: np.ndarray,
        calls: np.ndarray,
        x: np.ndarray,
    ) -> Certification:
        wrong = predicted != label
        lower = np.maximum(radius, 0)
        moving = self._at_boundary(box)
        lower = np.where((radius >= 0) & moving, np.inf, lower)
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
        no_box = _expand(outcome != Outcome.CERTIFIED, x)
        gone = _expand(wrong, x)
        return Certification(
            outcome=outcome.astype(np.int32),
            label=label,
            predicted=predicted,
            lower=np.where(wrong, 0.0, lower),
            upper=np.where(wrong, 0.0, upper),
            box=jax.tree.map(lambda v: np.where(no_box, np.nan, v), box),
            witness=np.where(gone, np.nan, witness),
            witness_class=np.where(wrong, -1, witness_class).astype(np.int32),
            oracle_calls=calls,
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


def check_inputs(x: np.ndarray, domain: Box) -> None:
    """Raises InputError if an input holds a NaN or lies outside the domain.

    Args:
      x: shape (n, *d).
      domain: shape d.
    """
    axes = tuple(range(1, x.ndim))
    broken = ~np.isfinite(x).all(axis=axes)
    if broken.any():
        i = int(np.flatnonzero(broken)[0])
        raise InputError(f"input {i} holds NaN or infinity: clean it before certifying")
    outside = ((x < domain.lo) | (x > domain.hi)).any(axis=axes)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"input {i} lies outside the domain: its values span "
            f"[{x[i].min():.6g}, {x[i].max():.6g}], the domain "
            f"[{np.min(domain.lo):.6g}, {np.max(domain.hi):.6g}]. Rescale the input or "
            "widen the domain"
        )


def check_labels(labels: np.ndarray, count: int, num_classes: int) -> None:
    """Raises InputError unless labels are `count` integers in 0 .. num_classes - 1."""
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels have shape {labels.shape} and type {labels.dtype}; give one "
            f"integer for each of the {count} inputs"
        )
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"label {labels[i]} of input {i} is out of range: the network has classes "
            f"0 .. {num_classes - 1}"
        )


def as_arrays(params: Any, dtype: Any) -> Any:
    """Returns params as numpy arrays, the float ones of the given type.

    Raises:
      InputError: a weight is NaN or infinite.
    """

    def cast(path: Any, leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        if not np.issubdtype(array.dtype, np.floating):
            return array
        if not np.isfinite(array).all():
            raise InputError(
                f"weight {jax.tree_util.keystr(path)} holds NaN or infinity: nothing "
                "can be certified about this network; retrain it or load another"
            )
        return array.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


def _checked_domain(
    domain: Box | tuple[ArrayLike, ArrayLike] | None, shape: tuple[int, ...]
) -> Box:
    ends = (0.0, 1.0) if domain is None else domain
    ends = (ends.lo, ends.hi) if isinstance(ends, Box) else ends
    try:
        lo, hi = (np.broadcast_to(np.asarray(v, np.float64), shape) for v in ends)
    except ValueError:
        raise InputError(
            f"the domain does not fit inputs of shape {shape}: give two numbers, or "
            "two arrays of that shape"
        ) from None
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        raise InputError("the domain has NaN or infinite bounds: give finite ones")
    if (lo > hi).any():
        raise InputError(
            "the domain is empty: its lower bound exceeds its upper one "
            f"({float(lo[lo > hi][0]):g} > {float(hi[lo > hi][0]):g})"
        )
    return Box(lo, hi)  # type: ignore[arg-type]


def _checked_rates(rates: Rates | None, shape: tuple[int, ...]) -> Rates:
    ends = (1.0, 1.0) if rates is None else (rates.lower, rates.upper)
    try:
        low, high = (np.broadcast_to(np.asarray(v, np.float64), shape) for v in ends)
    except ValueError:
        raise InputError(
            f"the rates do not fit inputs of shape {shape}: give two arrays of it"
        ) from None
    both = np.stack([low, high])
    if not np.isfinite(both).all() or (both < 0).any() or not (both > 0).any():
        raise InputError("rates must be finite and >= 0, and not all of them 0")
    return Rates(low, high)  # type: ignore[arg-type]


def _reach(x: np.ndarray, domain: Box, rates: Rates) -> np.ndarray:
    """Returns the radius at which the ball of every input fills the domain."""
    axes = tuple(range(1, x.ndim))
    with np.errstate(divide="ignore", invalid="ignore"):
        down = np.where(rates.lower > 0, (x - domain.lo) / rates.lower, 0)
        up = np.where(rates.upper > 0, (domain.hi - x) / rates.upper, 0)
    return np.maximum(down, up).max(axis=axes)


def _expand(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    return mask.reshape(mask.shape + (1,) * (like.ndim - 1))
