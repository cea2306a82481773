"""The questions a user asks: certify, grow, verify, dual_boxes."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jaxcert.ball import Ball, Region
from jaxcert.box import Box, Norm, Rates
from jaxcert.certification import Certification, CertifyOptions, Progress
from jaxcert.certifier import Certifier, recorded_question
from jaxcert.checks import (
    LARGEST,
    SLOWEST,
    as_inputs,
    as_labels,
    check_inputs,
    check_labels,
    check_no_cuts,
    check_not_flushed,
    checked_norm,
    checked_number,
    checked_options,
    checked_rates,
)
from jaxcert.devices import local_devices, spread
from jaxcert.dual_answer import DualBoxes
from jaxcert.errors import InputError
from jaxcert.limit import (
    TimeLimitError,
    deadline_after,
    run_until,
    stopped_by_ctrl_c,
)
from jaxcert.model import Model
from jaxcert.oracle.decide import Effort, decide
from jaxcert.runs.progress import told
from jaxcert.search import dual
from jaxcert.search.dual import DualBox, DualOptions, DualTask
from jaxcert.search.growth import Growth, GrowthOptions
from jaxcert.shapes import expects_batch, find_input, try_shape
from jaxcert.spec import Spec, checked_spec
from jaxcert.trace.pinned import own_settings, pinned
from jaxcert.verdict import Reason, Status, Verdict, unknown

STAGES = {
    "prove": "bounds", "reprove": "bounds", "refute": "attack", "confirm": "attack",
    "branch": "branch and bound",
}  # fmt: skip
"""What the stages of a certification are called."""


@own_settings()
def certify(
    f: Callable[[Any, Any], Any],
    params: Any,
    x: Float[ArrayLike, "n *d"] | Float[ArrayLike, "*d"],
    labels: Int[ArrayLike, " n"] | None = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    domain: Box | tuple[ArrayLike, ArrayLike] | None = None,
    rates: Rates | ArrayLike | None = None,
    norm: Norm = "linf",
    tolerance: float = 1e-4,
    required_margin: float = 0.0,
    options: CertifyOptions | None = None,
    record: bool = False,
    time_limit: float | None = None,
    progress: Progress | bool | None = None,
) -> Certification:
    """Returns a bracket around the apothem of every input, with box and witness.

    The box is clip([x - r rates.lower, x + r rates.upper], domain) for the largest r
    that was proved; it was re-proved in float64 with a margin for rounding.

    Ctrl-C answers what is proved by then, with a warning; a second one raises.

    Args:
      f: any JAX function of params and one input that returns logits, shape (K,). It
        is taken as it is now: what it closes over, the global names and the attributes
        of objects that it reads belong to it, and f is traced again once they are
        others. What lies in installed packages is taken not to change.
      params: its weights, a pytree of arrays.
      x: one input, or a batch with a leading axis.
      labels: the class to keep; None for the predicted one.
      input_shape: shape of one input. By default, x of one axis is one input if f takes
        it; x of more axes is a batch if f takes x[0], one input if it takes x alone,
        and if it takes both, labels tell which or this has to.
      domain: legal inputs, a Box or (lower, upper); default [0, 1]^d.
      rates: how fast each face moves with the radius: Rates, or one number or array
        for both sides; default 1.
      norm: how the moves of several features count together: with "linf" each may use
        up the radius, which is a box; with "l1" they share it by their sum, with "l2"
        by the root of the sum of squares. Then `lower` is the radius of a proved ball,
        within the domain, and there is no box.
      tolerance: how finely each end of the bracket is searched, in radius units.
      required_margin: m, asks margin > m; default 0.
      options: oracle, candidates, batch size, attack.
      record: keep in the answer what `grow` and `write_certificates` go on from: the
        question, and the branching tree of every box that the complete oracle proves.
      time_limit: seconds after which what is known by then is answered: brackets are
        wider, and inputs that no stage was done for are UNKNOWN. A compilation that
        runs then is left behind in a thread (`jaxcert.limit`).
      progress: told after every batch how many inputs are answered, and of how many;
        True shows a bar, with the stage and the time, on stderr.

    Raises:
      InputError: bad shapes, NaN, input outside the domain, labels out of range.
      UnsupportedError: f uses a primitive on x that has no rule.

    Source: the largest box of its kind around x has the best apothem of any sound box,
    for any sound box of apothem a contains the clipped a-ball (DESIGN, "apothem
    optimum").

    Example:
      >>> import jax.numpy as jnp, jaxcert as jc
      >>> f = lambda w, x: w @ x
      >>> w = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> answer = jc.certify(f, w, jnp.array([0.75, 0.25]), tolerance=1e-5)
      >>> round(float(answer.lower), 3), round(float(answer.upper), 3)
      (0.25, 0.25)
    """
    deadline = deadline_after(time_limit)
    options = checked_options(options, CertifyOptions)
    if record:
        branch = dataclasses.replace(options.branch, record=True)
        options = dataclasses.replace(options, branch=branch)
    x, f = as_inputs(x), pinned(f)
    keep = None if labels is None else as_labels(labels)
    single, shape = find_input(f, params, x, keep, input_shape)
    certifier = Certifier(
        f, params, domain, shape, rates=rates, norm=norm, tolerance=tolerance,
        required_margin=required_margin, options=options,
    )  # fmt: skip
    x = x[None] if single else x
    if keep is not None:
        keep = keep.reshape(1) if single and keep.size == 1 else keep
        check_labels(keep, len(x), certifier.num_classes)
    check_inputs(x, certifier.domain)
    if not len(x):
        raise InputError("there is no input to certify: x has length 0")
    size = certifier.options.batch_size

    def work(start: int, until: Any) -> Certification:
        chosen = slice(start, start + size)
        own = None if keep is None else keep[chosen]
        answer, proof = certifier.batch_with_proofs(x[chosen], own, until, strict=True)
        return certifier.recorded(answer, x[chosen], proof) if record else answer

    starts, devices, parts = range(0, len(x), size), local_devices(), []
    until = np.array(deadline)
    with (
        told(progress, "certifying") as (tell, stage),
        stopped_by_ctrl_c(until) as stop,
        contextlib.closing(spread(work, starts, devices, until)) as answers,
    ):
        certifier.seconds.told = lambda name: stage(STAGES[name])
        for part in answers:
            parts.append(part)
            tell(min(len(parts) * size, len(x)), len(x))
        late = time.monotonic() >= until
    joined = jax.tree.map(lambda *v: np.concatenate(v), *parts)
    if stop.by or late:
        asked = dataclasses.replace(joined.asked, stopped=stop.by or "the time limit")
        joined = dataclasses.replace(joined, asked=asked)
    if stop.by:
        open_ = int((joined.upper - joined.lower > tolerance).sum())
        warnings.warn(
            f"stopped by Ctrl-C: {open_} of {len(x)} brackets are wider than the "
            "tolerance; what is proved is answered",
            RuntimeWarning,
            stacklevel=3,
        )
    return jax.tree.map(lambda v: v[0], joined) if single else joined


def _checked_region(region: Any) -> Region:
    """Returns a box or a ball in numpy float64; a ball of radius 0 as a box.

    Raises:
      InputError: it is neither, ragged, not finite or empty.
    """
    if not isinstance(region, Ball):
        return _checked_box(region)
    checked_norm(region.rates.norm, ("l1", "l2"))
    domain = _checked_box(region.domain, "domain of the ball")
    check_not_flushed("the domain of the ball", domain.lo, domain.hi)
    center: Any = as_inputs(region.center)
    if center.shape != domain.lo.shape:
        raise InputError(
            f"the ball has a centre of shape {center.shape} and a domain of "
            f"{domain.lo.shape}: give both the shape of one input"
        )
    check_inputs(center[None], domain, ["at the centre of the ball"])
    radius = checked_number("the radius of the ball", region.radius)
    if not (radius == 0 or SLOWEST <= radius <= LARGEST):
        raise InputError(
            f"the radius of the ball is {radius}; it must be 0, or at least "
            f"{SLOWEST:g} and at most {LARGEST:g}"
        )
    rates = checked_rates(region.rates, center.shape, region.rates.norm)
    if radius == 0:
        return Box.point(center)
    return Ball(center, np.float64(radius), domain, rates)


def _checked_box(box: Any, name: str = "box") -> Box:
    """Returns the box in numpy float64.

    Args:
      box: what was given.
      name: of the argument.

    Raises:
      InputError: it is no Box, ragged, not finite or empty.
    """
    if not isinstance(box, Box):
        raise InputError(
            f"{name} must be a Box, got {type(box).__name__}: pass jc.Box(lower, upper)"
        )
    lo: Any = as_inputs(box.lo)
    hi: Any = as_inputs(box.hi)
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        raise InputError(f"the {name} has NaN or infinite faces: give finite ones")
    if lo.shape != hi.shape:
        raise InputError(
            f"the {name} has a lower face of shape {lo.shape} and an upper one of "
            f"{hi.shape}: give both the shape of one input"
        )
    if (lo > hi).any():
        raise InputError(
            f"the {name} is empty: lo > hi for {int((lo > hi).sum())} of {lo.size} "
            "features"
        )
    return Box(lo, hi)


def _result_shape(
    f: Callable, params: Any, shape: tuple[int, ...], name: str
) -> tuple[int, ...]:
    """Returns the shape of what f returns for one input of the shape of an argument.

    Raises:
      InputError: it takes no such input.
    """
    trial = try_shape(f, params, shape)
    if trial.result is None:
        raise InputError(
            f"the network does not take one input of shape {shape}, the shape of "
            f"the {name} ({trial.reason}){expects_batch(f, params, shape)}"
        )
    return trial.result


def _check_fit(f: Callable, params: Any, shape: tuple[int, ...], spec: Spec) -> None:
    """Raises InputError unless network and spec fit inputs of that shape."""
    result = _result_shape(f, params, shape, "box")
    outputs = spec.coefficients.shape[-1]
    if result != (outputs,):
        hint = "" if len(result) == 1 else expects_batch(f, params, shape)
        raise InputError(
            f"the spec speaks of {outputs} outputs, but the network returns shape "
            f"{result}: give a spec with one column per output{hint}"
        )


@own_settings()
def verify(
    f: Callable[[Any, Any], Any],
    params: Any,
    box: Region,
    spec: Spec,
    *,
    options: CertifyOptions | None = None,
    time_limit: float | None = None,
    progress: Progress | bool | None = None,
) -> Verdict:
    """Returns PROVED, REFUTED with a witness, or UNKNOWN for one box and one spec.

    Instead of a box it may be a `Ball`, in which the witness then lies exactly.

    The bounds are asked first, then the attack; both in float64, each with a margin for
    rounding. Points that lie within it are judged exactly: a tie is a counterexample.

    Ctrl-C answers UNKNOWN, for the reason of time, with the bound that is known by
    then; a second one raises.

    Args:
      f: any JAX function of params and one input that returns a vector; taken as it
        is now, see `certify`.
      params: its weights.
      box: the set of inputs, a Box or a Ball of the shape of one input.
      spec: what must hold for every output over it.
      options: oracle and attack.
      time_limit: seconds after which the answer is UNKNOWN, with the bound that is
        known by then. A compilation that runs then is left behind in a thread
        (`jaxcert.limit`).
      progress: told as each stage (bounds, attack, branch and bound) begins how many
        are done, and of how many; True shows a bar, with the time, on stderr.

    Raises:
      InputError: the box is empty or not finite, or the spec does not fit the network
        or asks nothing.
      UnsupportedError: f uses a primitive on x that has no rule.

    Example:
      >>> import jax.numpy as jnp, jaxcert as jc
      >>> f = lambda w, x: w @ x
      >>> w = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> spec = jc.Spec.classification(0, 2)
      >>> box = jc.Box(jnp.array([0.6, 0.0]), jnp.array([1.0, 0.5]))
      >>> jc.verify(f, w, box, spec).proved.item()
      True
    """
    deadline = deadline_after(time_limit)
    options = checked_options(options, CertifyOptions)
    region, spec64 = _checked_region(box), checked_spec(spec)
    if isinstance(region, Ball):
        check_no_cuts(region.rates.norm, options.branch.cuts)
    f, shape = pinned(f), np.shape(region.center)
    _check_fit(f, params, shape, spec64)
    model = Model(f, params, shape)
    bounds = "crown" if options.oracle == "crown" else "ibp"
    branch = options.branch if options.oracle == "complete" else None
    effort = Effort(bounds, options.attack, branch)  # type: ignore[arg-type]
    known = [unknown(np.zeros(shape))]
    until, stages = np.array(deadline), effort.stages

    def work() -> Verdict:
        with own_settings():
            found = decide(
                model, region, spec64, effort, until, told=known.append, stage=begins
            )
        return found.verdict

    with (
        told(progress, "verifying") as (tell, stage),
        stopped_by_ctrl_c(until) as stop,
    ):

        def begins(name: str) -> None:
            tell(stages.index(name), len(stages))
            stage(name)

        try:
            verdict = run_until(work, deadline)
            tell(len(stages), len(stages))
        except TimeLimitError:
            verdict = dataclasses.replace(known[-1], reason=np.int32(Reason.TIME))
    if stop.by and verdict.status == Status.UNKNOWN:
        verdict = dataclasses.replace(verdict, reason=np.int32(Reason.TIME))
    return verdict


@own_settings()
def grow(
    answer: Certification,
    options: GrowthOptions | None = None,
    *,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> Growth:
    """Returns boxes around certified inputs that no face can leave by delta.

    The faces of every proved box move on, each on its own, until a counterexample at
    most delta beyond it stops them. What is returned is proved in float64, as what
    `certify` returns. A face for which no counterexample was found is reported as OPEN.
    Only certified inputs grow; the box of any other is the input itself.

    Args:
      answer: of `certify` with `record=True`, which knows the network and the question.
      options: objective and resolution; by default the given box grows evenly, and
        delta is 1e-3.
      time_limit: seconds after which the boxes that are proved by then are answered:
        they are smaller, and their faces OPEN. A compilation that runs then is left
        behind in a thread (`jaxcert.limit`).
      progress: told after every round how many inputs are done, and of how many; by
        any thread.

    Returns:
      A `Growth` with a row per input, also if the answer is that of one input.

    Raises:
      InputError: the answer was not recorded, or the network has other activations
        than ReLU.

    Source: no sound box has a better apothem than the one that `certify` brackets; a
    box that contains it and cannot grow is maximal by inclusion (DESIGN, "maximal
    box").

    Example:
      >>> import jax.numpy as jnp, jaxcert as jc
      >>> f = lambda w, x: w @ x
      >>> w = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> answer = jc.certify(f, w, jnp.array([0.75, 0.5]), record=True)
      >>> answer.box.lo.round(3).tolist(), answer.box.hi.round(3).tolist()
      ([0.625, 0.375], [0.875, 0.625])
      >>> box = jc.grow(answer).box
      >>> box.lo[0].round(3).tolist(), box.hi[0].round(3).tolist()
      ([0.625, 0.0], [1.0, 0.625])
    """
    deadline = deadline_after(time_limit)
    options = checked_options(options, GrowthOptions)
    certifier, x, answer = recorded_question(answer)
    parts, rows, size = [], [], certifier.options.batch_size
    for start in range(0, len(x), size):
        end = min(start + size, len(x))
        chosen = np.arange(start, end)

        def told(_: int, active: int, start: int = start, end: int = end) -> None:
            if progress is not None and time.monotonic() < deadline:
                progress(max(end - active, start), len(x))

        part = jax.tree.map(lambda v, chosen=chosen: v[chosen], answer)
        parts.append(
            certifier.grow(
                x[chosen], part, options, deadline, told, record=True,
                strict=time_limit is not None,
            )
        )  # fmt: skip
        rows.append(chosen)
        if progress is not None:
            progress(end, len(x))
    return Growth.joined(parts, rows)


@own_settings()
def dual_boxes(
    f: Callable[[Any, Any], Any],
    params: Any,
    domain: Box,
    labels: Sequence[int] | None = None,
    *,
    points: Float[ArrayLike, "n *d"] | None = None,
    options: DualOptions | None = None,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> DualBoxes:
    """Returns, for every class, a box that contains all of the domain that is in it.

    Beyond the outer box no point is of the class: that is proved. Witnesses of the
    class reach each face of the inner one. Every sound box of a class lies inside its
    dual box.

    Args:
      f: any JAX function of params and one input that returns logits, shape (K,);
        taken as it is now, see `certify`.
      params: its weights.
      domain: legal inputs, or the part of them that is of interest, of the shape of
        one input.
      labels: the classes; None for all.
      points: inputs near which to look for instances; they help, and prove nothing.
      options: tolerance, search for instances, branch and bound.
      time_limit: seconds after which the brackets that are known by then are answered;
        of a class that was not begun the outer box is the domain. A compilation that
        runs then is left behind in a thread (`jaxcert.limit`).
      progress: told after every class how many are done, and of how many.

    Returns:
      A `DualBox` per class, in the order of the labels, as one answer.

    Raises:
      InputError: the domain is empty, not finite, or does not fit the network; the
        network has no such class.
      UnsupportedError: f uses a primitive on x that has no rule.

    Source: Kotha et al., "Provably bounding neural network preimages", NeurIPS 2023,
    whose multipliers the bounds of narrow inputs use.

    Example:
      >>> import jax.numpy as jnp, jaxcert as jc
      >>> f = lambda w, x: w @ x
      >>> w = jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> (box,) = jc.dual_boxes(f, w, jc.Box.unit((2,)), [0])
      >>> box.outer.lo.round(2).tolist(), box.outer.hi.round(2).tolist()
      ([0.0, 0.0], [1.0, 0.5])
    """
    deadline = deadline_after(time_limit)
    options = checked_options(options, DualOptions)
    domain, f = _checked_box(domain, "domain"), pinned(f)
    check_not_flushed("the domain", domain.lo, domain.hi)
    _result_shape(f, params, domain.lo.shape, "domain")
    model = Model(f, params, domain.lo.shape)
    wanted = [] if labels is None else [int(label) for label in labels]
    classes = dual.checked_classes(model.program, wanted)
    wanted = list(range(classes)) if labels is None else wanted
    near = np.zeros((0, *domain.lo.shape)) if points is None else as_inputs(points)
    if near.shape[1:] != domain.lo.shape:
        raise InputError(
            f"points have shape {near.shape}; give a batch of inputs of shape "
            f"{domain.lo.shape}, that of the domain"
        )
    boxes = dual.dual_boxes(model, DualTask(domain, wanted, near), options, deadline)
    found: list[DualBox] = []
    with contextlib.suppress(TimeLimitError):
        # What is done by then is answered: the classes of narrow inputs end together.
        while len(found) < len(wanted) and (found or time.monotonic() < deadline):
            found.append(run_until(lambda: next(boxes), deadline))
            if progress is not None:
                progress(len(found), len(wanted))
    rest = wanted[len(found) :]
    unknown = [DualBox.unknown(c, domain, options.tolerance) for c in rest]
    return DualBoxes((*found, *unknown))
