"""Smoothed answers as files, which the checker derives again from their counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxcert.certificate.checked import write_checked
from jaxcert.checker.smoothed import SmoothedReport
from jaxcert.smoothing import lower_bound
from jaxcert.smoothing.answers import SmoothedCertificates
from jaxcert.smoothing.options import OracleError, SmoothingOptions

_EXACT = OracleError()


def write_smoothed(
    path: Path,
    found: SmoothedCertificates,
    options: SmoothingOptions,
    network: str,
    oracle: OracleError = _EXACT,
) -> SmoothedReport:
    """Writes answers into one file and returns what the checker says of them.

    A file that it does not accept is removed; one that claims nothing stays.

    Args:
      path: of the file, .npz; its folder is made if missing.
      found: what `conclude` said with these options and that oracle.
      options: noise, samples, alpha.
      network: sha256 of what was smoothed, hex.

    Raises:
      OSError: the folder cannot be written.
    """
    noise, count = options.noise, len(found.hits)
    head = {
        "version": 4,
        "claim": "smoothed",
        "network": {"sha256": network},
        "noise": type(noise).__name__.lower(),
        "scale": float(np.float32(noise.scale)),
        "alpha": float(options.alpha),
        "oracle_alpha": float(oracle.alpha),
        "looks": [int(n) for n in options.looks()],
    }
    p = lower_bound(found.hits, found.samples, options.alpha_per_look())
    arrays: dict[str, np.ndarray] = {
        "selected": np.asarray(found.selected, np.int32),
        "hits": np.asarray(found.hits, np.int32),
        "samples": np.asarray(found.samples, np.int32),
        "eps": np.array(oracle.of(count), np.float64),
        "p": np.asarray(p, np.float64),
        "radius": np.asarray(found.radius, np.float64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    report, _ = write_checked(path, head, arrays)
    assert isinstance(report, SmoothedReport)
    return report
