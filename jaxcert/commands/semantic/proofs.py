"""Writing the certificates of a semantic run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from jaxcert.certificate.semantic import ChangeClaim, write_change
from jaxcert.model import Model
from jaxcert.runs.files import file_stem
from jaxcert.semantic.changes import InputFamily

PROOFS = "proofs"
# After which no proof of one input is looked for.
_SECONDS = 120.0


def write_proofs(
    folder: Path,
    model: Model,
    families: Mapping[str, InputFamily],
    records: Sequence[Mapping[str, Any]],
    x: Mapping[str, np.ndarray],
) -> str:
    """Writes a certificate per certified input; returns what to say of them.

    Args:
      folder: where they go.
      model: the network.
      families: the changes by name.
      records: the lines of the run; those of other changes or inputs are left out.
      x: inputs by name.

    Raises:
      UnsupportedError: the network is not one that certificates exist for.
      OSError: the folder cannot be written.
    """
    checked, wanted, seconds = 0, 0, 0.0
    for record in records:
        change, name = record["family"], record["input"]
        if record["status"] != "certified" or change not in families or name not in x:
            continue
        wanted += 1
        claim = ChangeClaim(
            change, families[change], x[name], int(record["label"]),
            float(record["lower"]), np.array(record["witness"], np.float64),
        )  # fmt: skip
        path = folder / f"{file_stem(f'{change}-{name}')}.npz"
        made = write_change(path, model, claim, time.monotonic() + _SECONDS)
        if made.path is None or made.report is None:
            logging.warning(
                "%s of %s has no certificate: %s", change, name, made.refused
            )
            continue
        checked += 1
        seconds += made.report.seconds
    return (
        f"certificates: {checked} of {wanted} certified inputs, accepted by the "
        f"independent\nchecker in {seconds:.1f} s; check again: jaxcert check {folder}"
    )
