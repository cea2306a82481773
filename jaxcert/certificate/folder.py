"""write_certificates: the certificates of an answer, in a folder."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jaxcert.certificate.grown import GrownClaim, GrownWriter
from jaxcert.certificate.store import Claim, Written
from jaxcert.certification import Certification, Outcome, Progress
from jaxcert.certifier import recorded_question
from jaxcert.errors import InputError
from jaxcert.limit import deadline_after
from jaxcert.search.growth import Growth
from jaxcert.trace.pinned import own_settings


@own_settings()
def write_certificates(
    folder: str | os.PathLike[str],
    answer: Certification,
    grown: Growth | None = None,
    *,
    names: Sequence[str] | None = None,
    arithmetic: Literal["real", "float32"] = "real",
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> list[Written | None]:
    """Returns what was written for every input: None where no box was proved.

    A certificate stays only if `jaxcert.checker`, which shares no code with the search,
    accepts it: what it checks is the proof, in outward rounded float64. Where rounding
    stands in its way, the box shrinks by the least that makes it pass, and
    `Written.claim` has that box. Where no proof is accepted, `Written.path` is None.

    Args:
      folder: gets a file per certified input, and the network; made if missing.
      answer: of `certify` with `record=True`.
      grown: of `grow` of this answer; then certificates are of the grown boxes, and of
        the counterexample that stops each face. One whose proof is not found holds the
        faces alone, and its report is not accepted. They want a folder of their own:
        their files have the same names.
      names: of the inputs, of which no two are equal; files are called after them. By
        default input-0, input-1, ...
      arithmetic: "real", or "float32" for every float32 evaluation of the network.
      time_limit: seconds after which no further certificate is begun: None stands for
        those that are missing.
      progress: told after every input how many are done, and of how many.

    Raises:
      InputError: the answer was not recorded, the names or grown boxes are not those
        of its inputs, or the arithmetic is unknown.
      UnsupportedError: the network is not made of affine maps and ReLUs, or is too
        large.
      OSError: the folder cannot be written.

    Example:
      >>> import tempfile, jax.numpy as jnp, jaxcert as jc
      >>> f = lambda w, x: w @ x
      >>> w = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> answer = jc.certify(f, w, jnp.array([0.75, 0.25]), record=True)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     (written,) = jc.write_certificates(folder, answer)
      >>> written.path.name, written.report.accepted
      ('input-0.npz', True)
    """
    deadline = deadline_after(time_limit)
    certifier, x, answer = recorded_question(answer)
    count = len(x)
    names = _checked_names(names, count)
    if grown is not None and certifier.norm != "linf":
        raise InputError(
            f"the answer is about {certifier.norm} balls, and boxes grew from another "
            "one: pass the answer that jc.grow was given"
        )
    if grown is not None and len(grown.points) != count:
        raise InputError(
            f"grown has {len(grown.points)} boxes, the answer {count} inputs: pass "
            "what jc.grow returned of this answer"
        )
    if arithmetic not in ("real", "float32"):
        raise InputError(f"arithmetic is {arithmetic!r}; choose real or float32")
    writer = GrownWriter.into(Path(folder), certifier, arithmetic)
    certified = answer.outcome == Outcome.CERTIFIED
    written: list[Written | None] = [None] * count
    for row in range(count):
        if certified[row] and time.monotonic() < deadline:
            if grown is None:
                claim = Claim.of_answer(names[row], x[row], row, answer)
                proof = answer.recorded[row].proof  # type: ignore[index]
                written[row] = writer.write(claim, proof, deadline)
            else:
                full = GrownClaim.of(names[row], x[row], row, answer, grown)
                written[row] = writer.write_grown(full, grown.proofs[row], deadline)
        if progress is not None:
            progress(row + 1, count)
    return written


def _checked_names(names: Sequence[str] | None, count: int) -> list[str]:
    """Returns one name per input.

    Raises:
      InputError: they are no texts, too few or too many, or not different.
    """
    if names is None:
        return [f"input-{row}" for row in range(count)]
    names = list(names)
    if len(names) != count or not all(isinstance(name, str) for name in names):
        raise InputError(f"names must be {count} texts, one per input")
    (name, often), *_ = Counter(names).most_common(1)
    if often > 1:
        raise InputError(f"{often} inputs are called {name!r}: name each differently")
    return names
