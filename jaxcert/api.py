"""certify and verify: the two questions a user asks, answered for arrays of inputs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jaxcert.bounds.crown import crown
from jaxcert.bounds.ibp import ibp
from jaxcert.box import Box, Rates
from jaxcert.certifier import (
    Certification,
    Certifier,
    CertifyOptions,
    check_inputs,
    check_labels,
)
from jaxcert.devices import float64, local_devices, spread
from jaxcert.errors import InputError
from jaxcert.model import Model
from jaxcert.oracle.attack import AttackOracle
from jaxcert.oracle.complete import decide
from jaxcert.oracle.incomplete import BoundOracle
from jaxcert.search import stages
from jaxcert.spec import Spec
from jaxcert.verdict import Status, Verdict


def certify(
    f: Callable[[Any, Any], Any],
    params: Any,
    x: Float[ArrayLike, "n *d"] | Float[ArrayLike, "*d"],
    labels: Int[ArrayLike, " n"] | None = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    domain: Box | tuple[ArrayLike, ArrayLike] | None = None,
    rates: Rates | None = None,
    tolerance: float = 1e-4,
    required_margin: float = 0.0,
    options: CertifyOptions | None = None,
) -> Certification:
    """Returns a bracket around the apothem of every input, with box and witness.

    The box is clip([x - r rates.lower, x + r rates.upper], domain) for the largest r
    that was proved; it was re-proved in float64 with a margin for rounding.

    Args:
      f: any JAX function of params and one input that returns logits, shape (K,).
      params: its weights, a pytree of arrays.
      x: one input, or a batch with a leading axis.
      labels: the class to keep; None for the predicted one.
      input_shape: shape of one input; needed only for a batch whose inputs f does not
        take apart from one input of that shape (by default x is a batch iff f accepts
        x[0]).
      domain: legal inputs, a Box or (lower, upper); default [0, 1]^d.
      rates: how fast each face moves with the radius; default 1.
      tolerance: how finely each end of the bracket is searched, in radius units.
      required_margin: m, asks margin > m; default 0.
      options: oracle, candidates, batch size, attack.

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
    x = np.asarray(x, np.float64)
    single, shape = _input_shape(f, params, x, input_shape)
    certifier = Certifier(
        f, params, domain, shape, rates=rates, tolerance=tolerance,
        required_margin=required_margin, options=options,
    )  # fmt: skip
    if single:
        x = x[None]
        labels = None if labels is None else np.reshape(np.asarray(labels), (1,))
    labels = None if labels is None else np.asarray(labels)
    if labels is not None:
        check_labels(labels, len(x), certifier.num_classes)
    check_inputs(x, certifier.domain)
    if not len(x):
        raise InputError("there is no input to certify: x has length 0")
    size = certifier.options.batch_size

    def work(start: int, until: Any) -> Certification:
        chosen = slice(start, start + size)
        keep = None if labels is None else labels[chosen]
        return certifier.batch(x[chosen], keep, until)

    starts = range(0, len(x), size)
    with contextlib.closing(spread(work, starts, local_devices())) as answers:
        joined = jax.tree.map(lambda *v: np.concatenate(v), *answers)
    return jax.tree.map(lambda v: v[0], joined) if single else joined


def _input_shape(
    f: Callable, params: Any, x: np.ndarray, given: tuple[int, ...] | None
) -> tuple[bool, tuple[int, ...]]:
    """Returns (whether x is one input, the shape of one input)."""
    if given is not None:
        return x.shape == tuple(given), tuple(given)

    def accepts(shape: tuple[int, ...]) -> bool:
        try:
            result = jax.eval_shape(f, params, jax.ShapeDtypeStruct(shape, jnp.float32))
        except (TypeError, ValueError):
            return False
        return isinstance(result, jax.ShapeDtypeStruct) and len(result.shape) == 1

    if x.ndim >= 1 and accepts(x.shape[1:]):
        return False, x.shape[1:]
    if accepts(x.shape):
        return True, x.shape
    raise InputError(
        f"the network takes neither one input of shape {x.shape} nor a batch of "
        f"{x.shape[1:]}: give x the network's input shape, with or without a leading "
        "batch axis"
    )


def _check_fit(
    f: Callable, params: Any, lo: np.ndarray, hi: np.ndarray, spec: Spec
) -> None:
    """Raises InputError unless box, network and spec fit together."""
    if lo.shape != hi.shape:
        raise InputError(
            f"the box has a lower face of shape {lo.shape} and an upper one of "
            f"{hi.shape}: give both the shape of one input"
        )
    try:
        result = jax.eval_shape(f, params, jax.ShapeDtypeStruct(lo.shape, jnp.float32))
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the network does not take one input of shape {lo.shape}, the shape of "
            f"the box ({reason})"
        ) from error
    outputs = np.shape(spec.coefficients)[-1]
    if getattr(result, "shape", None) != (outputs,):
        raise InputError(
            f"the spec speaks of {outputs} outputs, but the network returns shape "
            f"{getattr(result, 'shape', None)}: give a spec with one column per output"
        )
    if set(np.unique(spec.clause)) != set(range(spec.num_clauses)):
        raise InputError(
            f"the spec's rows must name every clause of 0 .. {spec.num_clauses - 1} "
            "and no other"
        )


def verify(
    f: Callable[[Any, Any], Any],
    params: Any,
    box: Box,
    spec: Spec,
    *,
    options: CertifyOptions | None = None,
) -> Verdict:
    """Returns PROVED, REFUTED with a witness, or UNKNOWN for one box and one spec.

    The bounds are asked first, then the attack; both in float64, each with a margin for
    rounding.

    Args:
      f: any JAX function of params and one input that returns a vector.
      params: its weights.
      box: the set of inputs, of the shape of one input.
      spec: what must hold for every output over the box.
      options: oracle and attack.

    Raises:
      InputError: the box is empty or not finite, or the spec does not fit the network.
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
    options = options or CertifyOptions()
    lo: Any = np.asarray(box.lo, np.float64)
    hi: Any = np.asarray(box.hi, np.float64)
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        raise InputError("the box has NaN or infinite faces: give finite ones")
    _check_fit(f, params, lo, hi, spec)
    if (lo > hi).any():
        raise InputError(
            f"the box is empty: lo > hi for {int((lo > hi).sum())} of {lo.size} "
            "features"
        )
    model = Model(f, params, lo.shape)
    method = crown(model.f) if options.oracle == "crown" else ibp(model.f)
    spec64 = jax.tree.map(lambda v: np.asarray(v, np.float64), spec)
    spec64 = dataclasses.replace(spec64, clause=np.asarray(spec.clause, np.int32))
    with float64():
        arguments = model.double, Box(lo, hi), spec64
        bounded = jax.device_get(stages.ask(BoundOracle(method), *arguments))
        if bounded.status == Status.PROVED:
            return bounded
        if options.attack is not None:
            attacker = AttackOracle(model.f, options.attack)
            attacked = jax.device_get(stages.ask(attacker, *arguments))
            if attacked.status == Status.REFUTED:
                return attacked
        if options.oracle == "complete":
            return decide(model, Box(lo, hi), spec64, options.branch)[0]
    return bounded
