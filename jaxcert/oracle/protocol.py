"""Oracle: what every file of this package offers, and what every search asks."""

from __future__ import annotations

from typing import Any, Protocol

from jaxtyping import Array, Float

from jaxcert.ball import Region
from jaxcert.spec import Spec
from jaxcert.verdict import Verdict


class Oracle(Protocol):
    """Answers PROVED, REFUTED with a witness, or UNKNOWN with a reason.

    An oracle is hashable (it is a static argument of compiled searches), is written for
    one box, and is batched with `jax.vmap`.
    """

    def __call__(
        self, params: Any, box: Region, spec: Spec, hint: Float[Array, "*d"]
    ) -> Verdict:
        """Returns the verdict on: does the spec hold at every point of the box?

        Args:
          params: the network's weights.
          box: the set of inputs.
          spec: what must hold.
          hint: a point near which a violation may lie, not necessarily in the box.
        """
        ...
