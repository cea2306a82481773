"""Certificates of feature-convex classifiers, which the checker derives again.

As in `store.py`, a file stays only if the independent checker accepts it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from jaxcert.certificate.checked import write_checked
from jaxcert.certificate.network_file import network_file
from jaxcert.checker.convex import ConvexReport
from jaxcert.convex import ConvexClassifier, Radii, networks
from jaxcert.convex.features import KINDS
from jaxcert.devices import float64
from jaxcert.errors import InputError, UnsupportedError
from jaxcert.trace.tracing import program_as_given

_NORMS = {1.0: "l1", 2.0: "l2", math.inf: "linf"}
_LARGEST = 2.0**100  # radius that is claimed, where f hardly changes at all
# How much of all radii may be given up, step by step, until the checker agrees.
_SHRINK = (0.0, 2.0**-40, 2.0**-30, 2.0**-20)


@float64()
def write_radii(
    path: Path, classifier: ConvexClassifier, x: Float[ArrayLike, "n *d"], found: Radii
) -> tuple[Path | None, ConvexReport]:
    """Writes the radii of inputs into one file, and the network beside it.

    Returns the file, or None if the checker does not accept it, and what it says. Where
    rounding stands in its way, all radii shrink by the least that makes it pass. Norms
    other than l1, l2 and linf are left out.

    Args:
      path: of the file, .npz; its folder is made if missing.
      classifier: f.
      x: the inputs, as they were certified.
      found: what `certified_radii` returned of them.

    Raises:
      UnsupportedError: a feature map of the user's, or none of the norms; or see
        `network_file`.
      InputError: `found` is not of as many inputs.
      OSError: the folder cannot be written.
    """
    name = getattr(classifier.features, "name", "custom")
    columns = [k for k, p in enumerate(found.norms) if p in _NORMS]
    if name not in KINDS or not columns:
        raise UnsupportedError(
            f"certificates exist for the feature maps {', '.join(KINDS)} and the norms "
            f"{', '.join(_NORMS.values())}"
        )
    values = np.asarray(x, np.float64)
    if len(values) != len(found.radius):
        raise InputError(f"{len(values)} inputs, but radii of {len(found.radius)}")

    def g(params: Any, z: jax.Array) -> jax.Array:
        return networks.apply(classifier.architecture, params, z)[None]

    # In float64, as they were certified: batch norms compute weights from weights.
    double = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), classifier.params)
    feature = np.zeros(classifier.architecture.feature_shape, np.float64)
    network = network_file(program_as_given(g, double, feature), double)
    network.write(path.parent)
    head = {
        "version": 9,
        "claim": "convex",
        "network": network.reference,
        "features": name,
        "shift": float(classifier.shift),
        "norms": [_NORMS[found.norms[k]] for k in columns],
    }
    mu = np.broadcast_to(
        np.asarray(classifier.features.mu, np.float64),  # type: ignore[attr-defined]
        classifier.input_shape,
    )
    told: Any = None
    radius = np.minimum(found.radius[:, columns], _LARGEST)
    for share in _SHRINK:
        arrays: dict[str, np.ndarray] = {
            "convex_x": values.reshape(len(values), -1),
            "convex_mu": np.ascontiguousarray(mu).reshape(-1),
            "convex_radius": radius * (1 - share),
        }
        told, _ = write_checked(path, head, arrays)
        assert isinstance(told, ConvexReport)
        if told.holds:
            return path, told
    return None, told
