"""certify and verify: the two questions a user asks, answered for arrays of inputs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jaxcert.box import Box, Rates
from jaxcert.certifier import (
    Certification,
    Certifier,
    CertifyOptions,
    check_inputs,
    check_labels,
)
from jaxcert.checks import as_inputs, as_labels, checked_options
from jaxcert.devices import local_devices, spread
from jaxcert.errors import InputError
from jaxcert.limit import TimeLimitError, deadline_after, run_until
from jaxcert.model import Model
from jaxcert.oracle.decide import Effort, decide
from jaxcert.shapes import expects_batch, find_input, try_shape
from jaxcert.spec import Spec, checked_spec
from jaxcert.trace.pinned import own_settings, pinned
from jaxcert.verdict import Reason, Verdict, unknown


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
    tolerance: float = 1e-4,
    required_margin: float = 0.0,
    options: CertifyOptions | None = None,
    time_limit: float | None = None,
) -> Certification:
    """Returns a bracket around the apothem of every input, with box and witness.

    The box is clip([x - r rates.lower, x + r rates.upper], domain) for the largest r
    that was proved; it was re-proved in float64 with a margin for rounding.

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
      tolerance: how finely each end of the bracket is searched, in radius units.
      required_margin: m, asks margin > m; default 0.
      options: oracle, candidates, batch size, attack.
      time_limit: seconds after which what is known by then is answered: brackets are
        wider, and inputs that no stage was done for are UNKNOWN. A compilation that
        runs then is left behind in a thread (`jaxcert.limit`).

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
    x, f = as_inputs(x), pinned(f)
    keep = None if labels is None else as_labels(labels)
    single, shape = find_input(f, params, x, keep, input_shape)
    certifier = Certifier(
        f, params, domain, shape, rates=rates, tolerance=tolerance,
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
        own, strict = None if keep is None else keep[chosen], time_limit is not None
        return certifier.batch(x[chosen], own, until, strict=strict)

    starts, devices = range(0, len(x), size), local_devices()
    with contextlib.closing(spread(work, starts, devices, deadline)) as answers:
        joined = jax.tree.map(lambda *v: np.concatenate(v), *answers)
    return jax.tree.map(lambda v: v[0], joined) if single else joined


def _checked_box(box: Any) -> Box:
    """Returns the box in numpy float64.

    Raises:
      InputError: it is no Box, ragged, not finite or empty.
    """
    if not isinstance(box, Box):
        raise InputError(
            f"box must be a Box, got {type(box).__name__}: pass jc.Box(lower, upper)"
        )
    lo: Any = as_inputs(box.lo)
    hi: Any = as_inputs(box.hi)
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        raise InputError("the box has NaN or infinite faces: give finite ones")
    if lo.shape != hi.shape:
        raise InputError(
            f"the box has a lower face of shape {lo.shape} and an upper one of "
            f"{hi.shape}: give both the shape of one input"
        )
    if (lo > hi).any():
        raise InputError(
            f"the box is empty: lo > hi for {int((lo > hi).sum())} of {lo.size} "
            "features"
        )
    return Box(lo, hi)


def _check_fit(f: Callable, params: Any, shape: tuple[int, ...], spec: Spec) -> None:
    """Raises InputError unless network and spec fit inputs of that shape."""
    trial = try_shape(f, params, shape)
    hint = "" if trial.fits else expects_batch(f, params, shape)
    if trial.result is None:
        raise InputError(
            f"the network does not take one input of shape {shape}, the shape of "
            f"the box ({trial.reason}){hint}"
        )
    outputs = spec.coefficients.shape[-1]
    if trial.result != (outputs,):
        raise InputError(
            f"the spec speaks of {outputs} outputs, but the network returns shape "
            f"{trial.result}: give a spec with one column per output{hint}"
        )


@own_settings()
def verify(
    f: Callable[[Any, Any], Any],
    params: Any,
    box: Box,
    spec: Spec,
    *,
    options: CertifyOptions | None = None,
    time_limit: float | None = None,
) -> Verdict:
    """Returns PROVED, REFUTED with a witness, or UNKNOWN for one box and one spec.

    The bounds are asked first, then the attack; both in float64, each with a margin for
    rounding. Points that lie within it are judged exactly: a tie is a counterexample.

    Args:
      f: any JAX function of params and one input that returns a vector; taken as it
        is now, see `certify`.
      params: its weights.
      box: the set of inputs, of the shape of one input.
      spec: what must hold for every output over the box.
      options: oracle and attack.
      time_limit: seconds after which the answer is UNKNOWN, with the bound that is
        known by then. A compilation that runs then is left behind in a thread
        (`jaxcert.limit`).

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
    box, spec64 = _checked_box(box), checked_spec(spec)
    f = pinned(f)
    _check_fit(f, params, box.lo.shape, spec64)
    model = Model(f, params, box.lo.shape)
    bounds = "crown" if options.oracle == "crown" else "ibp"
    branch = options.branch if options.oracle == "complete" else None
    effort = Effort(bounds, options.attack, branch)  # type: ignore[arg-type]
    known = [unknown(np.asarray(box.lo))]

    def work() -> Verdict:
        with own_settings():
            found = decide(model, box, spec64, effort, deadline, told=known.append)
        return found.verdict

    try:
        return run_until(work, deadline)
    except TimeLimitError:
        return dataclasses.replace(known[-1], reason=np.int32(Reason.TIME))
